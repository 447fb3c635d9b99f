import itertools
import subprocess
import sys

import pytest

from tasks.data.examples import DatasetError, Example


def test_content_hash_is_the_same_in_another_process():
    example = Example("instruction", "naïve café 🦊?", "a\nb")
    program = (
        "from tasks.data.examples import Example\n"
        f"print(Example('instruction', {example.prompt!r}, {example.answer!r}).content_hash)"
    )
    other = subprocess.run([sys.executable, "-X", "utf8", "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == example.content_hash
    assert len(example.content_hash) == 64


def test_content_hash_tells_apart_rows_whose_characters_run_together():
    rows = [
        Example("instruction", "a", "bc"),
        Example("instruction", "ab", "c"),
        Example("instruction", "", "abc"),
        Example("text", "", "abc"),
        Example("instruction", 'a", "b', "c"),
        Example("instruction", "a", 'b", "c'),
        Example("instruction", "\\ud83e", "c"),
        Example("instruction", "🦊", "c"),
    ]
    for one, other in itertools.combinations(rows, 2):
        assert one.content_hash != other.content_hash


def test_text_with_a_prompt_is_refused():
    with pytest.raises(DatasetError, match="a plain text has no prompt"):
        Example("text", "question", "answer")


@pytest.mark.parametrize(("prompt", "answer", "name"), [("ab\ud83e", "", "prompt"), ("", "ab\ud83e", "answer")])
def test_half_a_surrogate_pair_is_refused_with_its_place(prompt, answer, name):
    with pytest.raises(DatasetError, match=f"the {name} holds half a surrogate pair at character 2"):
        Example("instruction", prompt, answer)

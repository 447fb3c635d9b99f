"""Words by script: ASCII as rouge_score splits it, and each character where there are no spaces."""

import pytest
from rouge_score.tokenizers import DefaultTokenizer

from tasks.metrics.words import separated, words

ASCII = "Serialize ``obj`` to a JSON-formatted str; it's 2 x_y\tlines.\nDone"


def test_ascii_has_the_words_of_rouge_score_and_stays_as_it_is():
    assert words(ASCII) == DefaultTokenizer().tokenize(ASCII)
    assert separated(ASCII) == ASCII
    assert separated("naïve Привет 🦊") == "naïve Привет 🦊"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("我在学习 Python3。", ["我", "在", "学", "习", "python3"]),
        ("スーパーで買う", ["ス", "ー", "パ", "ー", "で", "買", "う"]),
        ("กินข้าว", ["กิ", "น", "ข้", "า", "ว"]),
        ("한국어 공부", ["한국어", "공부"]),
        ("Größe, ÉCOLE", ["größe", "école"]),
        ("हिन्दी", ["हिन्दी"]),
        ("", []),
    ],
)
def test_words_of_other_scripts(text, expected):
    assert words(text) == expected


def test_full_width_punctuation_is_separated_too():
    assert separated("好、ok").split() == ["好", "、", "ok"]

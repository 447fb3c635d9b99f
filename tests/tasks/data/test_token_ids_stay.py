import pytest

from tasks.data.examples import Example
from tasks.data.fingerprint import dataset_fingerprint, tokenizer_content
from tasks.data.rows import ListedExamples
from tasks.data.tokenizing import tokenize

ROWS = [
    Example.question("Who are you?", "A fox 🦊."),
    Example.question(" q\n", "  a \n\n"),
    Example.question("", ""),
    Example(text="The quick brown fox"),
]
# The figures are those of version 1.0.0: where they change, FORMAT_VERSION must be raised, which ends paused jobs.
CHAT = [
    "1 86 84 272 200 316 80 295 70 222 90 80 86 32 0 200 1 66 84 84 333 66 79 85 200 34 386 222 174 255 101 234 15 0",
    "1 86 84 272 200 222 82 200 0 200 1 66 84 84 333 66 79 85 200 222 260 222 200 200 0",
    "1 86 84 272 200 0 200 1 66 84 84 333 66 79 85 200 0",
    "280 371 398 301 342 79 386 0",
]
PLAIN = [
    "315 79 294 69 221 89 79 85 31 199 33 385 221 173 254 100 233 14 0",
    "221 81 199 199 221 259 221 199 199 0",
    "199 0",
    "279 370 397 300 341 78 385 0",
]


@pytest.mark.parametrize(
    ("name", "token_ids", "prompt_lengths", "fingerprint"),
    [
        ("chat_tokenizer", CHAT, [25, 19, 16, 0], "c32caaad85868f8cc19ec50b5f5b8cf1c8bfdea17df91a177aab8659d4d42cb2"),
        ("plain_tokenizer", PLAIN, [10, 4, 1, 0], "6dae42b5344a65c57f9e747d18141f92a5bdbcb01bb43b41187b7c49bf9f8bed"),
    ],
)
def test_questions_and_texts_have_the_ids_that_paused_jobs_began_with(
    request, name, token_ids, prompt_lengths, fingerprint
):
    tokenizer = request.getfixturevalue(name)
    rows = [tokenize(row, tokenizer, 512) for row in ROWS]
    assert [" ".join(map(str, row.input_ids)) for row in rows] == token_ids
    assert [row.prompt_length for row in rows] == prompt_lengths
    for row in rows:
        assert row.labels == [-100] * row.prompt_length + row.input_ids[row.prompt_length :]
    assert dataset_fingerprint(ListedExamples(ROWS).hashes, tokenizer_content(tokenizer), 64, 0.1) == fingerprint

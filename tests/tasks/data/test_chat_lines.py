"""Rows written as chat lines are read back as the same rows."""

import json

from tasks.data.chat_lines import chat_line, chat_lines
from tasks.data.examples import Example
from tests.tasks.data.reading.written_files import read_examples

CALL = {"type": "function", "id": "1", "function": {"name": "add", "arguments": {"a": 1}}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
CONVERSATION = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "naïve 🦊\u2028"},
        {"role": "assistant", "content": "No.", "weight": 0},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "2", "tool_call_id": "1", "name": "add"},
        {"role": "assistant", "content": "Two."},
    ],
    "tools": TOOLS,
}


def test_conversations_with_everything_and_plain_questions_come_back(tmp_path):
    path = tmp_path / "rows"
    question = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]}
    path.write_text("".join(json.dumps(row) + "\n" for row in (CONVERSATION, question)))
    examples = read_examples(path)
    assert len({example.content_hash for example in examples}) == 2
    lines = b"".join(chat_lines(examples))
    assert [json.loads(line) for line in lines.splitlines()] == [CONVERSATION, question]
    path.write_bytes(lines)
    assert read_examples(path) == examples


def test_plain_texts_come_back(tmp_path):
    example = Example(text="one\n\ntwo")
    (tmp_path / "rows").write_bytes(chat_line(example) * 2)
    assert read_examples(tmp_path / "rows") == [example, example]

"""The row formats of data sets: detects the one of a file, and converts its rows to examples."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tasks.data.examples import DatasetError, Example, Message
from tasks.data.reading.records import described, shortened
from tasks.data.reading.turns import WEIGHTS, read_tools, read_turns, read_weight
from tasks.data.segments import CONTEXT


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape as one file has it."""

    name: str
    columns: Mapping[str, str]
    """For each field of the shape that the file can have, its column."""


def shape_of(columns: Collection[str], mapping: Mapping[str, str] | None = None) -> Shape:
    """Return the first shape that a file with these columns fits.

    `mapping` says which column holds a field, {"question": "Frage"}; it also narrows the choice to the shapes that have
    all its fields. Raises DatasetError, listing the columns and the shapes, if none fits.
    """
    wanted = {_OTHER_NAMES.get(field, field): column for field, column in (mapping or {}).items()}
    for field, column in wanted.items():
        if field not in FIELDS:
            raise DatasetError(f"{shortened(field)} is no field; the fields are {', '.join(sorted(FIELDS))}")
        if column not in columns:
            raise DatasetError(f"there is no column {shortened(column)} for {field}; {_listed(columns)}")
    for name, required, optional, _ in _SHAPES:
        if not wanted.keys() <= {*required, *optional}:
            continue
        found = {field: wanted.get(field) or _column(field, columns) for field in (*required, *optional)}
        if name in _CHATS and _WEIGHT not in wanted and found[_WEIGHT] not in columns:
            found[_WEIGHT] = next((other for other in WEIGHTS if other in columns), _WEIGHT)
        if all(found[field] in columns for field in required):
            return Shape(name, found)
    shapes = "; ".join(" + ".join(required) for _, required, _, _ in _SHAPES)
    raise DatasetError(f"no shape fits: {_listed(columns)}. Accepted are {shapes}, or name the columns of such fields")


def to_example(row: Mapping[str, Any], shape: Shape) -> Example:
    """Return the row's example, its texts unchanged. Raises DatasetError naming the field and what it accepts."""
    example = _READERS[shape.name](row, shape.columns)
    column = shape.columns[_WEIGHT]
    if column in WEIGHTS and column not in row and shape.name in _CHATS:  # the first rows had none
        column = next((other for other in WEIGHTS if other in row), column)
    value = row.get(column)
    if value is None or (weight := _row_weight(value, column)) == 1:
        return example
    return replace(example, weight=weight)


def _row_weight(value: Any, column: str) -> float:
    if isinstance(value, str):  # a cell of CSV
        value = _number(value)
    if value is None:
        return 1.0
    if (weight := read_weight(value, column)) == 0:
        raise DatasetError(f"{column} is 0, so there is nothing to learn; leave the row out")
    return weight


def _number(cell: str) -> Any:
    try:
        return float(cell) if cell else None
    except ValueError:
        return cell


def _messages(row: Mapping[str, Any], columns: Mapping[str, str]) -> Example:
    column = columns["messages"]
    return Example(read_turns(_required(row, column), column), tools=_tools(row, columns))


def _conversations(row: Mapping[str, Any], columns: Mapping[str, str]) -> Example:
    column = columns["conversations"]
    return _conversation(row, columns, read_turns(_required(row, column), column))


def _alpaca(row: Mapping[str, Any], columns: Mapping[str, str]) -> Example:
    prompt = _text(row, columns["instruction"])
    if addition := _optional_text(row, columns["input"]):
        prompt = f"{prompt}\n\n{addition}" if prompt else addition
    turns = [*_history(row.get(columns["history"]), columns["history"]), Message("user", prompt)]
    return _conversation(row, columns, (*turns, Message("assistant", _text(row, columns["output"]))))


def _history(value: Any, column: str) -> list[Message]:
    """Return the earlier questions and answers; they are learned too, as in LLaMA-Factory."""
    if value is None or value == "":
        return []
    turns = []
    for pair in value if isinstance(value, list) else [None]:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise DatasetError(f"{column} is {described(value)}; a list of [question, answer] is accepted")
        turns += [Message("user", pair[0]), Message("assistant", pair[1])]
    return turns


def _prompt_completion(row: Mapping[str, Any], columns: Mapping[str, str]) -> Example:
    prompt, completion = (_required(row, columns[field]) for field in ("prompt", "completion"))
    if isinstance(prompt, str) and isinstance(completion, str):
        return _asked(row, columns, prompt, completion)
    before = read_turns(prompt, columns["prompt"]) if isinstance(prompt, list) else ()
    after = read_turns(completion, columns["completion"]) if isinstance(completion, list) else ()
    # Only the completion is learned, as in TRL.
    turns = tuple(
        replace(turn, learned=turn.role != "assistant", weight=1.0)
        for turn in before or (Message("user", _text(row, columns["prompt"])),)
    )
    return _conversation(row, columns, turns + (after or (Message("assistant", _text(row, columns["completion"])),)))


def _question_answer(row: Mapping[str, Any], columns: Mapping[str, str]) -> Example:
    return _asked(row, columns, _text(row, columns["question"]), _text(row, columns["answer"]))


def _plain_text(row: Mapping[str, Any], columns: Mapping[str, str]) -> Example:
    before, after = (_optional_text(row, columns[field]) for field in ("text_before", "text_after"))
    return Example(text=_text(row, columns["text"]), before=before[-CONTEXT:], after=after[:CONTEXT])


def _asked(row: Mapping[str, Any], columns: Mapping[str, str], prompt: str, answer: str) -> Example:
    return _conversation(row, columns, (Message("user", prompt), Message("assistant", answer)))


def _conversation(row: Mapping[str, Any], columns: Mapping[str, str], turns: tuple[Message, ...]) -> Example:
    """Return the turns, led by the system message if the row has one in a column of its own."""
    if system := _optional_text(row, columns["system"]):
        if turns[0].role == "system" and turns[0].content != system:
            raise DatasetError(f"the row has two system messages, one in {columns['system']}; keep one")
        turns = turns if turns[0].role == "system" else (Message("system", system), *turns)
    return Example(turns, tools=_tools(row, columns))


def _tools(row: Mapping[str, Any], columns: Mapping[str, str]) -> str | None:
    value = row.get(columns["tools"])
    return None if value is None else read_tools(value, columns["tools"])


def _required(row: Mapping[str, Any], column: str) -> Any:
    if column not in row:
        raise DatasetError(f"the row has no {column}; {_listed(row)}")
    return row[column]


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if isinstance(value, str):
        return value
    raise DatasetError(f"{column} is {described(_required(row, column))}; a text is accepted")


def _optional_text(row: Mapping[str, Any], column: str) -> str:
    return "" if row.get(column) is None else _text(row, column)


def _column(field: str, columns: Collection[str]) -> str:
    """Return the column for a field that was not mapped: of its own name, or of the other one it is known by."""
    others = (other for other, name in _OTHER_NAMES.items() if name == field and other in columns)
    return field if field in columns else next(others, field)


def _listed(columns: Collection[str]) -> str:
    names = [shortened(column) for column in list(columns)[:20]]
    more = f" and {len(columns) - len(names)} more" if len(columns) > len(names) else ""
    return f"the columns are {', '.join(names)}{more}" if names else "there are no columns"


PROMPT_COMPLETION = "prompt/completion"
TURNS = "turns"
"""What prompts and completions are where they are lists of messages, and no texts."""

_Reader = Callable[[Mapping[str, Any], Mapping[str, str]], Example]
_OTHER_NAMES = {"response": "completion"}
_WEIGHT = "loss_weight"
"""Field of every shape. Beside a list of turns `weight` is the same, as others have it; among other columns, a weight
may be anything's."""
_CHATS = ("messages", "conversations")

# Name, required and optional fields, in the order in which they are tried.
_SHAPES: tuple[tuple[str, tuple[str, ...], tuple[str, ...], _Reader], ...] = (
    ("messages", ("messages",), ("tools", _WEIGHT), _messages),
    ("conversations", ("conversations",), ("system", "tools", _WEIGHT), _conversations),
    ("alpaca", ("instruction", "output"), ("input", "system", "history", "tools", _WEIGHT), _alpaca),
    (PROMPT_COMPLETION, ("prompt", "completion"), ("system", "tools", _WEIGHT), _prompt_completion),
    ("question/answer", ("question", "answer"), ("system", "tools", _WEIGHT), _question_answer),
    ("text", ("text",), ("text_before", "text_after", _WEIGHT), _plain_text),
)
_READERS = {name: reader for name, _, _, reader in _SHAPES}
FIELDS = frozenset(field for _, required, optional, _ in _SHAPES for field in (*required, *optional))
"""The fields of all shapes, which a mapping of columns may name."""
COLUMN_NAMES = FIELDS | _OTHER_NAMES.keys()
"""The names of columns that are understood without a mapping."""

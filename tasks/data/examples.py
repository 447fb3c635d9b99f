"""One training example: a question with its answer, or a plain text."""

import hashlib
import json
from dataclasses import dataclass
from typing import Literal


class DatasetError(ValueError):
    """The data cannot be used as it is; the sentence says why and what to do."""


@dataclass(frozen=True, slots=True)
class Example:
    """A row to train or evaluate on; of a text, `prompt` is empty and `answer` is the text.

    Raises DatasetError for a text with a prompt, and for a string that UTF-8 cannot hold (JSON can smuggle in half
    a surrogate pair, which would otherwise fail much later, inside a tokenizer).
    """

    kind: Literal["instruction", "text"]
    prompt: str
    answer: str

    def __post_init__(self) -> None:
        if self.kind == "text" and self.prompt:
            raise DatasetError("a plain text has no prompt; give an instruction, or leave the prompt empty")
        for name, value in (("prompt", self.prompt), ("answer", self.answer)):
            try:
                value.encode("utf-8")
            except UnicodeEncodeError as error:
                raise DatasetError(
                    f"the {name} holds half a surrogate pair at character {error.start}; send whole characters"
                ) from error

    @property
    def content_hash(self) -> str:
        """SHA-256 of kind, prompt and answer, as 64 hex digits; the same on every machine and in every process.

        The three are hashed as a JSON list, so that no two different rows run together into the same bytes.
        """
        return hashlib.sha256(json.dumps([self.kind, self.prompt, self.answer]).encode("ascii")).hexdigest()

"""What the text of an answer is made of: content, reasoning, and calls of functions."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of what the model answers."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """The model calls a function: the answer's call number `index`, from 0."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of the JSON text of a call's arguments."""

    index: int
    text: str


Part = Content | Reasoning | CallBegun | CallArguments

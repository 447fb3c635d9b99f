"""How models write calls of functions and reasoning: names, markers, and which of them a chat template uses."""

# ruff: noqa: RUF001 - DeepSeek's tokens have another bar

from dataclasses import dataclass

FALLBACK = "hermes"
"""What a model is asked for whose template names no format, and what its answers are read as."""
HARMONY = "harmony"


@dataclass(frozen=True, slots=True)
class CallFormat:
    """One way to write calls."""

    name: str
    signs: tuple[tuple[str, ...], ...]
    """A template that has all texts of one of these writes calls so."""
    openings: tuple[str, ...] = ()
    """Each begins a call, or a list of calls."""
    closing: str = ""
    """Ends what an opening began; "": nothing does."""
    inner: tuple[str, ...] = ()
    """Other markers that a reader has to see."""
    arguments: str = "arguments"
    """Where a JSON object that is a call has its arguments."""

    @property
    def markers(self) -> tuple[str, ...]:
        """All texts that readers look for: shown although they may be special tokens."""
        return tuple(filter(None, (*self.openings, self.closing, *self.inner)))


FORMATS = {
    form.name: form
    for form in (
        CallFormat(
            HARMONY,
            (("<|channel|>", "<|message|>", "commentary"),),
            inner=(
                "<|start|>",
                "<|channel|>",
                "<|constrain|>",
                "<|message|>",
                "<|end|>",
                "<|call|>",
                "<|return|>",
            ),
        ),
        CallFormat(
            "deepseek",
            (("<｜tool▁calls▁begin｜>",),),
            ("<｜tool▁calls▁begin｜>",),
            "<｜tool▁calls▁end｜>",
            ("<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
        ),
        CallFormat(
            "qwen3_coder",
            (("<function=", "<parameter="),),
            ("<tool_call>", "<function="),
            "</tool_call>",
            ("</function>", "<parameter=", "</parameter>"),
        ),
        CallFormat(
            "glm",
            (("<arg_key>",),),
            ("<tool_call>",),
            "</tool_call>",
            ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        ),
        CallFormat(
            "mistral_named",
            (("[TOOL_CALLS]", "[ARGS]"),),
            ("[TOOL_CALLS]",),
            inner=("[CALL_ID]", "[ARGS]"),
        ),
        CallFormat("mistral", (("[TOOL_CALLS]",),), ("[TOOL_CALLS]",), inner=("[CALL_ID]", "[ARGS]")),
        CallFormat("phi4", (("<|/tool_call|>",),), ("<|tool_call|>",), "<|/tool_call|>"),
        CallFormat(
            "lfm2",
            (("<|tool_list_start|>",), ("<|tool_call_start|>",)),
            ("<|tool_call_start|>",),
            "<|tool_call_end|>",
        ),
        CallFormat("granite", (("<|tool_call|>",),), ("<|tool_call|>", "<tool_call>")),
        CallFormat(
            "llama_json",
            (
                ('"parameters": ', "ipython"),
                ('"parameters": ', "<|python_tag|>"),
                ('"parameters": ', "<|python_start|>"),
            ),
            ("<|python_tag|>", "<|python_start|>"),
            inner=("<|python_end|>",),
            arguments="parameters",
        ),
        CallFormat(
            "pythonic",
            (("func_name1(",), ("<|python_start|>",)),
            ("<|python_start|>",),
            "<|python_end|>",
        ),
        CallFormat(FALLBACK, (("<tool_call>",),), ("<tool_call>",), "</tool_call>"),
    )
}
"""Ordered: the first whose signs a template has."""


def call_format_of(template: str) -> str:
    """Return the name of the format that a chat template writes calls in."""
    return next(
        (
            form.name
            for form in FORMATS.values()
            if any(all(sign in template for sign in signs) for signs in form.signs)
        ),
        FALLBACK,
    )


REASONING = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<reasoning>": "</reasoning>",
    "[THINK]": "[/THINK]",
    "<|channel>thought": "<channel|>",
}
"""What begins reasoning, and what ends it."""


def reasoning_of(template: str) -> str | None:
    """Return what begins reasoning in the answers of a model with this chat template; None if it knows none."""
    return next((opening for opening, closing in REASONING.items() if closing in template), None)

"""Which reader takes an answer apart."""

# ruff: noqa: RUF001 - DeepSeek's tokens have another bar

from collections.abc import Callable, Collection

from api.generation.calls.harmony import HarmonyReader
from api.generation.calls.sections import LlamaReader, NamedReader, SectionReader
from api.generation.calls.text_reader import TextReader
from api.generation.calls.typed_values import Schemas
from api.generation.calls.whole import GlmReader, PythonicReader, XmlReader
from configs.tool_formats import FALLBACK, FORMATS, HARMONY

_NAME = r"([\w.\-]{1,128})"
_MISTRAL_HEAD = rf"{_NAME}(?:\[CALL_ID\][\w\-]*)?(?:\[ARGS\])?"
_DEEPSEEK_HEAD = rf"<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>)?{_NAME}(?:\s*```(?:json)?\s|<｜tool▁sep｜>)"
_DEEPSEEK_TAILS = ("```", "<｜tool▁call▁end｜>")


def reader_of(tool_format: str, names: Collection[str], schemas: Schemas) -> TextReader | None:
    """Return a reader of the answers of a model that writes calls so; None if they are read as they are.

    `names` are those of the functions that may be called, `schemas` those of their arguments.
    """
    if tool_format == HARMONY:
        return HarmonyReader(names)
    if not names:
        return None
    form = FORMATS.get(tool_format, FORMATS[FALLBACK])
    readers: dict[str, Callable[[], TextReader]] = {
        "mistral": lambda: NamedReader(form, names, _MISTRAL_HEAD, ()),
        "mistral_named": lambda: NamedReader(form, names, _MISTRAL_HEAD, ()),
        "deepseek": lambda: NamedReader(form, names, _DEEPSEEK_HEAD, _DEEPSEEK_TAILS),
        "qwen3_coder": lambda: XmlReader(form, names, schemas),
        "glm": lambda: GlmReader(form, names, schemas),
        "pythonic": lambda: PythonicReader(form, names, bare=True),
        "lfm2": lambda: PythonicReader(form, names, bare=False),
        "llama_json": lambda: LlamaReader(form, names),
    }
    return readers.get(form.name, lambda: SectionReader(form, names))()

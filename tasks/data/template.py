"""From an example to the text that is trained on, in the tokenizer's own chat format."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from tasks.data.chat_rendering import ChatRendering, end_of_sequence
from tasks.data.chat_template import ChatTemplate
from tasks.data.control_tokens import ControlTokens, without_marks
from tasks.data.examples import DatasetError, Example, Message
from tasks.data.learned_words import require_calls, require_tools
from tasks.data.patterns import Patterns
from tasks.data.segments import RenderedExample, Segment, id_bytes
from tasks.data.span_weights import span_weights
from tasks.data.tokenizers import marks_beginnings, text_begins_with_bos

PromptEnding = Literal["answer", "closed", "continued"]
"""Where a prompt ends: at the beginning of an answer, after its last turn, or at the last words of that turn."""
_ASKED = Message("user", "q")
_ANY_ANSWER = Message("assistant", "a")


class Renderer:
    """Writes examples in a tokenizer's own chat format, if it has one.

    With a chat template, what comes before an answer is what the model sees at inference: it ends where the template
    begins the assistant's turn. The answer ends with the token that ends the turn. Whitespace that the template puts
    after that token is not learned, and is left out at the very end: generation has stopped by then, and a token that
    never varies only flatters the loss. A template that ends a turn with no special token gets the tokenizer's
    end-of-sequence token there, without which the model would not learn to stop.

    Without a template: the turns one after the other, parted by newlines, the assistant's with an end of sequence.
    Text: the text, end of sequence. Both begin with the tokenizer's begin-of-sequence token if it puts one before a
    text by itself.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self.control_tokens = ControlTokens(tokenizer)
        self._start = str(tokenizer.bos_token) if text_begins_with_bos(tokenizer) else ""
        self._marks_beginnings = marks_beginnings(tokenizer)
        self._patterns = Patterns(tokenizer, self.control_tokens, self._by_itself)

    def render(self, example: Example) -> RenderedExample:
        """Return the segments of one example.

        Raises DatasetError if the chat template fails or loses an answer, if tools need a template and there is none,
        or if an end-of-sequence token is missing.
        """
        spelled = self.control_tokens.spelled_in(example)
        has_all_words = False
        if example.text is not None:
            start = "" if example.before else self._start
            end = "" if example.after else end_of_sequence(self._tokenizer)
            segments = [Segment(start + example.text + end, learned=True)]
        elif spelled and self.control_tokens.must_be_marked(example):
            segments = self._marked(example)
        else:
            segments, has_all_words = self._patterns.segments(example)
        if example.is_plain:
            return RenderedExample(tuple(segments), spelled, has_all_words=has_all_words)
        weights, text = span_weights(example, segments, self.render), example.text is not None
        around = (example.before, example.after)
        return RenderedExample(tuple(segments), spelled, weights, text, *around, example.links, has_all_words)

    def prompt(
        self,
        messages: Sequence[Message],
        tools: str | None = None,
        arguments: Mapping[str, Any] = MappingProxyType({}),
        ending: PromptEnding = "answer",
    ) -> RenderedExample:
        """Return what a model is given before it answers these messages, and may call these `tools`.

        The template gets `arguments` besides. Raises DatasetError as `render` does, and if the template does not write
        the last message's text, which is to be continued.
        """
        before = tuple(replace(message, learned=False) for message in messages)
        example = Example((*before, _ANY_ANSWER), tools=tools)
        spelled = self.control_tokens.spelled_in(example)
        if not self._tokenizer.chat_template:
            *segments, _ = self.render(example).segments
            if ending == "continued":
                segments[-1] = Segment(_up_to_its_end(segments[-1].text, messages[-1].text), learned=False)
            return RenderedExample(tuple(segments), spelled)
        turns, values = _as_values(example)
        marked = spelled and self.control_tokens.must_be_marked(example)
        if marked:
            turns, values = self.control_tokens.mark((turns, values))
        template = ChatTemplate(self._tokenizer, values, today=True, arguments=arguments)
        form, text = template.suited(turns[:-1])
        require_calls(template, form, text)
        require_tools(template, form, values, text)
        rendered = template.render(form, generating=ending == "answer")
        if ending == "continued":
            rendered = _up_to_its_end(rendered, str(form[-1]["content"] or ""))
        segment = Segment(rendered, learned=False)
        return RenderedExample((self._encoded(segment) if marked else segment,), spelled)

    def loses_text(self, example: Example, rendered: RenderedExample) -> bool:
        """Return whether the template has left out words of some message, or written them differently."""
        if rendered.has_all_words:
            return False
        text = rendered.text
        return any(message.text.strip() not in text for message in example.messages)

    def _by_itself(self, example: Example) -> list[Segment]:
        return self._conversation(example, *_as_values(example))

    def _marked(self, example: Example) -> list[Segment]:
        turns, tools = self.control_tokens.mark(_as_values(example))
        segments = self._conversation(example, turns, tools)
        return self._encoded_together(segments) if self._marks_beginnings else list(map(self._encoded, segments))

    def _encoded_together(self, segments: list[Segment]) -> list[Segment]:
        """Return the segments with the ids that each has after those before it."""
        encoded, text, before = [], "", list[int]()
        for segment in segments:
            text += segment.text
            whole = self.control_tokens.encode_marked(text)
            if whole[: len(before)] == before:
                words = without_marks(segment.text)
                encoded.append(Segment(words, segment.learned, id_bytes(whole[len(before) :]), len(words)))
            else:
                encoded.append(self._encoded(segment))
            before = whole
        return encoded

    def _conversation(self, example: Example, turns: list[dict[str, Any]], tools: Any) -> list[Segment]:
        learned = [message.is_target for message in example.messages]
        if self._tokenizer.chat_template:
            return ChatRendering(self._tokenizer, self.control_tokens, turns, tools).segments(learned)
        return self._plain(turns, tools, learned)

    def _plain(self, turns: list[dict[str, Any]], tools: Any, learned: list[bool]) -> list[Segment]:
        if tools or any("tool_calls" in turn or turn["role"] == "tool" for turn in turns):
            raise DatasetError("the row has tools, and the model has no chat template to write them in; remove them")
        if any("reasoning_content" in turn for turn in turns):
            raise DatasetError("the row has reasoning_content, and the model has no chat template to write it in")
        segments, before = [], self._start
        for turn, is_learned in zip(turns, learned, strict=True):
            text = turn["content"] or ""
            if turn["role"] == "assistant":
                text += end_of_sequence(self._tokenizer)
            if is_learned:
                segments += [Segment(before, learned=False), Segment(text, learned=True)]
                before = "\n"
            else:
                before += text + "\n"
        if before != "\n":
            segments.append(Segment(before.removesuffix("\n"), learned=False))
        return [segment for segment in segments if segment.text]

    def _encoded(self, segment: Segment) -> Segment:
        token_ids = self.control_tokens.encode_marked(segment.text)
        text = without_marks(segment.text)
        return Segment(text, segment.learned, id_bytes(token_ids), len(text))


def render(example: Example, tokenizer: PreTrainedTokenizerBase) -> RenderedExample:
    """Return the segments of one example; for many, keep a `Renderer`."""
    return Renderer(tokenizer).render(example)


def turn_end_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the id of the token that the chat template ends an answer with; empty if it has none, or no template."""
    if not tokenizer.chat_template:
        return frozenset()
    renderer = Renderer(tokenizer)
    try:
        rendered = renderer.render(Example((_ASKED, _ANY_ANSWER)))
    except DatasetError:
        return frozenset()
    learned = [segment.text for segment in rendered.segments if segment.learned]
    ending = renderer.control_tokens.last_in("".join(learned[-1:]).rstrip())
    return frozenset() if ending is None else frozenset([tokenizer.convert_tokens_to_ids(ending)])


def _as_values(example: Example) -> tuple[list[dict[str, Any]], Any]:
    """Return the turns and the tools as chat templates expect them."""
    tools = json.loads(example.tools) if example.tools is not None else None
    return [message.for_template() for message in example.messages], tools


def _up_to_its_end(text: str, words: str) -> str:
    """Return a rendering up to the end of the last turn's words; raises DatasetError if they are not in it."""
    for written in (words, words.strip()):
        place = text.rfind(written) if written else -1
        if place >= 0:
            return text[: place + len(written)]
    raise DatasetError("the chat template does not write the last message as it is, so nothing can go on with it")

"""How many of an answer's tokens are told as reasoning, however the text comes."""

from itertools import accumulate

import pytest

from api.engine_server.reasoning import ReasoningSpan
from api.engine_server.schemas import AnswerForm
from configs.tool_formats import HARMONY

THINKS = AnswerForm(reasoning="<think>")
BEGUN = AnswerForm(reasoning="<think>", begins_in_reasoning=True)
IN_CHANNELS = AnswerForm(tool_format=HARMONY)
CHANNEL = ["<|channel|>", "analysis", "<|message|>", "Hm", "<|end|>", "<|start|>", "assistant", "<|channel|>"]
# Each text is a token.
ANSWERS = {
    "thoughts and an answer": (THINKS, ["<think>", "\n", "Hm", ".", "</think>", "\n\n", "Yes", "."], 5),
    "behind white space": (THINKS, ["\n", "<think>", "Hm", "</think>", "Yes"], 4),
    "an end in pieces": (THINKS, ["<", "think>", "Hm", "</th", "ink", ">", "Yes"], 6),
    "none": (THINKS, ["Yes", ": ", "<think>", " is", " a", " tag"], 0),
    "nothing": (THINKS, [], 0),
    "perhaps a beginning": (THINKS, ["<", "thi"], 0),
    "empty thoughts": (THINKS, ["<think>", "\n\n", "</think>", "Yes"], 3),
    "thoughts without an end": (THINKS, ["<think>", "Hm", " so"], 3),
    "begun by the prompt": (BEGUN, ["Hm", ".", "</think>", "Yes"], 3),
    "begun, without an end": (BEGUN, ["Hm", ", so"], 2),
    "a model that knows none": (AnswerForm(), ["<think>", "Hm", "</think>", "Yes"], 0),
    "a channel": (IN_CHANNELS, [*CHANNEL, "final", "<|message|>", "Yes"], 7),
    "a channel before a call": (IN_CHANNELS, [*CHANNEL, "commentary", " to=functions.look"], 7),
    "the final channel alone": (IN_CHANNELS, ["<|channel|>", "final", "<|message|>", "Yes"], 0),
}


@pytest.mark.parametrize("size", [1, 3, 99])
@pytest.mark.parametrize("name", ANSWERS)
def test_tokens_up_to_the_end_of_the_thoughts_are_reasoning(name, size):
    form, tokens, expected = ANSWERS[name]
    span = ReasoningSpan(form)
    for first in range(0, len(tokens), size):
        span.push("".join(tokens[first : first + size]))
    offsets = [0, *accumulate(map(len, tokens))][:-1] if tokens else []
    assert span.tokens(offsets) == expected

"""How an answer is read, and held to its calls' schemas: what a model's chat template and the prompt make of it."""

from collections.abc import Callable

from llguidance import LLTokenizer
from transformers import PreTrainedTokenizerBase

from api.engine_server.schemas import AnswerForm, CallRequirement, EngineGenerateRequest
from configs.tool_formats import FALLBACK, FORMATS, HARMONY, REASONING, call_format_of, reasoning_of
from tasks.data.generation_prompt import GenerationPrompt, GenerationPrompts
from tasks.inference.tool_grammar import ANY_OBJECT, CallConstraint, CallRules, Thoughts


def form_of_model(prompts: GenerationPrompts, *, with_tools: bool) -> AnswerForm:
    """Return how answers of a model are read, with or without tools."""
    template = prompts.template(with_tools=with_tools)
    in_words = with_tools and not prompts.writes_tools
    written = call_format_of(template)
    return AnswerForm(
        tool_format=FALLBACK if in_words and written != HARMONY else written,
        reasoning=reasoning_of(template),
        generic_tools=in_words,
    )


def form_of_answer(prompts: GenerationPrompts, request: EngineGenerateRequest, prompt: GenerationPrompt) -> AnswerForm:
    """Return how the answer to a conversation is read."""
    form = form_of_model(prompts, with_tools=request.tools is not None)
    # An answer that is JSON by its schema is neither a call nor thought about.
    reasoning = None if request.json_schema is not None else form.reasoning
    in_words = request.tools is not None and prompt.in_words
    return AnswerForm(
        tool_format=FALLBACK if in_words and form.tool_format != HARMONY else form.tool_format,
        reasoning=reasoning,
        begins_in_reasoning=reasoning is not None and prompt.text.rstrip().endswith(reasoning),
        generic_tools=in_words,
        lenient=request.calls is None,
    )


def hidden_tokens(tokenizer: PreTrainedTokenizerBase, form: AnswerForm, *, with_tools: bool) -> frozenset[int] | None:
    """Return the special tokens that are no text for who reads the answer; None if all of them are none."""
    markers: set[str] = set()
    if with_tools or form.tool_format == HARMONY:
        markers |= set(FORMATS[form.tool_format].markers)
    if form.reasoning is not None:
        markers |= {form.reasoning, REASONING[form.reasoning]}
    special = {id: token.content for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    if not markers & set(special.values()):
        return None
    return frozenset(id for id, content in special.items() if content not in markers)


def call_constraint(
    request: EngineGenerateRequest,
    form: AnswerForm,
    tokenizer: PreTrainedTokenizerBase,
    known: Callable[[], LLTokenizer],
) -> CallConstraint | None:
    """Return what holds an answer's calls to what the request says of them; raises `SchemaError`."""
    if request.calls is None:
        return None

    def token_id(text: str) -> int | None:
        found = tokenizer.convert_tokens_to_ids(text)
        return found if isinstance(found, int) and found != tokenizer.unk_token_id else None

    thoughts = None if form.reasoning is None else Thoughts(form.reasoning, begun=form.begins_in_reasoning)
    return CallConstraint(form.tool_format, _rules(request, request.calls), thoughts, known(), token_id)


def _rules(request: EngineGenerateRequest, calls: CallRequirement) -> CallRules:
    functions = {}
    for function in (tool["function"] for tool in request.tools or ()):
        if calls.name in (None, function["name"]):
            # What is required is always held to its schema, else only what asks for it.
            held = calls.required or function["name"] in calls.strict
            functions[function["name"]] = function.get("parameters") if held else ANY_OBJECT
    return CallRules(functions, required=calls.required, parallel=calls.parallel)

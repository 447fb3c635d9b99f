"""Text in, text out: tokenizes prompts, hands them to the engine, and turns its tokens back into text."""

import json
import time
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

from transformers.utils import logging as transformers_logging

from api.engine_server.forms import call_constraint, form_of_answer, form_of_model, hidden_tokens
from api.engine_server.metrics import EngineMetrics
from api.engine_server.paths import allowed_folders, model_folder
from api.engine_server.reasoning import ReasoningSpan
from api.engine_server.schemas import (
    AnswerForm,
    EchoedPrompt,
    EngineEmbedRequest,
    EngineEmbedResponse,
    EngineGenerateRequest,
    EngineHealth,
    EngineModelName,
    EngineTokenizeRequest,
    EngineTokens,
    PromptToken,
    RankedLogprob,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from api.engine_server.vocabulary import Vocabulary
from configs.settings import Settings
from tasks.data.chosen_format import saved_template
from tasks.data.examples import DatasetError
from tasks.inference.constraint import JsonConstraint
from tasks.inference.engine import (
    Embedding,
    EmbeddingRequest,
    Engine,
    Generation,
    GenerationRequest,
    Limits,
    ModelRef,
    TokenLogprobs,
)
from tasks.inference.errors import InvalidRequest, PromptTooLong
from tasks.inference.generation import Constraint
from tasks.inference.listener import Listener
from tasks.inference.text import TextStream
from tasks.models.device import choose_device, choose_dtype


class TextGeneration:
    """A generation request as text: read the text decoded so far, and at the end the usage."""

    def __init__(
        self,
        generation: Generation,
        vocabulary: Vocabulary,
        request: EngineGenerateRequest,
        form: AnswerForm,
        metrics: EngineMetrics,
        started: float,
    ) -> None:
        self.generation = generation
        self._metrics = metrics
        self._echo, self._prompt = request.echo, request.prompt
        hidden = hidden_tokens(vocabulary.tokenizer, form, with_tools=request.tools is not None)
        self.text = TextStream(vocabulary.tokenizer, generation.request.prompt_ids, request.stop, hidden)
        self._vocabulary = vocabulary
        self._started = started
        self._shown = 0
        self.form = form
        self._reasoning = ReasoningSpan(form)

    def new_text(self) -> str:
        """Return the text that has become certain by the tokens that came since the last call."""
        pieces = []
        for token_id in self.generation.tokens[self.text.tokens :]:
            pieces.append(self.text.push(token_id))
            if self.text.stopped:
                break
        text = "".join(pieces)
        self._reasoning.push(text)
        return text

    def end(self) -> None:
        """Count how it ended, and cancel it if it has not."""
        self.generation.cancel()
        if (first := self.generation.first_token_at) is not None:
            self._metrics.first_token.observe(first - self._started)
        self._metrics.prompt_tokens.inc(len(self.generation.request.prompt_ids))
        reason = "failed" if self.generation.error is not None else self.usage().finish_reason
        self._metrics.requests.labels(reason).inc()

    def new_logprobs(self) -> list[TokenLogprob]:
        """Return those of the tokens that were pushed since the last call; empty unless they were asked for."""
        before, self._shown = self._shown, self.text.tokens
        known = self.generation.logprobs[before : self._shown]
        return [self._token(token, its) for token, its in zip(self.generation.tokens[before:], known, strict=False)]

    def end_logprobs(self) -> list[TokenLogprob]:
        """Return those of the token that ended the answer, if those of the prompt are asked for too.

        Who adds up a prompt's (lm-eval does) counts on a token behind it, whether or not that one ends the text.
        """
        ended_by = self.generation.ended_by
        if self.generation.request.prompt_logprobs is None or ended_by is None or ended_by[1] is None:
            return []
        return [self._token(ended_by[0], ended_by[1])]

    def _token(self, token_id: int, its: TokenLogprobs) -> TokenLogprob:
        named = self._vocabulary.named([token_id, *its.top])
        shown = {each: {"token": name, "bytes": list(content)} for each, (name, content) in named.items()}
        top = [TopLogprob(**shown[rival], logprob=logprob) for rival, logprob in its.top.items()]
        return TokenLogprob(**shown[token_id], logprob=its.logprob, top_logprobs=top)

    def echoed(self) -> EchoedPrompt | None:
        """Return what the answer says of the prompt; takes a while for a long one. None if it was never read."""
        request, scores = self.generation.request, self.generation.prompt_logprobs
        unread = request.prompt_logprobs is not None and len(scores) < len(request.prompt_ids) - 1
        if unread or (not self._echo and request.prompt_logprobs is None):
            return None
        stream = TextStream(self._vocabulary.tokenizer, ())
        decoded = "".join([stream.push(token_id) for token_id in request.prompt_ids]) + stream.finish()
        text = decoded if self._prompt is None else self._prompt
        if request.prompt_logprobs is None:
            return EchoedPrompt(text=text, tokens=[])
        tokens = [
            self._prompt_token(token_id, min(offset, len(text)), its)
            for token_id, offset, its in zip(request.prompt_ids, stream.offsets, [None, *scores], strict=True)
        ]
        return EchoedPrompt(text=text, tokens=tokens)

    def _prompt_token(self, token_id: int, offset: int, its: TokenLogprobs | None) -> PromptToken:
        top = {} if its is None else its.top
        named = self._vocabulary.named([token_id, *top])
        shown = {each: {"token": name, "bytes": list(content), "id": each} for each, (name, content) in named.items()}
        return PromptToken(
            **shown[token_id],
            offset=offset,
            logprob=None if its is None else its.logprob,
            rank=None if its is None else its.rank,
            top_logprobs=[
                RankedLogprob(**shown[rival], logprob=logprob, rank=rank)
                for rank, (rival, logprob) in enumerate(top.items(), start=1)
            ],
        )

    def usage(self) -> Usage:
        """Return the counts so far; a stop string ends a generation as the end-of-text token does."""
        reason = "stop" if self.text.stopped else self.generation.finish_reason
        return Usage(
            prompt_tokens=len(self.generation.request.prompt_ids),
            generated_tokens=self.text.tokens,
            reasoning_tokens=self._reasoning.tokens(self.text.offsets),
            finish_reason=reason or "cancelled",
            seconds=time.monotonic() - self._started,
            stop_string=self.text.stop_string,
        )


class TextEmbedding:
    """An embedding request, counted in the metrics."""

    def __init__(self, embedding: Embedding, metrics: EngineMetrics) -> None:
        self.embedding = embedding
        self._metrics = metrics

    def answer(self) -> EngineEmbedResponse:
        """Return the vector of one that is done; raises what it failed with."""
        vector = self.embedding.result()
        return EngineEmbedResponse(embedding=vector.tolist(), prompt_tokens=len(self.embedding.prompt_ids))

    def end(self) -> None:
        """Count how it ended, and cancel it if it has not."""
        self.embedding.cancel()
        self._metrics.prompt_tokens.inc(len(self.embedding.prompt_ids))
        reason = "failed" if self.embedding.error is not None else self.embedding.finish_reason or "cancelled"
        self._metrics.requests.labels(reason).inc()


class TextEngine:
    """The engine with its tokenizers. `start` reads files and tokenizes: call it off the event loop."""

    def __init__(self, settings: Settings) -> None:
        device = choose_device(settings.device)
        self._engine = Engine(
            dtype=choose_dtype(settings.compute_dtype, device),
            device=device,
            memory_budget_bytes=int(settings.engine_memory_budget_gb * 1e9),
            limits=Limits(
                concurrency=settings.engine_concurrency,
                queue_length=settings.engine_queue_length,
                request_seconds=settings.generation_timeout_seconds,
            ),
            int8=settings.engine_int8,
            kv_cache_bytes=int(settings.engine_kv_cache_gb * 1e9),
        )
        self.metrics = EngineMetrics(self.health)
        self._folders = allowed_folders(settings)
        self._vocabulary = lru_cache(maxsize=32)(Vocabulary)
        self._trained_template = lru_cache(maxsize=1024)(saved_template)
        transformers_logging.disable_progress_bar()

    def start(self, request: EngineGenerateRequest, listener: Listener) -> TextGeneration:
        """Submit a request; `listener` is called with its tokens on the engine's thread.

        Raises:
            PathRefused: a folder is not one that may be loaded from.
            EmptyPrompt, InvalidRequest: there is nothing to continue, or this model can't do what is asked.
            RequestTooLarge: prompt and continuation can never fit into the memory kept for sequences.
            PromptTooLong: no token fits behind the prompt, in `max_length` or in the model's context.
            EngineBusy, EngineClosed: the queue is full, or the engine is shutting down.
            WeightsError: there is no usable model or tokenizer in the folder.
        """
        started = time.monotonic()
        model = self._model(request)
        try:
            vocabulary = self._vocabulary_of(model, request)
        except DatasetError as error:
            raise InvalidRequest(str(error)) from error
        prompt_ids, form = _read(request, vocabulary)
        room = self._room(request, model.weights, len(prompt_ids))
        try:
            generation = self._engine.submit(
                GenerationRequest(
                    model=model,
                    prompt_ids=prompt_ids,
                    max_new_tokens=room,
                    temperature=request.temperature,
                    top_p=request.top_p,
                    top_k=request.top_k,
                    min_p=request.min_p,
                    repetition_penalty=request.repetition_penalty,
                    frequency_penalty=request.frequency_penalty,
                    presence_penalty=request.presence_penalty,
                    logit_bias=request.logit_bias,
                    min_new_tokens=request.min_new_tokens,
                    stop_token_ids=request.stop_token_ids,
                    ignore_eos=request.ignore_eos,
                    seed=request.seed,
                    eos_token_ids=vocabulary.ends,
                    logprobs=request.logprobs,
                    prompt_logprobs=request.prompt_logprobs,
                    constraint=_constraint(request, vocabulary, form),
                ),
                listener,
            )
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        return TextGeneration(generation, vocabulary, request, form, self.metrics, started)

    def embed(self, request: EngineEmbedRequest, listener: Listener) -> TextEmbedding:
        """Submit a text to embed; `listener` is called at its end. Raises what `start` raises, and `InputTooLong`."""
        model = self._model(request)
        ids = self._vocabulary(model.weights).input_ids(request)
        try:
            return TextEmbedding(self._engine.embed(EmbeddingRequest(model, ids), listener), self.metrics)
        except ValueError as error:
            raise InvalidRequest(str(error)) from error

    def form(self, request: EngineModelName) -> AnswerForm:
        """Return how answers of a model with tools are read; raises what `start` raises of its model."""
        model = self._model(request)
        try:
            return form_of_model(self._vocabulary_of(model, request).prompts, with_tools=True)
        except DatasetError as error:
            raise InvalidRequest(str(error)) from error

    def tokenize(self, request: EngineTokenizeRequest) -> EngineTokens:
        """Return the tokens of a text or a conversation, and the text of tokens; raises what `start` raises of them."""
        model = self._model(request)
        try:
            vocabulary = self._vocabulary_of(model, request)
        except DatasetError as error:
            raise InvalidRequest(str(error)) from error
        tokenizer = vocabulary.tokenizer
        if request.messages is not None:
            ids = vocabulary.rendered(request).token_ids
        elif request.prompt is not None:
            ids = tokenizer(request.prompt, add_special_tokens=request.add_special_tokens, verbose=False)["input_ids"]
        else:
            ids = request.prompt_ids or []
            if max(ids) >= len(tokenizer) or min(ids) < 0:
                raise InvalidRequest(f"the tokens hold an id outside the tokenizer's vocabulary of {len(tokenizer)}")
        return EngineTokens(
            ids=ids,
            pieces=[str(tokenizer.convert_ids_to_tokens(one)) for one in ids],
            text=tokenizer.decode(ids, clean_up_tokenization_spaces=False),
            context=self._engine.context_length(model.weights),
        )

    def health(self) -> EngineHealth:
        """Return what is loaded, running and waiting; `failed` with the reason if requests can't be answered."""
        trouble = self._engine.trouble()
        found = {"status": "ok" if trouble is None else "failed", "error": trouble}
        return EngineHealth.model_validate({**found, **asdict(self._engine.stats())})

    def close(self, timeout: float) -> bool:
        """Cancel everything; return whether the engine's threads ended within `timeout` seconds."""
        return self._engine.close(timeout)

    def _room(self, request: EngineGenerateRequest, weights: Path, prompt_tokens: int) -> int:
        """Return how many tokens may follow the prompt by the request's own limit, or else all that there is room for.

        The engine keeps to the context whatever this says, and refuses a prompt that leaves no room.
        """
        if request.max_new_tokens is not None:
            return request.max_new_tokens
        if request.max_length is None:
            return max(1, self._engine.capacity(weights) - prompt_tokens)
        context = self._engine.context_length(weights)
        if prompt_tokens >= context:
            raise PromptTooLong(prompt_tokens, context)
        if prompt_tokens >= request.max_length:
            raise PromptTooLong(prompt_tokens, request.max_length, "max_length")
        return request.max_length - prompt_tokens

    def _vocabulary_of(self, model: ModelRef, request: EngineModelName) -> Vocabulary:
        """Return the base's vocabulary with the model's chat format; raises `DatasetError` for one it can't have."""
        trained = None if model.adapter is None else self._trained_template(model.adapter)
        chosen = None if request.chat_format is None else json.dumps(request.chat_format, sort_keys=True)
        return self._vocabulary(model.weights, trained, chosen)

    def _model(self, request: EngineModelName) -> ModelRef:
        """Return the folders of the request's model; raises `PathRefused`."""
        adapter = None if request.adapter is None else model_folder(request.adapter, self._folders)
        return ModelRef(model_folder(request.weights, self._folders), adapter)


def _read(request: EngineGenerateRequest, vocabulary: Vocabulary) -> tuple[list[int], AnswerForm]:
    """Return the prompt's ids, and how its answer is to be read."""
    if request.messages is None:
        return vocabulary.input_ids(request), AnswerForm()
    prompt = vocabulary.rendered(request)
    return prompt.token_ids, form_of_answer(vocabulary.prompts, request, prompt)


def _constraint(request: EngineGenerateRequest, vocabulary: Vocabulary, form: AnswerForm) -> Constraint | None:
    if request.json_schema is None:
        return call_constraint(request, form, vocabulary.tokenizer, lambda: vocabulary.for_constraints)
    return JsonConstraint(request.json_schema, vocabulary.for_constraints)

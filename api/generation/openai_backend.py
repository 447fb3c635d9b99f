"""A server of the user's that speaks OpenAI's protocol, such as vLLM, in the place of the engine."""

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from api.engine_server.schemas import (
    AnswerForm,
    CallRequirement,
    EchoedPrompt,
    EngineEmbedRequest,
    EngineEmbedResponse,
    EngineGenerateRequest,
    EngineGenerateResponse,
    EngineHealth,
    EngineInput,
    EngineModelName,
    EngineTokenizeRequest,
    EngineTokens,
    TokenLogprob,
    TopLogprob,
)
from api.generation.engine_client import (
    CONNECT_SECONDS,
    CONNECTIONS,
    OWN_CONNECTIONS,
    EngineRefused,
    EngineUnavailable,
)
from api.generation.sse import data_of

END = "[DONE]"
USAGE = ("prompt_tokens", "generated_tokens", "reasoning_tokens", "finish_reason", "seconds")
CALLED = ("tool_calls", "function_call")
"""What servers that read calls by themselves say of an answer that ended with some."""


class OpenAIBackend:
    """Has the methods of `EngineClient`, and raises what that raises.

    A base model is asked for by its name in our catalogue. An adapter is loaded at its first use, by vLLM's
    `/load_lora_adapter`, under the name of its folder, which never means another one; the server must see the folder.
    """

    def __init__(
        self, base_url: str, api_key: str | None, timeout_seconds: float = 600.0, connections: int = CONNECTIONS
    ) -> None:
        """`base_url` ends with the protocol's version, such as `http://gpu:8000/v1`; the rest as for `EngineClient`."""
        self._url = base_url
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=connections + OWN_CONNECTIONS),
        )
        self._adapters: set[str] = set()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def generate(self, request: EngineGenerateRequest) -> EngineGenerateResponse:
        """Return the whole answer."""
        pieces: list[str] = []
        reasoning: list[str] = []
        calls: list[dict[str, Any]] = []
        logprobs: list[TokenLogprob] = []
        offsets: list[int] = []
        prompt = None
        async for event in self.stream(request):
            if event.get("done"):
                break
            if "prompt" in event:
                prompt = EchoedPrompt(**event["prompt"])
                continue
            pieces.append(event.get("text", ""))
            reasoning.append(event.get("reasoning", ""))
            calls += event.get("calls", [])
            logprobs += [TokenLogprob(**one) for one in event.get("logprobs", [])]
            offsets += event.get("offsets", [])
        continuation = "".join(pieces)
        usage = {name: event[name] for name in USAGE if name in event}
        text = (request.prompt or "") + continuation
        return EngineGenerateResponse(
            text=text,
            continuation=continuation,
            logprobs=logprobs,
            offsets=offsets,
            prompt=prompt,
            reasoning="".join(reasoning),
            calls=calls,
            **usage,
        )

    async def stream(self, request: EngineGenerateRequest) -> AsyncGenerator[dict[str, Any], None]:
        """Yield what `EngineClient.stream` yields."""
        if request.messages is not None and request.chat_format is not None:
            message = (
                f"this model has been given a chat template here, which the backend {self._url} does not know: start "
                "it with that template, and give the model none"
            )
            raise EngineRefused(422, "invalid", message)
        if request.prompt_logprobs is not None or (request.echo and request.prompt is None):
            field = "echo of token ids" if request.prompt_logprobs is None else "prompt_logprobs (echo with logprobs)"
            message = f"{field} is not asked of the backend {self._url}, which streams: leave it out"
            raise EngineRefused(422, "invalid", message)
        started = time.monotonic()
        if request.echo:
            yield {"prompt": {"text": request.prompt, "tokens": []}}
        body = self._body(request) | {"model": await self._model(request)}
        path = "/chat/completions" if request.messages is not None else "/completions"
        if (limit := await self._new_tokens(request, path, body)) is not None:
            body["max_tokens"] = limit
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        usage: dict[str, Any] = {"finish_reason": "stop", "prompt_tokens": 0, "generated_tokens": 0}
        async with self._answering(path, body) as response:
            yield {"form": AnswerForm().model_dump()}
            async for data in data_of(response):
                if not data.strip() or data.strip() == END:
                    continue
                chunk = json.loads(data)
                if "error" in chunk:
                    raise EngineUnavailable(
                        f"the backend {self._url} failed in the middle of an answer: {_said(chunk)}"
                    )
                for choice in chunk["choices"]:
                    reason = choice["finish_reason"] or usage["finish_reason"]
                    usage["finish_reason"] = "stop" if reason in CALLED else reason
                    if isinstance(stop := choice.get("stop_reason"), str):  # vLLM's
                        usage["stop_string"] = stop
                    if (event := _event(choice)) is not None:
                        yield event
                if told := chunk.get("usage"):
                    details = told.get("completion_tokens_details") or {}
                    usage |= {
                        "prompt_tokens": told["prompt_tokens"],
                        "generated_tokens": told["completion_tokens"],
                        "reasoning_tokens": details.get("reasoning_tokens") or 0,
                    }
        yield {"done": True, **usage, "seconds": time.monotonic() - started}

    async def embed(self, request: EngineEmbedRequest) -> EngineEmbedResponse:
        """Return what the server's own embeddings endpoint answers, pooled as that server does."""
        text = request.prompt if request.prompt is not None else request.prompt_ids
        body = {"model": await self._model(request), "input": text, "encoding_format": "float"}
        answer = await self._answer("/embeddings", body)
        return EngineEmbedResponse(
            embedding=answer["data"][0]["embedding"], prompt_tokens=answer["usage"]["prompt_tokens"]
        )

    async def form(self, _request: EngineModelName) -> AnswerForm:
        """Return how answers are read: what its template makes of tools, the server does not say."""
        return AnswerForm()

    async def tokenize(self, request: EngineTokenizeRequest) -> EngineTokens:
        """Return what the server's own `/tokenize` and `/detokenize` answer, which vLLM has beside its `/v1`."""
        model, root = await self._model(request), self._url.removesuffix("/v1")
        if request.prompt_ids is None:
            body: dict[str, Any] = {"model": model, "return_token_strs": True}
            if request.messages is not None:
                its = {"messages", "tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message"}
                body |= request.model_dump(include=its, exclude_none=True)
            else:
                body |= {"prompt": request.prompt, "add_special_tokens": request.add_special_tokens}
            answer = await self._answer(f"{root}/tokenize", body)
            ids = answer["tokens"]
        else:
            answer, ids = {}, request.prompt_ids
        text = (await self._answer(f"{root}/detokenize", {"model": model, "tokens": ids}))["prompt"] if ids else ""
        pieces, context = answer.get("token_strs") or [], int(answer.get("max_model_len", 0))
        return EngineTokens(ids=ids, pieces=pieces, text=text, context=context)

    async def health(self) -> EngineHealth:
        """Return that the server answers; what it has in memory it does not say."""
        (await self._send("GET", "/models", None)).raise_for_status()
        return EngineHealth(status="ok")

    async def metrics(self) -> str:
        """Return nothing: the server has metrics of its own."""
        return ""

    def _body(self, request: EngineGenerateRequest) -> dict[str, Any]:
        body: dict[str, Any] = {"temperature": request.temperature, "top_p": request.top_p}
        if request.messages is not None:
            body["messages"] = request.messages
            if request.tools:
                body |= _tools(request.tools, request.calls)
            if request.chat_template_kwargs:
                body["chat_template_kwargs"] = request.chat_template_kwargs
        else:
            body["prompt"] = request.prompt if request.prompt is not None else request.prompt_ids
        # Only what is on: each of these has another way to say that it is off.
        optional = {
            "top_k": request.top_k,
            "min_p": request.min_p,
            "repetition_penalty": request.repetition_penalty if request.repetition_penalty != 1.0 else None,
            "frequency_penalty": request.frequency_penalty,
            "presence_penalty": request.presence_penalty,
            "logit_bias": {str(token_id): bias for token_id, bias in request.logit_bias.items()},
            "min_tokens": request.min_new_tokens,
            "stop_token_ids": request.stop_token_ids,
            "ignore_eos": request.ignore_eos,
            "stop": request.stop,
        }
        body |= {name: value for name, value in optional.items() if value}
        if request.seed is not None:
            body["seed"] = request.seed
        if request.logprobs is not None:
            chat = {"logprobs": True, "top_logprobs": request.logprobs}
            body |= chat if request.messages is not None else {"logprobs": request.logprobs}
        if request.json_schema is not None:
            schema = {"name": "answer", "schema": request.json_schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body

    async def _model(self, request: EngineInput) -> str:
        """Return the server's name of the model, whose adapter is loaded first if need be."""
        if request.adapter is None:
            return request.model
        name = Path(request.adapter).name
        if name not in self._adapters:
            await self._require_served(request.model)
            body = {"lora_name": name, "lora_path": request.adapter}
            response = await self._send("POST", "/load_lora_adapter", body)
            if response.is_error and "already" not in response.text:
                message = (
                    f"the backend {self._url} can't load the adapter {name} ({_said(_json(response))}): vLLM does so "
                    "with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, if it sees the folder"
                )
                raise EngineRefused(503, "weights", message)
            self._adapters.add(name)
        return name

    async def _require_served(self, base: str) -> None:
        """Raise EngineRefused unless the server has the base: another of its shape would take the adapter too."""
        response = await self._send("GET", "/models", None)
        self._raise_for_error(response.status_code, _json(response))
        served = sorted(str(model.get("id")) for model in _json(response).get("data", []))
        if base not in served:
            message = f"the backend {self._url} serves {', '.join(served)}, not {base}, which the adapter is made for"
            raise EngineRefused(503, "weights", message)

    async def _new_tokens(self, request: EngineGenerateRequest, path: str, body: Mapping[str, Any]) -> int | None:
        """Return how many tokens may come, None for all that the context leaves.

        A limit on prompt and answer together takes the prompt's length to know.
        """
        if request.max_new_tokens is not None:
            return request.max_new_tokens
        if (limit := request.max_length) is None:
            return None
        response = await self._send("POST", path, {**body, "max_tokens": 1})
        self._raise_for_error(response.status_code, _json(response))
        prompt = int(response.json()["usage"]["prompt_tokens"])
        if prompt >= limit:
            message = (
                f"the prompt has {prompt} tokens, and max_length allows {limit} for prompt and continuation together"
            )
            raise EngineRefused(422, "prompt_too_long", message)
        return limit - prompt

    async def _answer(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        response = await self._send("POST", path, body)
        answer = _json(response)
        self._raise_for_error(response.status_code, answer)
        return answer

    async def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        try:
            return await self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise self._unavailable(error) from error

    @asynccontextmanager
    async def _answering(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[httpx.Response]:
        try:
            async with self._http.stream("POST", path, json=body) as response:
                if response.is_error:
                    await response.aread()
                    self._raise_for_error(response.status_code, _json(response))
                yield response
        except httpx.TransportError as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: httpx.TransportError) -> EngineUnavailable:
        return EngineUnavailable(f"the backend {self._url} does not answer ({str(error) or type(error).__name__})")

    def _raise_for_error(self, status: int, body: Mapping[str, Any]) -> None:
        if status < httpx.codes.BAD_REQUEST:
            return
        if status >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise EngineUnavailable(f"the backend {self._url} answered {status}: {_said(body)}")
        code = {404: "weights", 429: "busy"}.get(status, "invalid")
        raise EngineRefused(status, code, f"the backend {self._url} answered {status}: {_said(body)}")


def _event(choice: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the event that a chunk's choice becomes, of either endpoint; None for one without text."""
    delta = choice.get("delta") or {}
    text = choice["text"] if "text" in choice else delta.get("content") or ""
    its = choice.get("logprobs") or {}
    logprobs = [token.model_dump() for token in _logprobs(its)]
    optional = {
        "reasoning": delta.get("reasoning_content") or delta.get("reasoning"),
        "calls": delta.get("tool_calls"),
        "logprobs": logprobs,
    }
    told = {name: value for name, value in optional.items() if value}
    if logprobs:
        told["offsets"] = its.get("text_offset") or []
    return {"text": text} | told if text or told else None


def _tools(tools: list[dict[str, Any]], calls: CallRequirement | None) -> dict[str, Any]:
    """Return what the server is told of tools, and of calls that it has to hold to their schemas by itself."""
    if calls is None:
        # The server's template writes them; what calls there are is read from the text, as from the engine's.
        return {"tools": tools, "tool_choice": "none"}
    choice: Any = "required" if calls.required else "auto"
    if calls.name is not None:
        choice = {"type": "function", "function": {"name": calls.name}}
    functions = [tool["function"] for tool in tools]
    held = [one | {"strict": True} if one["name"] in calls.strict else one for one in functions]
    told = [{"type": "function", "function": one} for one in held]
    return {"tools": told, "tool_choice": choice, "parallel_tool_calls": calls.parallel}


def _logprobs(told: Mapping[str, Any]) -> list[TokenLogprob]:
    """Return the log-probabilities of both of OpenAI's shapes in ours, which is the chat's."""
    if "content" in told:
        return [TokenLogprob(**token) for token in told["content"] or []]
    rows = zip(told.get("tokens", []), told.get("token_logprobs", []), told.get("top_logprobs") or [], strict=False)
    return [
        TokenLogprob(
            **_shown(token, logprob),
            top_logprobs=[TopLogprob(**_shown(rival, its)) for rival, its in (top or {}).items()],
        )
        for token, logprob, top in rows
    ]


def _shown(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {"error": response.text[:300]}
    return body if isinstance(body, dict) else {"error": body}


def _said(body: Mapping[str, Any]) -> str:
    error = body.get("error", body.get("message", body))
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]

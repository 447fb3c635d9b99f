"""Errors of inference, named after what went wrong; every one can be pickled and reads as a sentence."""

from tasks.models.errors import WeightsError


class InferenceError(Exception):
    """Base of every error that inference raises on purpose."""


class TooLargeForMemory(WeightsError):
    """A model or adapter needs more memory than the engine may use; both figures are in bytes."""

    def __init__(self, what: str, needed: int, budget: int) -> None:
        super().__init__(what, needed, budget)
        self.what = what
        self.needed = needed
        self.budget = budget

    def __str__(self) -> str:
        return (
            f"{self.what} needs {self.needed / 1e9:.3f} GB of memory and the engine's budget is "
            f"{self.budget / 1e9:.3f} GB: raise engine_memory_budget_gb"
        )


class EngineBusy(InferenceError):
    """The queue of waiting requests is full."""

    def __init__(self, waiting: int) -> None:
        super().__init__(waiting)
        self.waiting = waiting

    def __str__(self) -> str:
        return f"{self.waiting} requests are already waiting for this model: try again in a moment"


class EngineClosed(InferenceError):
    """The engine is shutting down."""

    def __str__(self) -> str:
        return "the inference engine is shutting down: try again in a moment"


class PromptTooLong(InferenceError):
    """The prompt leaves no room for a single new token.

    `prompt_tokens` and `limit` are token counts; `limit_name` says whose limit it is.
    """

    def __init__(self, prompt_tokens: int, limit: int, limit_name: str = "the model's context") -> None:
        super().__init__(prompt_tokens, limit, limit_name)
        self.prompt_tokens = prompt_tokens
        self.limit = limit
        self.limit_name = limit_name

    def __str__(self) -> str:
        return (
            f"the prompt has {self.prompt_tokens} tokens, and {self.limit_name} allows {self.limit} for prompt and "
            "continuation together: shorten the prompt or raise the limit"
        )


class InputTooLong(InferenceError):
    """A text to embed is longer than `limit`, both in tokens; `limit_name` says whose limit it is."""

    def __init__(self, tokens: int, limit: int, limit_name: str = "the model's context") -> None:
        super().__init__(tokens, limit, limit_name)
        self.tokens = tokens
        self.limit = limit
        self.limit_name = limit_name

    def __str__(self) -> str:
        return (
            f"the input has {self.tokens} tokens, and {self.limit_name} holds {self.limit}: "
            "shorten it or cut it into pieces"
        )


class RequestTooLarge(InferenceError):
    """Prompt and continuation can never fit into the memory kept for the model's sequences. Both are in tokens."""

    def __init__(self, tokens: int, capacity: int) -> None:
        super().__init__(tokens, capacity)
        self.tokens = tokens
        self.capacity = capacity

    def __str__(self) -> str:
        return (
            f"prompt and continuation may come to {self.tokens} tokens, and the engine keeps room for {self.capacity} "
            "of this model: ask for fewer new tokens, or raise engine_kv_cache_gb and engine_memory_budget_gb"
        )


class RequestTimedOut(InferenceError):
    """A request waited and ran for longer than one may; `seconds` is that limit, `tokens` what it had by then."""

    def __init__(self, seconds: float, tokens: int) -> None:
        super().__init__(seconds, tokens)
        self.seconds = seconds
        self.tokens = tokens

    def __str__(self) -> str:
        return (
            f"the answer was not done within {self.seconds:g} s ({self.tokens} tokens were there): ask for fewer "
            "tokens, try again when fewer others ask, or raise generation_timeout_seconds"
        )


class ConstraintFailed(InferenceError):
    """An answer can't go on, or end, as its JSON schema wants it; `reason` is a sentence's part."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"the answer could not be kept to its JSON schema: {self.reason}"


class InvalidRequest(InferenceError):
    """A request asks for what this model can't do; the sentence says what is wrong."""


class EmptyPrompt(InferenceError):
    """The prompt has no tokens and the tokenizer has no token to begin a text with."""

    def __str__(self) -> str:
        return "prompt is empty and this model has no token that begins a text: give at least one character"

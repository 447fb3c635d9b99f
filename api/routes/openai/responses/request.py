"""From a request of the Responses API, with the items it goes on from, to one for chat completions."""

import re
from collections.abc import Iterable
from typing import Any

from sqlalchemy.orm import Session

from api.errors import Invalid, NotFound, PreviousResponseNotFound
from api.routes.openai.chat_request import validated
from api.routes.openai.responses.input_items import Item, ItemReference
from api.routes.openai.responses.items import chat_messages, shown
from api.routes.openai.responses.schemas import PASSED_ON, AllowedTools, NamedFunction, PromptRequest, ResponseRequest
from api.routes.openai.schemas import ChatRequest
from registry.repositories.responses import UNDER_WAY, ConversationRepository, ResponseRepository
from registry.tables import Conversation, StoredResponse

FIELDS = {"messages": "input", "max_completion_tokens": "max_output_tokens", "response_format": "text.format"}
"""What fields of chat completions are called here."""
EFFORTS = {"minimal": "low", "xhigh": "high", "max": "high"}
"""Chat templates that know of effort know three."""
_ID = re.compile(r"[a-z]{1,10}_[A-Za-z0-9]{1,52}")


class Context:
    """What a request goes on from, and what it adds to that."""

    def __init__(self, session: Session, body: PromptRequest) -> None:
        """Read it; raises `Invalid`, `NotFound` and `PreviousResponseNotFound`."""
        if body.previous_response_id is not None and body.conversation is not None:
            message = "previous_response_id and conversation can't both be given: each says what comes before."
            raise Invalid(message, param="conversation")
        self.chain: list[StoredResponse] = []
        self.conversation: Conversation | None = None
        before: list[dict[str, Any]] = []
        if body.previous_response_id is not None:
            self.chain = _chain(session, body.previous_response_id)
            responses = ResponseRepository(session)
            for response in self.chain:
                before += responses.items(response.id, is_output=False)
                before += responses.items(response.id, is_output=True)
        if body.conversation is not None:
            self.conversation = conversation_of(session, body.conversation.id)
            before += ConversationRepository(session).items(self.conversation.id)
        self.inputs = own_items(session, body.input or [])
        self.items = [*before, *self.inputs]


def is_id(given: str) -> bool:
    """Return whether something may be an id of ours: nothing else is asked of the database."""
    return _ID.fullmatch(given) is not None


def own_items(session: Session, items: Iterable[Item]) -> list[dict[str, Any]]:
    """Return the items of a request as they are stored, references as what they name; raises `NotFound`."""
    responses, found = ResponseRepository(session), list[dict[str, Any]]()
    for item in items:
        if not isinstance(item, ItemReference):
            found.append(shown(item))
            continue
        stored = responses.item(item.id) if is_id(item.id) else None
        if stored is None:
            message = f"Item with id {item.id[:80]!r} not found: items are kept unless `store` is false."
            raise NotFound(message, param="input")
        found.append(stored)
    return found


def conversation_of(session: Session, uid: str) -> Conversation:
    """Return a conversation; raises `NotFound`."""
    found = ConversationRepository(session).get(uid) if is_id(uid) else None
    if found is None:
        raise NotFound(f"Conversation with id {uid[:80]!r} not found.", param="conversation")
    return found


def chat_request(body: PromptRequest, items: list[dict[str, Any]]) -> ChatRequest:
    """Return the request for chat completions; raises `Invalid` and FastAPI's error of fields that are wrong."""
    messages = chat_messages(body.instructions, items)
    if not messages:
        raise Invalid("input is required: a text, or a list of items.", param="input")
    chat: dict[str, Any] = {"model": body.model, "messages": messages, **_tools(body)}
    if body.text is not None and body.text.format is not None:
        chat["response_format"] = body.text.format.as_chat()
    if body.reasoning is not None and body.reasoning.effort is not None:
        chat["reasoning_effort"] = EFFORTS.get(body.reasoning.effort, body.reasoning.effort)
    if isinstance(body, ResponseRequest):
        chat |= {"temperature": body.temperature, "top_p": body.top_p, "max_completion_tokens": body.max_output_tokens}
        chat |= {name: getattr(body, name) for name in PASSED_ON}
        if body.with_logprobs:
            chat |= {"logprobs": True, "top_logprobs": body.top_logprobs or 0}
    return validated({name: value for name, value in chat.items() if value is not None}, FIELDS)


def shorter(chat: ChatRequest, count: int) -> ChatRequest | None:
    """Return the request without its `count` oldest messages, but for those of the system; None if none is left.

    What is left begins with a message of the user's, where there is one.
    """
    heads = [one for one in chat.messages if one.role in ("system", "developer")]
    others = [one for one in chat.messages if one.role not in ("system", "developer")]
    rest = others[min(count, len(others) - 1) :]
    first_user = next((place for place, one in enumerate(rest) if one.role == "user"), 0)
    rest = rest[first_user:]
    return chat.model_copy(update={"messages": heads + rest}) if 0 < len(rest) < len(others) else None


def _chain(session: Session, uid: str) -> list[StoredResponse]:
    chain = ResponseRepository(session).chain(uid) if is_id(uid) else None
    if chain is None:
        raise PreviousResponseNotFound(
            f"Previous response with id {uid[:80]!r} not found, or one that it goes on from was deleted.",
            param="previous_response_id",
        )
    if chain[-1].status in UNDER_WAY:
        message = f"previous_response_id is {uid!r}, which is {chain[-1].status}: wait until it has ended."
        raise Invalid(message, param="previous_response_id")
    return chain


def _tools(body: PromptRequest) -> dict[str, Any]:
    tools, choice = body.tools or [], body.tool_choice
    if isinstance(choice, AllowedTools):
        allowed = {tool.name for tool in choice.tools}
        tools, choice = [tool for tool in tools if tool.name in allowed], choice.mode
    if not tools:
        return {}
    named = {"type": "function", "function": {"name": choice.name}} if isinstance(choice, NamedFunction) else choice
    return {
        "tools": [tool.as_chat() for tool in tools],
        "tool_choice": named,
        "parallel_tool_calls": body.parallel_tool_calls,
    }

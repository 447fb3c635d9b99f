"""A client of the platform's API: answers are what their JSON says, failures are sentences."""

import json
import os
import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from api.cli.failures import Refused, Unreachable, WrongUsage

Json = dict[str, Any]
_KEY_CHARACTERS = frozenset(string.digits + string.ascii_letters + string.punctuation)
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 660.0
"""Longer than any endpoint lets a request wait."""
KEY_VARIABLE = "LLM_PLATFORM_API_KEY"
"""No option: every user of a machine sees the options of its commands."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """A server-sent event."""

    kind: str
    """`message` where the event has no name."""
    data: str


class PlatformClient:
    """Talks to one platform. Every method raises `Unreachable` if it does not answer, `Refused` if it says no."""

    def __init__(self, url: str) -> None:
        """`url` is where the platform is, with or without `/api`; the key, if it wants one, is in the environment.

        Raises `WrongUsage` for what is no address, or no key.
        """
        self._url = url.rstrip("/").removesuffix("/api")
        try:
            timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
            self._http = httpx.Client(base_url=self._url, timeout=timeout, headers=_key_header())
        except httpx.InvalidURL as error:
            raise WrongUsage(f"The platform's URL is {url!r}, which is no address: {error}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> Json:
        """Return what GET answers; parameters that are None are left out."""
        return self._ask("GET", path, params={name: value for name, value in params.items() if value is not None})

    def list(self, path: str, entries: str, **params: Any) -> Json:
        """Return what GET answers with all of its `entries`, however many answers they come in."""
        answer = page = self.get(path, **params)
        while page.get("next_after") is not None and params.get("limit") is None:
            page = self.get(path, **params | {"after": page["next_after"]})
            answer[entries] += page[entries]
        # A single page says itself whether there are more; these are all there are.
        return answer | {"next_after": page.get("next_after")}

    def post(self, path: str, body: Json | None = None, **options: Any) -> Json:
        """Return what POST answers; `options` are httpx's, such as a form's `files` and `data`."""
        return self._ask("POST", path, json=body, **options)

    def delete(self, path: str) -> Json:
        """Return what DELETE answers."""
        return self._ask("DELETE", path)

    def events(self, method: str, path: str, body: Json | None = None) -> Iterator[ServerEvent]:
        """Yield server-sent events as they come."""
        headers = {"Accept": "text/event-stream"}
        with self._failures_named(), self._http.stream(method, path, json=body, headers=headers) as response:
            if not response.is_success:
                response.read()
                raise _refusal(response)
            yield from read_events(response.iter_lines())

    def _ask(self, method: str, path: str, **options: Any) -> Json:
        with self._failures_named():
            response = self._http.request(method, path, **options)
        if not response.is_success:
            raise _refusal(response)
        try:
            answer: Json = response.json()
        except ValueError as error:
            raise self._foreign() from error
        if not isinstance(answer, dict):
            raise self._foreign()
        return answer

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
            raise WrongUsage(f"The platform's URL is {self._url!r}: it must begin with http:// or https://.") from error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(
                f"No platform answers at {self._url}: start it with `llm-platform up`, or name another by --url or "
                "LLM_PLATFORM_URL."
            ) from error
        except httpx.TransportError as error:
            raise Unreachable(f"The platform at {self._url} stopped answering ({_reason(error)}).") from error

    def _foreign(self) -> Refused:
        return Refused(f"What answers at {self._url} is not the platform: name the platform by --url.")


def read_events(lines: Iterator[str]) -> Iterator[ServerEvent]:
    """Yield the events of a stream's lines: https://html.spec.whatwg.org/multipage/server-sent-events.html."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            # A line without a name is a comment.
            fields[name] = f"{fields[name]}\n{value}" if name == "data" and name in fields else value
            continue
        if "data" in fields:
            yield ServerEvent(fields.get("event", "message"), fields["data"])
        fields = {}


def _key_header() -> dict[str, str]:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        return {}
    if any(character not in _KEY_CHARACTERS for character in key):
        raise WrongUsage(f"{KEY_VARIABLE} is no key: it has a character other than printable ASCII without spaces.")
    return {"Authorization": f"Bearer {key}"}


def _refusal(response: httpx.Response) -> Refused:
    """Return the API's own sentence, under `/v1` as under `/api`."""
    try:
        error = json.loads(response.text)["error"]
        return Refused(str(error["message"] if isinstance(error, dict) else error))
    except (ValueError, KeyError, TypeError):
        return Refused(f"{response.url} answered {response.status_code} {response.reason_phrase}.")


def _reason(error: httpx.TransportError) -> str:
    return str(error) or type(error).__name__

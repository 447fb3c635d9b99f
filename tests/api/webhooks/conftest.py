"""Targets for the length of a test, and names that no DNS has."""

import socket

import pytest

from tests.api.webhooks.receiver import ALL


@pytest.fixture
def target(sdk):
    """Register a URL, until the test is over; returns the endpoint with its secret."""
    made = []

    def register(url, event_types=ALL):
        made.append(sdk.webhooks.create(name="mine", url=url, event_types=event_types))
        return made[-1]

    yield register
    for endpoint in made:
        sdk.webhooks.delete(endpoint.id)


@pytest.fixture
def names(monkeypatch):
    """For each name the addresses of its look-ups, one after the other; the last ones stay. DNS has all other names."""
    known: dict[str, list[list[str]]] = {}
    ask = socket.getaddrinfo

    def look_up(host, port, *arguments, **options):
        if host not in known:
            return ask(host, port, *arguments, **options)
        answers = known[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        return [one for address in addresses for one in ask(address, port, *arguments, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known

"""API keys as they are configured: made, read back, compared in constant time, and refused when they are none."""

import hmac
import secrets

import pytest
from pydantic import ValidationError

from configs.keys import Scope, holder_of, new_key, parse_keys
from configs.settings import Settings

DIGEST = "ab" * 32


def test_a_new_key_is_known_by_its_hash_alone():
    key, configured = new_key("ci", Scope.WRITE)
    assert parse_keys(str(configured)) == (configured,)
    assert str(configured).startswith("ci:write:")
    assert key not in str(configured)
    assert holder_of((configured,), key.encode()) == configured
    assert holder_of((configured,), key.encode()[:-1]) is None
    assert holder_of((configured,), configured.digest.encode()) is None
    assert new_key("ci", Scope.WRITE)[0] != key


def test_a_scope_covers_those_before_it():
    covered = {scope: [needed for needed in Scope if scope.covers(needed)] for scope in Scope}
    assert covered == {
        Scope.READ: [Scope.READ],
        Scope.WRITE: [Scope.READ, Scope.WRITE],
        Scope.ADMIN: [Scope.READ, Scope.WRITE, Scope.ADMIN],
    }


@pytest.mark.parametrize("presented", ["first", "last", "unknown"])
def test_every_key_is_compared_in_constant_time(monkeypatch, presented):
    made = [new_key(f"key-{number}", Scope.READ) for number in range(5)]
    compared = []

    def counted(one, other):
        compared.append(one)
        return constant_time(one, other)

    constant_time = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", counted)
    key, expected = {"first": made[0], "last": made[-1], "unknown": (secrets.token_urlsafe(), None)}[presented]
    assert holder_of([configured for _, configured in made], key.encode()) == expected
    assert compared == [configured.digest for _, configured in made]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "entry 1 is not NAME:SCOPE:SHA256"),
        ("llmp_in-clear-text", "entry 1 is not NAME:SCOPE:SHA256"),
        (f"ci:read:{DIGEST},", "entry 2 is not NAME:SCOPE:SHA256"),
        (f"ci:read:{DIGEST}:more", "entry 1 is not NAME:SCOPE:SHA256"),
        (f"ci:read:{DIGEST.upper()}", "entry 1 is not NAME:SCOPE:SHA256"),
        (f"two words:read:{DIGEST}", "entry 1 is not NAME:SCOPE:SHA256"),
        (f"ci:root:{DIGEST}", r"entry 1 \(ci\) has the scope 'root', but there are read, write, admin"),
        (f"ci:read:{DIGEST},me:admin:{DIGEST}", r"entry 2 \(me\) has the hash of an earlier one"),
    ],
)
def test_what_is_no_list_of_keys_is_refused(monkeypatch, text, words):
    with pytest.raises(ValueError, match=words) as caught:
        parse_keys(text)
    assert "clear-text" not in str(caught.value)
    monkeypatch.setenv("LLM_PLATFORM_API_KEYS", text)
    with pytest.raises(ValidationError, match="api_keys"):
        Settings()


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.0.2.7", False),
        ("localhost.example", False),
    ],
)
def test_doors_without_keys_stay_on_loopback_unless_forced(host, loopback):
    settings = Settings(host=host)
    assert settings.loopback is loopback
    assert settings.keyless_host == (host if loopback else "127.0.0.1")
    assert Settings(host=host, force_open=True).keyless_host == host

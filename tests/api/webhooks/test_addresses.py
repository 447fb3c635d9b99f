"""Which addresses count as internal, whatever form they come in, and which URLs can be targets."""

import asyncio

import httpx
import pytest

from api.webhooks.addresses import Resolver, TargetUnreachable, is_internal, parsed

INTERNAL = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:c0a8:101::1",
    "2001::1",
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::1"]


@pytest.mark.parametrize("address", INTERNAL)
def test_internal(address):
    assert is_internal(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address):
    assert not is_internal(address)


def look_up(url: str, *, allow_internal: bool = False) -> list[str]:
    resolver = Resolver(allow_internal=allow_internal)
    try:
        return asyncio.run(resolver.addresses_of(parsed(url)))
    finally:
        resolver.close()


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1", "127.1", "2130706433", "0x7f.1", "[::1]", "[::ffff:7f00:1]", "169.254.169.254"]
)
def test_every_spelling_of_an_internal_host_is_looked_up_and_refused(host):
    with pytest.raises(TargetUnreachable, match="not public"):
        look_up(f"http://{host}/")
    assert look_up(f"http://{host}/", allow_internal=True)


def test_one_internal_address_among_public_ones_is_enough(names):
    names["two-faced.test"] = [["1.1.1.1", "10.0.0.1"]]
    with pytest.raises(TargetUnreachable, match=r"10\.0\.0\.1, which is not public"):
        look_up("https://two-faced.test")
    names["public.test"] = [["1.1.1.1", "2606:4700:4700::1111"]]
    assert look_up("https://public.test") == ["1.1.1.1", "2606:4700:4700::1111"]


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64 + ".test", "a..b"])
def test_a_name_without_an_address(host):
    with pytest.raises(TargetUnreachable, match="has no address"):
        look_up(f"http://{host}/")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("hooks.example.com", "http:// or https://"),
        ("ftp://example.com/", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("http://", "with a host"),
        ("http:///path", "with a host"),
        ("http://anna:secret@example.com/", "without user name"),
        ("http://example.com@10.0.0.1/", "without user name"),
        ("http://example.com/#top", "fragment"),
        ("http://example.com:0/", "port"),
        ("http://example.com:99999/", "port"),
        ("http://[::1/", "must be a URL"),
        ("http://exa mple.com/", "with a host"),
    ],
)
def test_what_is_no_target(url, said):
    with pytest.raises(ValueError, match=said):
        parsed(url)


def test_what_is_one():
    assert parsed("HTTPS://Hooks.Example.com:8443/a?b=c") == httpx.URL("https://hooks.example.com:8443/a?b=c")
    assert parsed("http://bücher.example/").raw_host == b"xn--bcher-kva.example"

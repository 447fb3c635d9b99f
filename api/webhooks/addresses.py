"""Where webhooks may be sent: URLs of the web, whose every address is public unless a setting allows the others.

A target is named by whoever may call the API, and requested by this machine, which may reach what they can't: its own
loopback, its network, a cloud's metadata service.
"""

import asyncio
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

import httpx

PORTS = {"http": 80, "https": 443}
LONGEST_URL = 2000
THREADS = 4
HOST = re.compile(rb"[A-Za-z0-9._:-]+")
"""A name as DNS has it, or an address."""
# The IPv4 address is in the last four bytes: what a translator (NAT64) makes of a name that has only such addresses.
TRANSLATED = IPv6Network("64:ff9b::/96")


class TargetUnreachable(Exception):
    """A target has no address that a webhook may be sent to."""


def parsed(url: str) -> httpx.URL:
    """Return the URL of a target; raises `ValueError` with what is accepted if it can't be one."""
    try:
        found = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"It must be a URL: {error}") from error
    if found.scheme not in PORTS or not HOST.fullmatch(found.raw_host):
        raise ValueError("It must be an http:// or https:// URL with a host")
    if found.userinfo or found.fragment:
        raise ValueError("It must be a URL without user name, password and fragment")
    if found.port is not None and not 1 <= found.port <= 65535:
        raise ValueError("It must be a URL with a port from 1 to 65535, or none")
    return found


def host_of(target: httpx.URL) -> str:
    """Return the target's host as DNS and TLS know it."""
    return target.raw_host.decode("ascii")


class Resolver:
    """Looks up targets, in threads of its own: a name server that does not answer holds up webhooks only."""

    def __init__(self, *, allow_internal: bool) -> None:
        self._allow_internal = allow_internal
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="webhook-lookup")

    async def addresses_of(self, target: httpx.URL) -> list[str]:
        """Return the addresses of a target's host, in the order to try them.

        Raises `TargetUnreachable` if it has none, or if any of them is internal and that is not allowed: a name that
        has both is not the name of a public service.
        """
        host, port = host_of(target), target.port or PORTS[target.scheme]
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port)
        except (OSError, UnicodeError) as error:
            raise TargetUnreachable(f"the name {host} has no address ({error})") from error
        internal = [address for address in found if is_internal(address)]
        if internal and not self._allow_internal:
            allowed_by = "LLM_PLATFORM_WEBHOOK_ALLOW_INTERNAL=true allows it"
            raise TargetUnreachable(f"{host} has the address {internal[0]}, which is not public ({allowed_by})")
        return found

    async def require_target(self, url: str, seconds: float) -> None:
        """Raise `TargetUnreachable` if nothing could be sent to this URL now; its name is looked up for so long."""
        try:
            async with asyncio.timeout(seconds):
                await self.addresses_of(parsed(url))
        except TimeoutError as error:
            raise TargetUnreachable("its name could not be looked up in time") from error

    def close(self) -> None:
        """Forget look-ups that have not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def is_internal(address: str) -> bool:
    """Return whether an address is anything but public: private, loopback, link-local, multicast, reserved …"""
    ip = ip_address(address)
    if isinstance(ip, IPv6Address):
        carried = _carried(ip)
        if carried is None:
            return not ip.is_global or ip.is_multicast or ip.is_reserved or ip.is_site_local
        ip = carried
    return not ip.is_global or ip.is_multicast or ip.is_reserved


def _carried(ip: IPv6Address) -> IPv4Address | None:
    """Return the IPv4 address that packets to this one end at, if it is only a wrapping of that."""
    if ip in TRANSLATED:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour

"""Requests to addresses that users name: never into the server's own network.

A host is resolved once, every address that it has is looked at, and the connection goes to those very addresses. `[egress] hosts` names
those of the operator's own network that may be asked all the same.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from aiohttp import ClientConnectorDNSError, ClientConnectorError, ClientSSLError
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from distill.errors import Invalid

_LONGEST_LABEL = 63
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All of IPv6 that is given out for use on the internet; whatever lies outside of it is reserved."""
_ANYCAST = (ipaddress.IPv4Address("192.0.0.9"), ipaddress.IPv4Address("192.0.0.10"))
_SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24"),
        *("192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
        *("2001::/23", "2001:db8::/32", "3fff::/20"),
    )
)
"""IANA's registries of special-purpose addresses (RFC 6890), in place of `is_global`: that depends on the version of Python, and takes
192.0.0.0/24 and IPv4-compatible addresses for public."""


class NotPublic(OSError):
    """A host has an address that is not public, so that it is not asked."""


class PublicResolver(AbstractResolver):
    """Resolves hosts that are public, or that the operator allows. Raises NotPublic; an OSError for a name without an address."""

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed, self._inner = frozenset(allowed), ThreadedResolver()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        try:
            found = await self._inner.resolve(host, port, family)
        except UnicodeError as error:  # what an older row or the settings name was not looked at
            raise OSError(f"{host[:100]!r} is no name of a host") from error
        if host not in self._allowed and not all(is_public(each["host"]) for each in found):
            raise NotPublic(f"{host} has an address that is not public")
        return found

    async def close(self) -> None:
        await self._inner.close()


def why_not_reached(error: Exception) -> Literal["address_not_allowed", "tls", "name_not_found", "refused", "broken"]:
    """What came between a request of aiohttp and its answer."""
    cause = error.__cause__ or error.__context__
    if isinstance(error, NotPublic) or isinstance(cause, NotPublic):
        return "address_not_allowed"
    if isinstance(error, ClientSSLError):
        return "tls"
    if isinstance(error, ClientConnectorDNSError):
        return "name_not_found"
    return "refused" if isinstance(error, ClientConnectorError) else "broken"


def check_url(url: str, allowed: Collection[str], param: str = "url") -> None:
    """Raises Invalid for an address that is never asked: not https, with a user or a fragment, or of an IP that is not public."""
    parts, host = _split(url, param)
    if host in allowed:
        return
    if parts.scheme != "https":
        raise Invalid(f"{param}: must begin with https://", code="bad_url", param=param)
    if _is_number(host) and not _is_public_ip(host):
        raise Invalid(f"{param}: {host} is not a public address", code="bad_url", param=param)


def _split(url: str, param: str) -> tuple[SplitResult, str]:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = SplitResult("", "", "", "", ""), None
    if not host or parts.scheme not in ("http", "https") or any(not "!" <= character <= "~" for character in url):
        raise Invalid(f"{param}: is not a web address", code="bad_url", param=param)
    if not _is_name(host):
        raise Invalid(f"{param}: its host has a part that is empty, or longer than 63 characters", code="bad_url", param=param)
    if "@" in parts.netloc or "#" in url or "\\" in url:
        raise Invalid(f"{param}: holds a user, a fragment or a backslash", code="bad_url", param=param)
    return parts, host


def _is_name(host: str) -> bool:
    """Whether a resolver can be asked for it (RFC 1035, 2.3.4), which raises UnicodeError for others; an IPv6 address has no parts."""
    return ":" in host or all(0 < len(part) <= _LONGEST_LABEL for part in host.removesuffix(".").split("."))


def _is_number(host: str) -> bool:
    """Whether some reader would take it for an IP address, `127.1`, `0x7f000001` and `0177.0.0.1` among them: no resolver is asked then."""
    last = host.rstrip(".").rpartition(".")[2]
    return ":" in host or last.isdigit() or last.startswith("0x")


def _is_public_ip(host: str) -> bool:
    try:
        return is_public(host)
    except ValueError:
        return False


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, also where it wraps an address of IPv4."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in _SPECIAL) or ip in _ANYCAST
    inner = _wrapped(ip)
    return is_public(str(inner)) if inner else ip in _UNICAST and not any(ip in network for network in _SPECIAL)


def _wrapped(ip: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The address of IPv4 that a packet to this one may end up at."""
    return ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)

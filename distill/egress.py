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
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


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
    return ip.is_global and not ip.is_multicast and all(inner.is_global for inner in _wrapped(ip))


def _wrapped(ip: _Address) -> list[ipaddress.IPv4Address]:
    if not isinstance(ip, ipaddress.IPv6Address):
        return []
    through_nat = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
    return [inner for inner in (ip.ipv4_mapped, ip.sixtofour, through_nat, *(ip.teredo or ())) if inner is not None]

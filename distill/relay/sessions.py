"""HTTP sessions with LM hosts."""

from __future__ import annotations

import aiohttp

from distill.egress import PublicResolver


def open_session(connect_seconds: float, resolver: PublicResolver | None = None) -> aiohttp.ClientSession:
    """No cookies and no proxy of the environment: what is asked is what the target says."""
    connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, resolver=resolver)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_seconds)
    return aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar())

"""Secrets that tests plant, and the search for them, however they are spelled."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import quote


def spellings(secret: str) -> Iterator[bytes]:
    """Plain, backwards, as hex, as base64 wherever in a longer text it begins, and in an address."""
    plain = secret.encode()
    yield plain
    yield plain[::-1]
    yield plain.hex().encode()
    yield quote(plain).encode()
    for before in range(3):
        whole = b64encode(b"\0" * before + plain)
        yield whole[4 * (before > 0) : len(whole) - 4].rstrip(b"=")


def leaks(secrets: Iterable[str], texts: Mapping[str, bytes]) -> dict[str, list[str]]:
    """Which secrets stand in which texts."""
    forms = {secret: set(spellings(secret)) for secret in secrets}
    found = {where: [secret for secret, spelled in forms.items() if any(form in text for form in spelled)] for where, text in texts.items()}
    return {where: told for where, told in found.items() if told}

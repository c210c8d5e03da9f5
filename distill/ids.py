"""Prefixed ids whose text order is their order of creation."""

from __future__ import annotations

import base64
import secrets
import threading
import time
from datetime import datetime

_lock = threading.Lock()
_last_tick = 0


def new_id(prefix: str) -> str:
    """`cjob` → `cjob-` and 26 characters: a UUIDv7 in base32hex, whose alphabet sorts like its bytes."""
    return f"{prefix}-{base64.b32hexencode(_uuid7_bytes()).decode().rstrip('=').lower()}"


def first_id(prefix: str, when: datetime) -> str:
    """All ids that are made at `when` or later sort from here on; by it, rows of a time are found along the index of ids."""
    stamp = (int(when.timestamp() * 1000) << 80).to_bytes(16, "big")
    return f"{prefix}-{base64.b32hexencode(stamp).decode().rstrip('=').lower()}"


def short_token(length: int = 8) -> str:
    """Random lowercase letters and digits, for names that must never repeat."""
    return base64.b32hexencode(secrets.token_bytes(length)).decode().lower()[:length]


def _uuid7_bytes() -> bytes:
    tick = _next_tick()
    stamp = ((tick >> 12) << 80) | (0x7 << 76) | ((tick & 0xFFF) << 64)
    return (stamp | (0b10 << 62) | secrets.randbits(62)).to_bytes(16, "big")


def _next_tick() -> int:
    """Milliseconds in the high bits, 1/4096 ms in the low 12; never the same twice in a process, so ids made in a row sort in a row."""
    global _last_tick
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    with _lock:
        _last_tick = max(_last_tick + 1, (milliseconds << 12) | (rest * 4096 // 1_000_000))
        return _last_tick

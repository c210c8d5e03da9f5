"""Digests of messages of chats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill.spec import digest


def system_prompt_digest(text: str) -> str:
    """Of a chat's system message: what tells a rendered prompt from any other."""
    return digest(["system", text])


def row_digest(prompt: Sequence[Mapping[str, Any]], completion: Sequence[Mapping[str, Any]]) -> str:
    """Of one training record: its messages, and nothing about where it came from."""
    return digest({"prompt": prompt, "completion": completion})

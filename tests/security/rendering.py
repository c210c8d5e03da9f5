"""The program that renders chat templates, as it is or with parts left out. Nothing here is part of the server."""

from __future__ import annotations

from engines.rendering import process

PROGRAM = process.PROGRAM
WITHOUT_JINJAS_SANDBOX = ("made = ImmutableSandboxedEnvironment(", "from jinja2 import Environment; made = Environment(")
WITHOUT_LOCK = ('if sys.platform.startswith("linux")', "if False")


def weaker(*changes: tuple[str, str]) -> str:
    """Its text with each of these replaced; they have to be there."""
    text = PROGRAM.read_text(encoding="utf-8")
    for there, instead in changes:
        assert there in text, there
        text = text.replace(there, instead)
    return text

"""Why code is not sent."""

from __future__ import annotations

from stillhouse._exceptions import StillhouseError


class NotSendable(StillhouseError, ValueError):
    """Code that cannot go to a server; the text names what is in the way. Nothing was sent."""

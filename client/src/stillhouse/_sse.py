"""Server-sent events, as much of the format as our server sends: `id`, `event`, `data`, comments."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Message:
    """One event as it came over the wire."""

    id: str | None = None
    event: str = "message"
    data: str = ""


@dataclass
class Decoder:
    """Fed line by line; gives a message at each blank line that ends one with data."""

    _id: str | None = None
    _event: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, line: str) -> Message | None:
        """A line without its line break."""
        if not line:
            return self._finish()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id":
            self._id = value
        return None

    def _finish(self) -> Message | None:
        data, event = self._data, self._event
        self._data, self._event = [], ""
        return Message(self._id, event or "message", "\n".join(data)) if data else None

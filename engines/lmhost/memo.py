"""What the model said before: final hidden states by (LoRA adapter, tokens)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from engines.lmhost.rows import Row


@dataclass
class HiddenMemo:
    """Final hidden states by (LoRA adapter, tokens): the same beginning met again needs no pass at all. LRU, bounded in entries."""

    entries: int
    _states: dict[bytes, tuple[int, Tensor]] = field(default_factory=dict)

    def get(self, row: Row) -> Tensor | None:
        """The hidden state after all of the row's tokens, if known."""
        digest = row.digest()
        found = self._states.pop(digest, None)
        if found is None:
            return None
        self._states[digest] = found
        return found[1]

    def put(self, row: Row, hidden: Tensor, beyond: Sequence[int] = ()) -> None:
        """Remember ``hidden [hidden_size]`` after the row's tokens and those ``beyond`` them."""
        self._states[row.digest(beyond)] = (row.adapter_uid, hidden)
        if len(self._states) > self.entries:
            del self._states[next(iter(self._states))]

    def forget(self, adapter: int) -> None:
        """Drop what was computed with one LoRA adapter."""
        self._states = {key: value for key, value in self._states.items() if value[0] != adapter}

    def clear(self) -> None:
        """Drop everything."""
        self._states.clear()

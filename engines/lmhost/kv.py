"""Keys and values: one slot per running row for its own tokens, and the layout that segments share with slots.

The layout is ``[layers, 2, (slots,) tokens, kv_heads, head_dim]``; index 0 of the second axis holds keys, 1 values. A token's
heads lie together, so appending is one indexed copy and cutting along tokens is a view.
"""

from __future__ import annotations

import heapq

import torch
from torch import Tensor

from engines.lmhost.model import ModelShape

FIRST_CAPACITY = 192


class SlotPool:
    """Own keys and values of up to ``slots`` rows. Memory is touched only where a row has written."""

    def __init__(self, shape: ModelShape, slots: int, dtype: torch.dtype, device: torch.device) -> None:
        self._shape, self._slots, self._dtype, self._device = shape, slots, dtype, device
        self.data = self._new(FIRST_CAPACITY)
        self._free = list(range(slots))

    @property
    def capacity(self) -> int:
        """Tokens that each slot can hold now."""
        return self.data.shape[3]

    def _new(self, capacity: int) -> Tensor:
        size = (self._shape.layers, 2, self._slots, capacity, self._shape.kv_heads, self._shape.head_dim)
        # Zeros, not garbage: a masked place may hold no NaN. The system hands zero pages out on first touch.
        return torch.zeros(size, dtype=self._dtype, device=self._device)

    @property
    def used(self) -> list[int]:
        """Slots that rows hold."""
        return [slot for slot in range(self._slots) if slot not in self._free]

    def take(self) -> int:
        """The lowest free slot, so that the running ones stay close together. Raises IndexError without one."""
        return heapq.heappop(self._free)

    def give_back(self, slot: int) -> None:
        """Free a slot; with none in use a grown pool shrinks again."""
        heapq.heappush(self._free, slot)
        if len(self._free) == self._slots and self.capacity > FIRST_CAPACITY:
            self.data = self._new(FIRST_CAPACITY)

    def reserve(self, tokens: int) -> None:
        """Make every slot hold at least ``tokens``, keeping what the used ones hold."""
        if tokens <= self.capacity:
            return
        grown = self._new(max(tokens, 2 * self.capacity))
        for slot in self.used:
            grown[:, :, slot, : self.capacity] = self.data[:, :, slot]
        self.data = grown

    def write(self, layer: int, flat: Tensor, k: Tensor, v: Tensor) -> None:
        """Store new keys and values ``[T, kv_heads, head_dim]`` at ``flat`` = slot * capacity + place."""
        plane = self.data[layer].flatten(1, 2)
        plane[0].index_copy_(0, flat, k)
        plane[1].index_copy_(0, flat, v)

    def fill(self, slot: int, start: int, part: Tensor) -> None:
        """Copy ``part [layers, 2, n, kv_heads, head_dim]`` into a slot at ``start``."""
        self.data[:, :, slot, start : start + part.shape[2]] = part

    def read(self, slot: int, start: int, stop: int) -> Tensor:
        """A copy of a slot's tokens ``start:stop``."""
        return self.data[:, :, slot, start:stop].clone()

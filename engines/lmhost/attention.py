"""Attention of a packed batch in pieces that are merged by their log-sum-exp (cascade attention).

Keys and values that several rows share are read once for all of them, as one product over all their queries; each row's own
keys and values lie in its slot. Softmax over the union equals the pieces weighted by the exponent of their log-sum-exp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from engines.lmhost.kv import SlotPool


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """``q [R, kv_heads, N, D]`` over ``k, v [R, kv_heads, L, D]`` with an additive ``mask [R, 1, N, L]``.

    Returns the result like ``q`` and the log-sum-exp ``[R, kv_heads, N]`` in float32.
    """
    if q.device.type == "cpu":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, attn_mask=mask)
        return out, lse
    return _attend_plain(q, k, v, mask)


def _attend_plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    scores = (q @ k.transpose(2, 3)).float() * q.shape[-1] ** -0.5
    scores = scores if mask is None else scores + mask
    lse = scores.logsumexp(-1)
    return (scores - lse[..., None]).exp().to(q.dtype) @ v, lse


class Own(Protocol):
    """Where the new keys and values of a pass go, and how its rows attend over what they own."""

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Store the new keys and values ``[T, kv_heads, D]``."""

    def attend(self, layer: int, q: Tensor) -> tuple[Tensor, Tensor]:
        """``q [T, heads, D]`` to the result like ``q`` and the log-sum-exp ``[T, heads]``."""


@dataclass(frozen=True)
class Shared:
    """A stretch of keys and values ``[layers, 2, n, kv_heads, D]`` that the tokens ``start:stop`` see whole."""

    kv: Tensor
    start: int
    stop: int

    def attend(self, layer: int, q: Tensor) -> tuple[Tensor, Tensor]:
        """All queries of the range as one: ``[n, heads, D]`` to the same and the log-sum-exp ``[n, heads]``."""
        k, v = (part.transpose(0, 1)[None] for part in self.kv[layer].unbind(0))
        n, heads, width = q.shape
        groups = heads // k.shape[1]
        folded = q.view(n, k.shape[1], groups, width).transpose(0, 1).reshape(1, k.shape[1], n * groups, width)
        out, lse = attend(folded, k, v, None)
        out = out.reshape(k.shape[1], n, groups, width).transpose(0, 1).reshape(n, heads, width)
        return out, lse.reshape(k.shape[1], n, groups).transpose(0, 1).reshape(n, heads)


@dataclass
class CascadeAttention:
    """Attention over the rows' own tokens and over the stretches they share."""

    own: Own
    shared: list[Shared]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.own.write(layer, k, v)
        q = q.contiguous()
        out, lse = self.own.attend(layer, q)
        for stretch in self.shared:
            here = slice(stretch.start, stretch.stop)
            out[here], lse[here] = merge(out[here], lse[here], *stretch.attend(layer, q[here]))
        return out.reshape(out.shape[0], -1)


def merge(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Combine two pieces ``[T, heads, D]`` with log-sum-exps ``[T, heads]``."""
    total = torch.logaddexp(lse, more_lse)
    weighted = out.float() * (lse - total).exp()[..., None] + more.float() * (more_lse - total).exp()[..., None]
    return weighted.to(out.dtype), total


@dataclass
class Bucket:
    """Rows with about as many new tokens each, padded to one grid of ``rows x width`` for attention alone.

    ``tokens`` are their places in the packed batch, ``cells`` their places in the grid; ``slots`` is None where grid row i is slot i.
    """

    tokens: Tensor
    cells: Tensor
    slots: Tensor | None
    rows: int
    width: int
    length: int
    mask: Tensor


class SlotAttention:
    """Rows that own slots of a pool."""

    def __init__(self, pool: SlotPool, flat: Tensor, buckets: list[Bucket]) -> None:
        self._pool, self._flat, self._buckets = pool, flat, buckets

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        self._pool.write(layer, self._flat, k, v)

    def attend(self, layer: int, q: Tensor) -> tuple[Tensor, Tensor]:
        if len(self._buckets) == 1:
            # All rows in the order of the batch.
            return self._bucket(layer, self._buckets[0], q)
        out, lse = torch.empty_like(q), torch.empty(q.shape[:2], device=q.device)
        for bucket in self._buckets:
            out[bucket.tokens], lse[bucket.tokens] = self._bucket(layer, bucket, q[bucket.tokens])
        return out, lse

    def _bucket(self, layer: int, bucket: Bucket, q: Tensor) -> tuple[Tensor, Tensor]:
        k, v = (self._keys(part, bucket) for part in self._pool.data[layer].unbind(0))
        rows, width, (_, heads, size) = bucket.rows, bucket.width, q.shape
        kv_heads = k.shape[1]
        groups = heads // kv_heads
        grid = q.new_zeros(rows * width, heads, size)
        grid[bucket.cells] = q
        folded = grid.view(rows, width, kv_heads, groups, size).transpose(1, 2).reshape(rows, kv_heads, width * groups, size)
        out, lse = attend(folded, k, v, bucket.mask)
        out = out.reshape(rows, kv_heads, width, groups, size).transpose(1, 2).reshape(rows * width, heads, size)
        lse = lse.reshape(rows, kv_heads, width, groups).transpose(1, 2).reshape(rows * width, heads)
        return out[bucket.cells], lse[bucket.cells]

    def _keys(self, part: Tensor, bucket: Bucket) -> Tensor:
        """``[slots, capacity, kv_heads, D]`` to the bucket's ``[rows, kv_heads, length, D]``, a view where grid rows are slots."""
        cut = part[:, : bucket.length]
        return (cut[: bucket.rows] if bucket.slots is None else cut[bucket.slots]).transpose(1, 2)


class StretchAttention:
    """One row whose own keys and values are a stretch that the prefix cache will keep: ``kv [layers, 2, n, kv_heads, D]``."""

    def __init__(self, kv: Tensor, start: int, stop: int, groups: int) -> None:
        self._kv, self._start, self._stop = kv, start, stop
        self._mask = additive_mask(causal(torch.arange(start, stop, device=kv.device)[None], stop), groups, kv.dtype)

    def write(self, layer: int, k: Tensor, v: Tensor) -> None:
        self._kv[layer, 0, self._start : self._stop] = k
        self._kv[layer, 1, self._start : self._stop] = v

    def attend(self, layer: int, q: Tensor) -> tuple[Tensor, Tensor]:
        n, heads, size = q.shape
        k, v = (part[: self._stop].transpose(0, 1)[None] for part in self._kv[layer].unbind(0))
        kv_heads = k.shape[1]
        groups = heads // kv_heads
        folded = q.view(n, kv_heads, groups, size).transpose(0, 1).reshape(1, kv_heads, n * groups, size)
        out, lse = attend(folded, k, v, self._mask)
        out = out.reshape(kv_heads, n, groups, size).transpose(0, 1).reshape(n, heads, size)
        return out, lse.reshape(kv_heads, n, groups).transpose(0, 1).reshape(n, heads)


def causal(places: Tensor, length: int) -> Tensor:
    """``[rows, width, length]`` (bool): a query at own place p sees own places 0..p."""
    return torch.arange(length, device=places.device) <= places[:, :, None]


def additive_mask(sees: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """``sees [rows, width, length]`` as an additive mask ``[rows, 1, width * groups, length]``."""
    mask = torch.zeros(sees.shape, dtype=dtype, device=sees.device).masked_fill_(~sees, float("-inf"))
    return mask.repeat_interleave(groups, dim=1)[:, None]

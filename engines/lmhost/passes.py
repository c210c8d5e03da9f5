"""Builds the packed batch of one pass from rows."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from engines.lmhost.ahead import Ahead
from engines.lmhost.attention import Bucket, CascadeAttention, Own, Shared, SlotAttention, StretchAttention, additive_mask, causal
from engines.lmhost.kv import SlotPool
from engines.lmhost.lora import LoraAdapter, LoraSlice
from engines.lmhost.model import Batch, Llama
from engines.lmhost.prefix_tree import Hit, Tokens
from engines.lmhost.rows import Row

# Rows with at most this many new tokens attend together, in the slots' own order, without copying keys.
NARROW = 16


def rows_batch(model: Llama, pool: SlotPool, rows: list[Row], new: list[Tokens], ahead: list[Ahead]) -> Batch:
    """The batch that computes ``new[i]`` and then ``ahead[i]`` of ``rows[i]``, hidden states wanted for the last of the former and where
    the latter wants them.

    Rows must be sorted by ``Row.group`` and own slots with room.
    """
    tokens = [np.append(known, np.array(more.tokens, np.int32)) for known, more in zip(new, ahead, strict=True)]
    counts = np.array([len(each) for each in tokens])
    ends = counts.cumsum()
    own = np.repeat([row.own for row in rows], counts) + np.arange(ends[-1]) - np.repeat(ends - counts, counts)
    positions = np.concatenate(
        [
            row.computed + np.append(np.arange(len(known)), len(known) + more.depths)
            for row, known, more in zip(rows, new, ahead, strict=True)
        ]
    )
    slots = np.array([row.slot for row in rows])
    flat = np.repeat(slots, counts) * pool.capacity + own
    buckets = [_bucket(model, pool, rows, counts, ends, own, picked, ahead) for picked in _by_width(counts)]
    attention = SlotAttention(pool, _tensor(flat, model), buckets)
    wanted = np.concatenate([end - len(more.tokens) + np.array([-1, *more.wanted]) for end, more in zip(ends, ahead, strict=True)])
    return _batch(model, np.concatenate(tokens), positions, wanted, _lora(rows, ends), attention, _stretches(rows, ends))


def stretch_batch(model: Llama, adapter: LoraAdapter | None, before: list[Hit], kv: Tensor, tokens: Tokens, start: int) -> Batch:
    """The batch that computes ``tokens`` as places ``start…`` of the stretch ``kv``, which comes after the hits ``before``."""
    stop = start + len(tokens)
    known = sum(hit.length for hit in before)
    lora = [LoraSlice(adapter, 0, len(tokens))] if adapter else []
    own = StretchAttention(kv, start, stop, model.shape.groups)
    shared = [Shared(hit.kv[:, :, : hit.length], 0, len(tokens)) for hit in before]
    return _batch(model, tokens, np.arange(known + start, known + stop), np.array([len(tokens) - 1]), lora, own, shared)


def _batch(
    model: Llama, tokens: Tokens, positions: np.ndarray, wanted: np.ndarray, lora: list[LoraSlice], own: Own, shared: list[Shared]
) -> Batch:
    attention = CascadeAttention(own, shared)
    return Batch(_tensor(tokens, model), _tensor(positions, model), _tensor(wanted, model), lora, attention)


def _tensor(values: np.ndarray, model: Llama) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(model.device)


def _by_width(counts: np.ndarray) -> list[np.ndarray]:
    narrow = counts <= NARROW
    return [picked for picked in (np.flatnonzero(narrow), np.flatnonzero(~narrow)) if len(picked)]


def _bucket(
    model: Llama,
    pool: SlotPool,
    rows: list[Row],
    counts: np.ndarray,
    ends: np.ndarray,
    own: np.ndarray,
    picked: np.ndarray,
    ahead: list[Ahead],
) -> Bucket:
    """The grid of some rows: grid rows are slots where the grid is narrow, else the picked rows with their keys gathered."""
    width, length = int(counts[picked].max()), max(rows[i].own + int(counts[i]) for i in picked)
    tokens = np.concatenate([np.arange(ends[i] - counts[i], ends[i]) for i in picked])
    inside = np.concatenate([np.arange(counts[i]) for i in picked])
    slots = np.array([rows[i].slot for i in picked])
    in_order = width <= NARROW
    grid_rows = slots if in_order else np.arange(len(picked))
    height = int(grid_rows.max()) + 1
    cells = np.repeat(grid_rows, counts[picked]) * width + inside
    places = np.zeros(height * width, dtype=np.int64)
    places[cells] = own[tokens]
    sees = causal(_tensor(places, model).view(height, width), length)
    for grid_row, i in zip(grid_rows, picked, strict=True):
        if more := len(ahead[i].tokens):
            first = int(counts[i]) - more
            start = rows[i].own + first
            sees[grid_row, first : first + more, start : start + more] = torch.from_numpy(ahead[i].sees).to(model.device)
    mask = additive_mask(sees, model.shape.groups, model.dtype)
    gathered = None if in_order else _tensor(slots, model)
    return Bucket(_tensor(tokens, model), _tensor(cells, model), gathered, height, width, length, mask)


def _lora(rows: list[Row], ends: np.ndarray) -> list[LoraSlice]:
    slices, start = [], 0
    for adapter, run in itertools.groupby(range(len(rows)), key=lambda i: rows[i].request.adapter):
        stop = int(ends[list(run)[-1]])
        if adapter is not None:
            slices.append(LoraSlice(adapter, start, stop))
        start = stop
    return slices


def _stretches(rows: list[Row], ends: np.ndarray) -> list[Shared]:
    """One entry for each run of neighbouring rows that share a stretch (and all stretches before it)."""
    depth = max(len(row.shared) for row in rows)
    return [stretch for level in range(depth) for stretch in _stretches_at(level, rows, ends)]


def _stretches_at(level: int, rows: list[Row], ends: np.ndarray) -> list[Shared]:
    found, start = [], 0
    for key, run in itertools.groupby(range(len(rows)), key=lambda i: rows[i].group[: 3 + 2 * level]):
        last = list(run)[-1]
        stop = int(ends[last])
        if len(key) == 3 + 2 * level:
            hit = rows[last].shared[level]
            found.append(Shared(hit.kv[:, :, : hit.length], start, stop))
        start = stop
    return found

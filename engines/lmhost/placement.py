"""Where a joining row's known tokens come from, and which beginnings are worth computing once for several rows."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.lmhost.kv import SlotPool
from engines.lmhost.lora import LoraAdapter
from engines.lmhost.model import Llama
from engines.lmhost.passes import stretch_batch
from engines.lmhost.prefix_tree import Hit, PrefixTree, Tokens, shared_length
from engines.lmhost.rows import Row

# A known stretch is used where it lies if it is this long and branches, or is long in any case; else it is copied into the slot.
SHARED_TOKENS = 64
LONG_TOKENS = 256
# Joining rows with this many unknown tokens in common wait until these have been computed once.
COMMON_TOKENS = 32
# What a long prompt without company keeps for its own slot.
TAIL_TOKENS = 16


def place(row: Row, tree: PrefixTree, pool: SlotPool) -> int:
    """Give a row a slot and all that is known of its tokens but the last; returns how many tokens are known."""
    row.slot = pool.take()
    for hit in tree.match(row.adapter_uid, row.tokens()[:-1]):
        if _stays(hit):
            row.shared.append(hit)
            row.shared_length += hit.length
        else:
            pool.reserve(row.own + hit.length)
            pool.fill(row.slot, row.own, hit.kv[:, :, : hit.length])
            row.own += hit.length
    return row.computed


def _stays(hit: Hit) -> bool:
    return hit.length >= LONG_TOKENS or (hit.shared and hit.length >= SHARED_TOKENS)


@dataclass
class PrefixJob:
    """The computation of a beginning that the prefix cache shall hold: ``tokens``, of which the hits ``before`` are known."""

    adapter: LoraAdapter | None
    tokens: Tokens
    before: list[Hit]
    kv: Tensor
    done: int = 0

    @property
    def adapter_uid(self) -> int:
        return self.adapter.uid if self.adapter else 0

    def run(self, model: Llama, max_tokens: int) -> bool:
        """Compute up to ``max_tokens`` more; True when all is there."""
        left = self.tokens[len(self.tokens) - self.kv.shape[2] + self.done :][:max_tokens]
        model.forward(stretch_batch(model, self.adapter, self.before, self.kv, left, self.done))
        self.done += len(left)
        return self.done == self.kv.shape[2]


def next_job(fresh: list[Row], tree: PrefixTree, model: Llama, current: PrefixJob | None) -> tuple[PrefixJob | None, set[int]]:
    """The current or else the first beginning worth computing on its own, and the ids of all rows that should wait for one."""
    groups: defaultdict[tuple[int, bytes], list[tuple[Row, int]]] = defaultdict(list)
    for row in fresh:
        tokens = row.tokens()[:-1]
        missing = tree.missing(row.adapter_uid, tokens)
        if missing >= COMMON_TOKENS:
            known = len(tokens) - missing
            groups[row.adapter_uid, tokens[: known + COMMON_TOKENS].tobytes()].append((row, known))
    job, waiting = current, set[int]()
    for members in groups.values():
        stop = _stop(members)
        if stop is not None and _affordable(members[0][0], members[0][1], stop, tree, model):
            waiting.update(id(row) for row, _ in members)
            job = job or _job(members[0][0], stop, tree, model)
    return job, waiting


def _stop(members: list[tuple[Row, int]]) -> int | None:
    """Where the beginning ends that a group should have computed for it; None if each row may go on alone."""
    (row, known), *others = members
    tokens = row.tokens()[:-1]
    if others:
        return min(shared_length(tokens, other.tokens()[:-1]) for other, _ in others)
    return len(tokens) - TAIL_TOKENS if len(tokens) - known >= LONG_TOKENS else None


def _affordable(row: Row, known: int, stop: int, tree: PrefixTree, model: Llama) -> bool:
    size = _stretch_size(model, stop - known)
    return torch.Size(size).numel() * model.dtype.itemsize <= tree.max_bytes // 2


def _stretch_size(model: Llama, tokens: int) -> tuple[int, ...]:
    return (model.shape.layers, 2, tokens, model.shape.kv_heads, model.shape.head_dim)


def _job(row: Row, stop: int, tree: PrefixTree, model: Llama) -> PrefixJob:
    tokens = row.tokens()[:stop]
    before = tree.match(row.adapter_uid, tokens)
    unknown = stop - sum(hit.length for hit in before)
    kv = torch.empty(_stretch_size(model, unknown), dtype=model.dtype, device=model.device)
    return PrefixJob(row.request.adapter, tokens, before, kv)

"""The prefix cache: a radix tree of token sequences per LoRA adapter, with the keys and values of each edge.

Equal tokens under different LoRA adapters have different keys and values, so every adapter has a root of its own. A running
row holds the tensors it uses itself: eviction never takes memory from under a row, it only forgets.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Tokens = npt.NDArray[np.int32]
# After an eviction the cache is this full, so that evictions come in batches.
LOW_WATER = 0.9


@dataclass(eq=False)
class Node:
    """An edge of the tree: its tokens and their keys and values ``[layers, 2, n, kv_heads, head_dim]`` (empty at a root)."""

    tokens: Tokens
    kv: Tensor
    parent: Node | None
    children: dict[int, Node] = field(default_factory=dict)
    used_at: int = 0


@dataclass(frozen=True)
class Hit:
    """The first ``length`` tokens of an edge match. ``kv`` is the edge's whole tensor and identifies it; ``shared``: it branches."""

    kv: Tensor
    length: int
    shared: bool


def shared_length(a: Tokens, b: Tokens) -> int:
    """How many tokens two sequences have in common at their beginning."""
    n = min(len(a), len(b))
    differs = a[:n] != b[:n]
    return int(differs.argmax()) if n and differs.any() else n


class PrefixTree:
    """At most ``max_bytes`` of keys and values, least recently used leaves evicted first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        self._roots: dict[int, Node] = {}
        self._clock = itertools.count(1)

    def match(self, adapter: int, tokens: Tokens) -> list[Hit]:
        """The longest known beginning of ``tokens``, edge by edge; the last edge may match in part."""
        node, at, hits = self._root(adapter), 0, []
        while at < len(tokens) and (child := node.children.get(int(tokens[at]))) is not None:
            child.used_at = next(self._clock)
            length = shared_length(child.tokens, tokens[at:])
            hits.append(Hit(child.kv, length, len(child.children) > 1))
            at += length
            if length < len(child.tokens):
                break
            node = child
        return hits

    def missing(self, adapter: int, tokens: Tokens) -> int:
        """How many tokens at the end of ``tokens`` are not known."""
        return len(tokens) - sum(hit.length for hit in self.match(adapter, tokens))

    def insert(self, adapter: int, tokens: Tokens, tail: Tensor) -> None:
        """Add the unknown end of ``tokens``; ``tail`` is the keys and values of at least that end (its last tokens line up)."""
        if tail.shape[2] * _token_bytes(tail) > self.max_bytes:
            return
        node, at = self._deepest(self._root(adapter), tokens)
        if at < len(tokens):
            self._add(node, tokens[at:], tail, len(tokens) - at)
        self._evict()

    def forget(self, adapter: int) -> None:
        """Drop everything that was computed with one LoRA adapter."""
        root = self._roots.pop(adapter, None)
        for node in _walk(root) if root else []:
            self.bytes -= _bytes(node)

    def clear(self) -> None:
        """Drop everything."""
        self._roots.clear()
        self.bytes = 0

    def _root(self, adapter: int) -> Node:
        return self._roots.setdefault(adapter, Node(np.empty(0, np.int32), torch.empty(0), None))

    def _deepest(self, node: Node, tokens: Tokens) -> tuple[Node, int]:
        """Walk down, split where the last edge matches in part: the node to hang the rest on, and where the rest begins."""
        at = 0
        while at < len(tokens) and (child := node.children.get(int(tokens[at]))) is not None:
            length = shared_length(child.tokens, tokens[at:])
            child.used_at = next(self._clock)
            at += length
            node = child if length == len(child.tokens) else self._split(node, child, length)
        return node, at

    def _split(self, parent: Node, lower: Node, length: int) -> Node:
        """Cut an edge in two; both halves are copies, so that evicting one frees its memory."""
        kv = lower.kv
        upper = Node(lower.tokens[:length], kv[:, :, :length].clone(), parent, used_at=lower.used_at)
        parent.children[int(upper.tokens[0])] = upper
        lower.tokens, lower.kv, lower.parent = lower.tokens[length:], kv[:, :, length:].clone(), upper
        upper.children[int(lower.tokens[0])] = lower
        return upper

    def _add(self, parent: Node, tokens: Tokens, tail: Tensor, length: int) -> None:
        kv = tail if tail.shape[2] == length else tail[:, :, tail.shape[2] - length :].clone()
        node = Node(tokens.copy(), kv, parent, used_at=next(self._clock))
        parent.children[int(tokens[0])] = node
        self.bytes += _bytes(node)

    def _evict(self) -> None:
        goal = LOW_WATER * self.max_bytes if self.bytes > self.max_bytes else self.max_bytes
        while self.bytes > goal:
            leaves = [node for root in self._roots.values() for node in _walk(root) if not node.children and node.parent]
            for leaf in sorted(leaves, key=lambda node: node.used_at):
                if self.bytes <= goal:
                    return
                self._remove(leaf)

    def _remove(self, leaf: Node) -> None:
        if leaf.parent is not None:
            del leaf.parent.children[int(leaf.tokens[0])]
            self.bytes -= _bytes(leaf)


def _walk(root: Node) -> list[Node]:
    found, queue = [], [root]
    while queue:
        node = queue.pop()
        found.append(node)
        queue.extend(node.children.values())
    return found


def _bytes(node: Node) -> int:
    return node.kv.numel() * node.kv.element_size()


def _token_bytes(kv: Tensor) -> int:
    return kv[:, :, :1].numel() * kv.element_size()

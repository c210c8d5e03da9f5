"""Attention of many rows to one shared prefix and to themselves, as plain matrix products.

The prefix's keys and values are used where they are, not repeated a row or a query head: the queries of all rows and of all
heads over one key head make one tall matrix. On a CPU in bfloat16 this takes half the time of torch's fused kernel, which is
built for long rows; it keeps the probabilities for backward, so it is meant for short ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Probabilities kept for backward, of one layer; more than this and the fused kernel, which keeps none, is the better one.
MAX_KEPT_BYTES = 32 << 20


def cascade_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, prefix_key: torch.Tensor, prefix_value: torch.Tensor, scale: float
) -> torch.Tensor:
    """query (R, H, W, D); key, value (R, K, W, D); prefix key, value (1, K, P, D); to (R, H, W, D). H is a multiple of K."""
    apply: Any = _CascadeAttention.apply
    output: torch.Tensor = apply(query, key, value, prefix_key, prefix_value, scale)
    return output


def fits(query: torch.Tensor, prefix: int) -> bool:
    """Whether ``cascade_attention`` is the right one for queries (rows, heads, width, head size) over ``prefix`` shared tokens."""
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return False
    rows, heads, width, _ = query.shape
    return rows * heads * width * (prefix + width) * query.element_size() <= MAX_KEPT_BYTES


class _CascadeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        prefix_key: torch.Tensor,
        prefix_value: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        rows, _, width, size = query.shape
        kinds, prefix = key.shape[1], prefix_key.shape[2]
        tall = _by_key_head(query * scale, kinds)
        own_key, own_value = (part.transpose(0, 1).reshape(kinds * rows, width, size) for part in (key, value))
        shared_key, shared_value = prefix_key[0], prefix_value[0]
        scores = query.new_empty(kinds, tall.shape[1], prefix + width)
        scores[..., :prefix] = torch.bmm(tall, shared_key.transpose(1, 2))
        own = torch.bmm(tall.view(kinds * rows, -1, size), own_key.transpose(1, 2)).view(kinds * rows, -1, width, width)
        later = torch.ones(width, width, dtype=torch.bool, device=query.device).triu(1)
        scores.view(kinds * rows, -1, width, prefix + width)[..., prefix:] = own.masked_fill_(later, float("-inf"))
        chances = scores.softmax(-1)
        to_prefix = chances[..., :prefix].contiguous()
        to_own = chances[..., prefix:].reshape(kinds * rows, -1, width)
        output = torch.bmm(to_prefix, shared_value)
        output.view(kinds * rows, -1, size).baddbmm_(to_own, own_value)
        ctx.save_for_backward(tall, own_key, own_value, shared_key, shared_value, to_prefix, to_own, output)
        ctx.scale, ctx.shape = scale, query.shape
        return _by_row(output, query.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        tall, own_key, own_value, shared_key, shared_value, to_prefix, to_own, output = ctx.saved_tensors
        rows, _, width, size = ctx.shape
        kinds = tall.shape[0]
        grad = _by_key_head(gradient, kinds)
        grad_own, tall_own = (part.view(kinds * rows, -1, size) for part in (grad, tall))
        along = (grad * output).sum(-1, keepdim=True)
        prefix_scores = torch.bmm(grad, shared_value.transpose(1, 2)).sub_(along).mul_(to_prefix)
        own_scores = torch.bmm(grad_own, own_value.transpose(1, 2)).sub_(along.view(kinds * rows, -1, 1)).mul_(to_own)
        grad_query = torch.bmm(prefix_scores, shared_key)
        grad_query.view(kinds * rows, -1, size).baddbmm_(own_scores, own_key)
        grad_key, grad_value = torch.bmm(own_scores.transpose(1, 2), tall_own), torch.bmm(to_own.transpose(1, 2), grad_own)
        return (
            _by_row(grad_query.mul_(ctx.scale), ctx.shape),
            *(part.view(kinds, rows, width, size).transpose(0, 1) for part in (grad_key, grad_value)),
            torch.bmm(prefix_scores.transpose(1, 2), tall)[None],
            torch.bmm(to_prefix.transpose(1, 2), grad)[None],
            None,
        )


def _by_key_head(queries: torch.Tensor, kinds: int) -> torch.Tensor:
    """(R, H, W, D) to (K, R * H/K * W, D): what attends to one key head together, row by row."""
    rows, heads, width, size = queries.shape
    return queries.reshape(rows, kinds, heads // kinds, width, size).transpose(0, 1).reshape(kinds, -1, size)


def _by_row(tall: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The way back from ``_by_key_head`` to ``shape`` (R, H, W, D)."""
    rows, heads, width, size = shape
    return tall.view(tall.shape[0], rows, heads // tall.shape[0], width, size).transpose(0, 1).reshape(shape)

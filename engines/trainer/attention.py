"""Attention over a packed sequence: a prefix sees itself, a row sees its group's prefix and itself, both causally.

Registered with transformers as an attention implementation, so it serves every model that takes one. The layout of the
packed sequence travels through the model's keyword arguments.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from engines.trainer.cascade import cascade_attention, fits
from engines.trainer.packing import Layout

NAME = "stillhouse_shared_prefix"


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention signature; query (1, heads, S, head size), key and value (1, key heads, S, head size).

    Returns (1, S, heads, head size). Without a ``layout`` it is plain causal attention.
    """
    if layout is None:
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output
    # Rotary positions are float32 and make queries and keys so; values have the dtype of the products.
    query, key = query.to(value.dtype), key.to(value.dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    start = layout.n_prefix_tokens
    rests = _rests(query[:, :, start:], key, value, layout, scale)
    parts = [*_prefixes(query, key, value, layout, scale), rests]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _prefixes(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scale: float) -> list[torch.Tensor]:
    """Each group's prefix attended by itself: (1, heads, prefix, head size) a group."""
    outputs, start = [], 0
    for length in layout.prefixes:
        if length:
            q, k, v = (part[:, :, start : start + length] for part in (query, key, value))
            outputs.append(scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True))
        start += length
    return outputs


def _rests(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scale: float) -> torch.Tensor:
    """Every row's rest attended to its group's prefix and itself: (1, heads, rest tokens, head size)."""
    first = layout.n_prefix_tokens
    q, k, v = (_pad(part, layout) for part in (query, key[:, :, first:], value[:, :, first:]))
    outputs, start, row = [], 0, 0
    for length, count in zip(layout.prefixes, layout.counts, strict=True):
        rows, prefix = slice(row, row + count), slice(start, start + length)
        outputs.append(_group(q[rows], k[rows], v[rows], key[:, :, prefix], value[:, :, prefix], scale))
        start, row = start + length, row + count
    return _unpad(torch.cat(outputs), layout)


def _group(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, prefix_key: torch.Tensor, prefix_value: torch.Tensor, scale: float
) -> torch.Tensor:
    """The rows of one group: query (rows, heads, width, head size), prefix parts (1, key heads, prefix, head size)."""
    rows, width, length = query.shape[0], query.shape[2], prefix_key.shape[2]
    if fits(query, length):
        return cascade_attention(query, key, value, prefix_key, prefix_value, scale)
    keys = torch.cat([prefix_key.expand(rows, -1, -1, -1), key], dim=2)
    values = torch.cat([prefix_value.expand(rows, -1, -1, -1), value], dim=2)
    # Padding stands at a row's end, so the causal mask hides it: one mask serves all rows.
    mask = torch.ones(width, length + width, dtype=torch.bool, device=query.device).tril(length)
    return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale, enable_gqa=True)


def _pad(packed: torch.Tensor, layout: Layout) -> torch.Tensor:
    """(1, heads, rest tokens, head size) to (rows, heads, width, head size)."""
    whole = packed if layout.to_padded is None else packed.index_select(2, layout.to_padded)
    return whole.view(whole.shape[1], layout.n_rows, layout.width, whole.shape[3]).transpose(0, 1)


def _unpad(padded: torch.Tensor, layout: Layout) -> torch.Tensor:
    """(rows, heads, width, head size) to (1, heads, rest tokens, head size)."""
    flat = padded.transpose(0, 1).reshape(1, padded.shape[1], layout.n_rows * layout.width, padded.shape[3])
    return flat if layout.to_packed is None else flat.index_select(2, layout.to_packed)


AttentionInterface.register(NAME, shared_prefix_attention)

"""A lean forward pass for Llama-architecture models over the weights of transformers.

Tokens of all rows are packed into one ``[T]`` vector (no padding), so each projection is one matrix product. Query, key
and value projections are fused into one weight, and so are gate and up. Only attention looks at rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from engines.lmhost.errors import HostError
from engines.lmhost.linear import Kernel, Product
from engines.lmhost.lora import LoraSlice, add_lora

SUPPORTED = ("LlamaForCausalLM",)
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model; ``groups`` query heads share one key/value head."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int
    max_positions: int

    @property
    def groups(self) -> int:
        return self.heads // self.kv_heads

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """(out, in) of every projection that a LoRA adapter may change."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (queries, self.hidden),
            "k_proj": (keys, self.hidden),
            "v_proj": (keys, self.hidden),
            "o_proj": (self.hidden, queries),
            "gate_proj": (self.inner, self.hidden),
            "up_proj": (self.inner, self.hidden),
            "down_proj": (self.hidden, self.inner),
        }

    @classmethod
    def of(cls, config: Any) -> ModelShape:
        """Read a transformers config. Raises HostError for an architecture that this forward pass does not compute."""
        architecture = (config.architectures or ["unknown"])[0]
        if architecture not in SUPPORTED:
            raise HostError(400, "unsupported_architecture", f"{architecture} is not supported; supported: {', '.join(SUPPORTED)}.")
        if config.hidden_act != "silu" or config.rope_parameters["rope_type"] not in ROPE_TYPES:
            raise HostError(400, "unsupported_architecture", "Only SwiGLU with silu and position-independent RoPE scaling are supported.")
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            head_dim,
            config.intermediate_size,
            config.vocab_size,
            config.max_position_embeddings,
        )


class Attention(Protocol):
    """Attention of one pass: stores the new keys and values and attends over them and everything before them."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``q [T, heads, head_dim]``, ``k`` and ``v`` ``[T, kv_heads, head_dim]`` to ``[T, heads * head_dim]``."""


@dataclass
class Batch:
    """One pass: packed ``tokens`` and ``positions`` ``[T]``, which of them want a hidden state, and who attends to what."""

    tokens: Tensor
    positions: Tensor
    wanted: Tensor
    lora: list[LoraSlice]
    attention: Attention


@dataclass
class _Layer:
    norm_in: Tensor
    norm_mid: Tensor
    qkv: Product
    out: Product
    gate_up: Product
    down: Product


class Llama:
    """The weights, ready to run. Not thread-safe: one engine thread uses it."""

    def __init__(self, hf_model: Any, kernel: Kernel, device: torch.device) -> None:
        self.shape = ModelShape.of(hf_model.config)
        self.dtype, self.device = kernel.dtype, device
        inner = hf_model.model
        self._eps = float(hf_model.config.rms_norm_eps)
        self._scaling = float(inner.rotary_emb.attention_scaling)
        self._inv_freq = inner.rotary_emb.inv_freq.detach().float().to(device)
        self._embedding = self._tensor(inner.embed_tokens.weight)
        self._norm = self._tensor(inner.norm.weight)
        self._layers = [self._layer(layer, kernel) for layer in inner.layers]
        tied = hf_model.lm_head.weight.data_ptr() == inner.embed_tokens.weight.data_ptr()
        self._head_rows = self._embedding if tied else self._tensor(hf_model.lm_head.weight)
        self._head = kernel.product(self._head_rows, None)

    def _tensor(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self.device, self.dtype).clone()

    def _fused(self, kernel: Kernel, *modules: Any) -> Product:
        weight = torch.cat([module.weight.detach() for module in modules]).to(self.device)
        biases = [module.bias for module in modules]
        bias = None if biases[0] is None else torch.cat([b.detach() for b in biases]).to(self.device)
        return kernel.product(weight, bias)

    def _layer(self, layer: Any, kernel: Kernel) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        return _Layer(
            self._tensor(layer.input_layernorm.weight),
            self._tensor(layer.post_attention_layernorm.weight),
            self._fused(kernel, attention.q_proj, attention.k_proj, attention.v_proj),
            self._fused(kernel, attention.o_proj),
            self._fused(kernel, mlp.gate_proj, mlp.up_proj),
            self._fused(kernel, mlp.down_proj),
        )

    def forward(self, batch: Batch) -> Tensor:
        """Normed hidden states of ``batch.wanted``, ``[len(wanted), hidden]``."""
        x = self._embedding[batch.tokens]
        cos, sin = self._rotation(batch.positions)
        for index, layer in enumerate(self._layers):
            x = x + self._attend(index, layer, x, cos, sin, batch)
            x = x + self._mlp(index, layer, x, batch)
        return self._rms(x[batch.wanted], self._norm)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over the whole vocabulary, float32 ``[N, vocab]``."""
        return self._head(hidden).float()

    def logits_of(self, hidden: Tensor, ids: Tensor) -> Tensor:
        """Logits of the tokens ``ids`` alone, float32 ``[N, len(ids)]``."""
        return F.linear(hidden, self._head_rows[ids]).float()

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = positions[:, None].float() * self._inv_freq
        cos, sin = angles.cos() * self._scaling, angles.sin() * self._scaling
        return cos.to(self.dtype)[:, None], sin.to(self.dtype)[:, None]

    def _rms(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self._eps)

    def _attend(self, index: int, layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor, batch: Batch) -> Tensor:
        shape, normed = self.shape, self._rms(x, layer.norm_in)
        qkv = add_lora(layer.qkv(normed), normed, batch.lora, index, "qkv")
        heads = qkv.view(-1, shape.heads + 2 * shape.kv_heads, shape.head_dim)
        turned = _rotate(heads[:, : shape.heads + shape.kv_heads], cos, sin)
        q, k, v = turned[:, : shape.heads], turned[:, shape.heads :], heads[:, shape.heads + shape.kv_heads :]
        mixed = batch.attention(index, q, k, v)
        return add_lora(layer.out(mixed), mixed, batch.lora, index, "o")

    def _mlp(self, index: int, layer: _Layer, x: Tensor, batch: Batch) -> Tensor:
        normed = self._rms(x, layer.norm_mid)
        gate, up = add_lora(layer.gate_up(normed), normed, batch.lora, index, "gate_up").chunk(2, dim=-1)
        inner = F.silu(gate) * up
        return add_lora(layer.down(inner), inner, batch.lora, index, "down")


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding on ``[T, heads, head_dim]``: the first and second half of a head are one complex number."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

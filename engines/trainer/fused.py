"""The same layers in fewer passes over memory: LoRA linear layers and RMS norms with their gradients written out.

PEFT computes ``W x + scale * B (A x)`` as five operations, each of which writes a whole activation; here the low-rank part
is added in place, and what backward needs is kept once, in the dtype of the products. Frozen weights get no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


class LoraLinear(torch.autograd.Function):
    """inputs (…, i), weight (o, i) frozen, a (r, i), b (o, r) to (…, o) in the weight's dtype."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, a: torch.Tensor, b: torch.Tensor, scale: float
    ) -> torch.Tensor:
        flat = inputs.reshape(-1, inputs.shape[-1]).to(weight.dtype)
        low = linear(flat, a.to(weight.dtype))
        output = linear(flat, weight, bias)
        output.addmm_(low, b.to(weight.dtype).t(), alpha=scale)
        ctx.save_for_backward(flat, low, weight, a, b)
        ctx.scale, ctx.shape, ctx.dtype = scale, inputs.shape, inputs.dtype
        shaped: torch.Tensor = output.view(*inputs.shape[:-1], -1)
        return shaped

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, low, weight, a, b = ctx.saved_tensors
        grad = gradient.reshape(-1, gradient.shape[-1]).to(weight.dtype)
        grad_low = (grad @ b.to(weight.dtype)).mul_(ctx.scale)
        grad_a = (grad_low.t() @ flat).to(a.dtype)
        grad_b = (grad.t() @ low).to(b.dtype).mul_(ctx.scale)
        grad_inputs = None
        if ctx.needs_input_grad[0]:
            grad_inputs = (grad @ weight).addmm_(grad_low, a.to(weight.dtype)).view(ctx.shape).to(ctx.dtype)
        return grad_inputs, None, None, grad_a, grad_b, None


class RmsNorm(torch.autograd.Function):
    """inputs (…, d) float32, weight (d) frozen, to (…, d) in ``dtype``."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, epsilon: float, dtype: torch.dtype) -> torch.Tensor:
        norm: torch.Tensor = torch.linalg.vector_norm(inputs, dim=-1, keepdim=True)
        inverse: torch.Tensor = norm.square_().div_(inputs.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(inputs, weight, inverse)
        output: torch.Tensor = (inputs * inverse).mul_(weight).to(dtype)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, weight, inverse = ctx.saved_tensors
        grad = gradient * weight
        along = (grad * inputs).sum(-1, keepdim=True)
        along.mul_(inverse).mul_(inverse).mul_(inverse).div_(-inputs.shape[-1])
        return grad.mul_(inverse).addcmul_(inputs, along), None, None, None


def install(model: Any, dtype: torch.dtype) -> None:
    """Let ``model``'s LoRA layers and RMS norms run fused, with activations between them in ``dtype``; ``remove`` undoes it."""
    for module in _lora_layers(model):
        module.forward = partial(_lora_forward, module)
    for module in _norms(model):
        module.forward = partial(_norm_forward, module, dtype)


def remove(model: Any) -> None:
    """Give every layer its own forward back."""
    for module in (*_lora_layers(model), *_norms(model)):
        vars(module).pop("forward", None)


def _lora_layers(model: Any) -> Iterator[Any]:
    """Plain LoRA layers: one LoRA adapter over a linear layer, without dropout or a variant such as DoRA."""
    from peft.tuners.lora import Linear

    for module in model.modules():
        if isinstance(module, Linear) and list(module.lora_A) == ["default"] and not module.lora_variant and not _drops_out(module):
            yield module


def _drops_out(module: Any) -> bool:
    return any(isinstance(layer, torch.nn.Dropout) for layer in module.lora_dropout.values())


def _norms(model: Any) -> Iterator[Any]:
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            yield module


def _lora_forward(module: Any, inputs: torch.Tensor) -> torch.Tensor:
    base = module.base_layer
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    apply: Any = LoraLinear.apply
    output: torch.Tensor = apply(inputs, base.weight, base.bias, a, b, module.scaling["default"])
    return output


def _norm_forward(module: Any, dtype: torch.dtype, inputs: torch.Tensor) -> torch.Tensor:
    apply: Any = RmsNorm.apply
    output: torch.Tensor = apply(inputs.float(), module.weight.detach(), module.variance_epsilon, dtype)
    return output

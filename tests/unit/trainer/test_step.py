"""The shared-prefix step gives the plain step's loss and gradient, whatever the rows share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from engines.base_models import resolve
from engines.schemas import ResolvedOptions, TrainingRow
from engines.trainer.cascade import cascade_attention
from engines.trainer.grouping import PrefixBatchSampler
from engines.trainer.model import make_fast, make_plain, pass_targets, plain_targets, with_lora
from engines.trainer.packing import Collator
from engines.trainer.rows import EncodedRow
from tests.support.encoded import encode
from tests.unit.trainer.conftest import SYSTEM, make_rows

OPTIONS = ResolvedOptions(n_epochs=1, batch_size=8, learning_rate=1e-3, lora_r=4, lora_alpha=8, max_seq_length=512)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    torch.manual_seed(0)
    model = with_lora(resolve(str(tiny_model)), OPTIONS, "float32")
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # PEFT starts them at zero, where half of the gradient vanishes
            torch.nn.init.normal_(weight, std=0.05)
    return model


def encoded(tiny_model: Path, rows: list[dict[str, Any]]) -> list[EncodedRow]:
    tokenizer = resolve(str(tiny_model)).load_tokenizer()
    return [encode(TrainingRow.model_validate(row), tokenizer) for row in rows]


def gradient(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def compare(model: Any, rows: list[EncodedRow], max_tokens: int = 1 << 20) -> tuple[float, int]:
    """Relative difference of the gradients, and how many tokens sharing left out."""
    make_plain(model)
    plain = gradient(model, plain_targets(model, rows, "float32", CPU).loss())
    pairs = PrefixBatchSampler(rows, len(rows), 0).paired()
    assert make_fast(model, pairs[:2], "float32", CPU)
    batch = Collator(max_tokens)(pairs)
    shared = gradient(model, sum((pass_targets(model, one, "float32").loss() for one in batch.passes), torch.zeros(())))
    return float((shared - plain).norm() / plain.norm()), batch.n_shared


class TestSharedPrefixStep:
    def test_rows_of_one_predictor(self, model: Any, tiny_model: Path) -> None:
        difference, shared = compare(model, encoded(tiny_model, make_rows(6)))
        assert difference < 1e-5
        assert shared > 100

    def test_rows_of_several_predictors(self, model: Any, tiny_model: Path) -> None:
        rows = [row for system in (SYSTEM, "Other words.", "Which class?") for row in make_rows(3, system=system)]
        difference, shared = compare(model, encoded(tiny_model, rows))
        assert difference < 1e-5
        assert shared > 0

    def test_rows_that_share_nothing(self, model: Any) -> None:
        rows = [EncodedRow(tuple(range(start, start + 9)), 5) for start in (10, 40, 80)]
        difference, shared = compare(model, rows)
        assert difference < 1e-5
        assert shared == 0

    def test_batch_cut_into_several_passes(self, model: Any, tiny_model: Path) -> None:
        difference, _ = compare(model, encoded(tiny_model, make_rows(6)), max_tokens=150)
        assert difference < 1e-5

    def test_one_token_prompt(self, model: Any) -> None:
        difference, _ = compare(model, [EncodedRow((7, 8, 9), 1), EncodedRow((7, 11, 12, 13), 1)])
        assert difference < 1e-5


class TestCascadeAttention:
    @pytest.mark.parametrize("prefix", [0, 11])
    def test_equals_attention_over_repeated_prefixes(self, prefix: int) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = [(3, 4, 7, 8), (3, 2, 7, 8), (3, 2, 7, 8), (1, 2, prefix, 8), (1, 2, prefix, 8)]
        parts = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
        query, key, value, prefix_key, prefix_value = parts
        keys = torch.cat([prefix_key.expand(3, -1, -1, -1), key], 2)
        values = torch.cat([prefix_value.expand(3, -1, -1, -1), value], 2)
        mask = torch.ones(7, prefix + 7, dtype=torch.bool).tril(prefix)
        expected = scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=0.3, enable_gqa=True)
        got = cascade_attention(query, key, value, prefix_key, prefix_value, 0.3)
        torch.testing.assert_close(got, expected)
        weights = torch.randn(expected.shape, generator=generator)
        for one, other in zip(torch.autograd.grad(got, parts, weights), torch.autograd.grad(expected, parts, weights), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

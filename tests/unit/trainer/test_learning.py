"""Each option changes what it says, on the tiny model; and whose weights are kept."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from engines.schemas import EarlyStopping, ResolvedOptions
from engines.trainer.callbacks import Validation
from engines.trainer.checkpoint import Identity, Snapshot
from engines.trainer.errors import BadInput
from engines.trainer.model import Targets
from engines.trainer.run import run
from tests.unit.trainer.conftest import MakeJob, make_rows, read_lines

FIXED = {"n_epochs": 4, "batch_size": 4, "learning_rate": 0.02, "lora_r": 4}
STEPS = 8


class Lab:
    """Trainings of the same eight rows that differ in what is given."""

    def __init__(self, make_job: MakeJob) -> None:
        self._make_job = make_job

    def train(self, **options: Any) -> Path:
        name = "-".join([f"{option}-{value}" for option, value in options.items()] or ["plain"]).replace("/", "")
        folder = self._make_job(name, make_rows(8), make_rows(4, seed=1), options={**FIXED, **options})
        run(folder, threading.Event())
        return folder


@pytest.fixture
def lab(make_job: MakeJob) -> Lab:
    return Lab(make_job)


def curve(folder: Path, key: str = "loss") -> list[float]:
    return [line[key] for line in read_lines(folder / "curve.jsonl") if key in line]


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(str(folder / "out" / "adapter_model.safetensors"))


def size(folder: Path) -> float:
    return sum(float(weight.norm()) for weight in weights(folder).values())


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / "adapter_config.json").read_text())
    return found


class TestSchedule:
    def test_linear_falls_to_nothing_cosine_falls_later_and_constant_stays(self, lab: Lab) -> None:
        linear, cosine, constant = (curve(lab.train(scheduler=kind, warmup_steps=2), "learning_rate") for kind in KINDS)
        assert linear[:2] == cosine[:2] == constant[:2] == pytest.approx([0.01, 0.02])
        assert linear[2:] == pytest.approx([0.02 * left / 6 for left in (6, 5, 4, 3, 2, 1)])
        assert cosine[3] > linear[3]
        assert cosine[-1] < linear[-1]
        assert constant[2:] == pytest.approx([0.02] * 6)

    def test_a_ratio_is_of_all_steps(self, lab: Lab) -> None:
        assert curve(lab.train(warmup_ratio=0.5), "learning_rate")[:4] == pytest.approx([0.005, 0.01, 0.015, 0.02])

    def test_both_are_refused(self, lab: Lab) -> None:
        with pytest.raises(BadInput, match="not both"):
            lab.train(warmup_ratio=0.5, warmup_steps=2)


KINDS = ("linear", "cosine", "constant")


class TestOptimizer:
    def test_weight_decay_makes_weights_smaller(self, lab: Lab) -> None:
        assert size(lab.train(weight_decay=5.0)) < 0.8 * size(lab.train())

    def test_clipping_bounds_what_a_step_changes(self, lab: Lab) -> None:
        """Adam takes a gradient's size out again, but for gradients far below its epsilon."""
        plain, clipped = curve(lab.train()), curve(lab.train(max_grad_norm=1e-10))
        assert plain[-1] < 0.9 * plain[0]
        assert clipped[-1] == pytest.approx(clipped[0], rel=0.1)
        assert clipped[-1] > plain[-1]

    def test_label_smoothing_is_in_the_loss_that_trains_alone(self, lab: Lab) -> None:
        plain, smoothed = lab.train(), lab.train(label_smoothing=0.5)
        assert curve(smoothed)[0] != pytest.approx(curve(plain)[0], rel=1e-3)
        assert curve(smoothed)[-1] > curve(plain)[-1]
        still = [lab.train(label_smoothing=share, learning_rate=1e-12) for share in (0.0, 0.3)]
        assert curve(still[0], "validation_loss") == pytest.approx(curve(still[1], "validation_loss"), rel=1e-5)


class TestLora:
    def test_target_modules_are_the_only_ones_with_weights(self, lab: Lab) -> None:
        folder = lab.train(target_modules=["q_proj", "v_proj"])
        assert {name.split(".")[-3] for name in weights(folder)} == {"q_proj", "v_proj"}
        assert config(folder)["target_modules"] == ["q_proj", "v_proj"]
        assert {"gate_proj", "o_proj"} < {name.split(".")[-3] for name in weights(lab.train())}

    @pytest.mark.parametrize("name", ["q_prj", "lm_head"])
    def test_a_layer_that_is_not_there_is_refused_with_those_that_are(self, lab: Lab, name: str) -> None:
        with pytest.raises(BadInput, match=rf"no linear layer '{name}' \(there are: down_proj, gate_proj, ") as refused:
            lab.train(target_modules=["q_proj", name])
        assert refused.value.param == "options.target_modules"

    def test_rslora_scales_by_the_root_of_the_rank(self, lab: Lab) -> None:
        """With rank 4 and alpha 8: by 4 instead of 2, as plain LoRA with alpha 16."""
        rooted, plain, doubled = lab.train(use_rslora=True), lab.train(), lab.train(lora_alpha=16)
        assert config(rooted)["use_rslora"] is True
        assert curve(rooted) == pytest.approx(curve(doubled), rel=1e-5)
        assert curve(rooted) != pytest.approx(curve(plain), rel=1e-3)

    def test_dropout_disturbs_training_and_not_validation(self, lab: Lab) -> None:
        plain, dropped = lab.train(), lab.train(lora_dropout=0.9)
        assert curve(dropped)[0] == pytest.approx(curve(plain)[0], rel=1e-5)  # its second matrix begins with zeros
        assert curve(dropped)[2:] != pytest.approx(curve(plain)[2:], rel=1e-3)
        still = [lab.train(lora_dropout=share, learning_rate=1e-12) for share in (0.0, 0.5)]
        assert curve(still[0], "validation_loss") == pytest.approx(curve(still[1], "validation_loss"), rel=1e-5)


class TestExactMatch:
    def test_a_row_counts_whose_every_target_is_the_likeliest(self) -> None:
        logits = torch.eye(5)[[1, 2, 3, 4, 0]]
        assert Targets(logits, torch.tensor([1, 2, 3, 4, 0]), (2, 3)).exact_matches() == 2
        assert Targets(logits, torch.tensor([1, 2, 3, 4, 1]), (2, 3)).exact_matches() == 1
        assert Targets(logits, torch.tensor([0, 2, 3, 4, 1]), (2, 3)).exact_matches() == 0

    def test_what_is_learned_by_heart_matches(self, make_job: MakeJob) -> None:
        rows = make_rows(6)
        folder = make_job("job", rows, rows, options={"n_epochs": 40, "batch_size": 6, "learning_rate": 0.03})
        result = run(folder, threading.Event())
        matches = curve(folder, "validation_exact_match")
        assert matches[0] < 1.0
        assert result.validation_exact_match == matches[-1] == 1.0


class TestBest:
    """Loss and exact match after each evaluation; which one is kept, and when it is over."""

    OVERCONFIDENT = ((0.9, 0.5), (0.5, 0.7), (0.6, 0.9), (0.55, 0.9), (0.8, 0.8))

    def after(self, tmp_path: Path, *told: tuple[float, float], **options: Any) -> tuple[int, int | None]:
        """The best step, and the one after which it stopped."""
        resolved = ResolvedOptions(n_epochs=1, batch_size=1, learning_rate=1, lora_r=1, lora_alpha=1, max_seq_length=9, **options)
        identity = Identity(base_model="tiny", base_model_digest="", rows_digest="", options=resolved, seed=0)
        snapshot, control = Snapshot(identity, "float32", tmp_path / "curve"), _Control()
        validation, stopped = Validation(snapshot, resolved), None
        for step, (loss, exact) in enumerate(told, 1):
            state = type("State", (), {"global_step": step})
            validation.on_evaluate(None, state, control, {"eval_loss": loss, "eval_exact_match": exact}, torch.nn.Linear(1, 1))
            stopped = stopped or (step if control.should_training_stop else None)
        return snapshot.counters.best_step, stopped

    def test_by_loss(self, tmp_path: Path) -> None:
        assert self.after(tmp_path, *self.OVERCONFIDENT, best_by="loss") == (2, None)

    def test_by_matches_and_among_equals_by_loss(self, tmp_path: Path) -> None:
        assert self.after(tmp_path, *self.OVERCONFIDENT, best_by="exact_match") == (4, None)

    def test_stops_by_what_is_watched(self, tmp_path: Path) -> None:
        patient = EarlyStopping(patience=1)
        assert self.after(tmp_path, *self.OVERCONFIDENT, best_by="loss", early_stopping=patient) == (2, 3)
        assert self.after(tmp_path, *self.OVERCONFIDENT, best_by="exact_match", early_stopping=patient) == (4, 5)

    def test_a_little_better_is_not_enough_where_more_is_asked(self, tmp_path: Path) -> None:
        told = ((0.9, 0.5), (0.8, 0.52), (0.7, 0.54))
        picky = EarlyStopping(patience=1, min_delta=0.1)
        assert self.after(tmp_path, *told, best_by="exact_match", early_stopping=picky)[1] == 2
        assert self.after(tmp_path, *told, best_by="exact_match", early_stopping=EarlyStopping(patience=1))[1] is None


class _Control:
    should_training_stop = False

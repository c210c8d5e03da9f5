"""Whole trainings of the tiny model: what they learn, when they stop, how they resume, what they leave behind."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engines.base_models import resolve
from engines.sharing import Sign
from engines.trainer.callbacks import Threads
from engines.trainer.errors import BadInput
from engines.trainer.memory import shortage
from engines.trainer.model import plain_targets
from engines.trainer.rows import encode_file
from engines.trainer.run import Drained, run
from tests.unit.trainer.conftest import MakeJob, make_rows, read_lines

FAST = {"n_epochs": 2, "batch_size": 4, "learning_rate": 0.01}


class StopAtStep(threading.Event):
    """Is set once the training's progress file shows ``step``."""

    def __init__(self, folder: Path, step: int) -> None:
        super().__init__()
        self._progress, self._step = folder / "progress.json", step

    def is_set(self) -> bool:
        return self._progress.is_file() and json.loads(self._progress.read_text())["step"] >= self._step


def train(folder: Path) -> Any:
    return run(folder, threading.Event())


class TestTraining:
    def test_overfits_eight_rows(self, make_job: MakeJob) -> None:
        folder = make_job("job", make_rows(8), options={"n_epochs": 40, "batch_size": 8, "learning_rate": 0.02})
        result = train(folder)
        curve = read_lines(folder / "curve.jsonl")
        assert [line["step"] for line in curve] == list(range(1, 41))
        assert result.final_loss < 0.2 * curve[0]["loss"]

    def test_result_says_what_was_done(self, make_job: MakeJob) -> None:
        folder = make_job("job", make_rows(10), make_rows(4, seed=1), options=FAST)
        result = train(folder)
        assert json.loads((folder / "result.json").read_text()) == json.loads(result.model_dump_json())
        assert (result.steps, result.epochs, result.rows, result.validation_rows) == (6, 2.0, 10, 4)
        assert result.shared_prefix_tokens > 0
        assert result.peak_memory_bytes > 1 << 20
        assert result.stopped_by == "completed"
        assert [line["step"] for line in read_lines(folder / "curve.jsonl") if "validation_loss" in line] == [3, 6]
        assert json.loads((folder / "progress.json").read_text())["percent"] == 100.0

    def test_lora_adapter_names_its_base_model_by_id(self, make_job: MakeJob, tiny_model: Path) -> None:
        folder = make_job("job", make_rows(4), options={"n_epochs": 1})
        train(folder)
        text = (folder / "out" / "adapter_config.json").read_text()
        config = json.loads(text)
        assert config["base_model_name_or_path"] == "local/tiny"
        assert config["base_model_digest"] == resolve(str(tiny_model)).digest
        assert str(tiny_model.parent) not in text
        assert sorted(file.name for file in (folder / "out").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]

    def test_begins_with_the_weights_of_another_training(self, make_job: MakeJob) -> None:
        rows, options = make_rows(8), {"n_epochs": 10, "batch_size": 8, "learning_rate": 0.02, "lora_r": 4}
        first = make_job("first", rows, options=options)
        train(first)
        learned = read_lines(first / "curve.jsonl")
        on = make_job("on", rows, options={**options, "n_epochs": 1, "lora_r": "auto"}, start_from="start")
        shutil.copytree(first / "out", on / "start")
        result = train(on)
        assert read_lines(on / "curve.jsonl")[0]["loss"] < learned[-1]["loss"] < learned[0]["loss"]
        assert (result.options.lora_r, result.options.lora_alpha) == (4, 8)

        other = make_job("other", rows, options={**options, "lora_r": 8}, start_from="start")
        shutil.copytree(first / "out", other / "start")
        with pytest.raises(BadInput, match="has lora_r 4, not 8"):
            train(other)
        config = other / "start" / "adapter_config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_digest": "sha256:other"}))
        with pytest.raises(BadInput, match="was trained on other weights than local/tiny has now"):
            train(other)

    def test_bfloat16_learns_as_well(self, make_job: MakeJob) -> None:
        rows, curves = make_rows(8), []
        for dtype in ("float32", "bfloat16"):
            folder = make_job(dtype, rows, options={"n_epochs": 5, "batch_size": 8, "learning_rate": 0.005}, dtype=dtype)
            train(folder)
            curves.append([line["loss"] for line in read_lines(folder / "curve.jsonl")])
        assert curves[1] == pytest.approx(curves[0], rel=0.05)

    def test_time_limit_keeps_what_was_learnt(self, make_job: MakeJob) -> None:
        folder = make_job("job", make_rows(8), options=FAST, max_seconds=1e-6)
        result = train(folder)
        assert (result.stopped_by, result.steps) == ("max_seconds", 1)
        assert (folder / "out" / "adapter_model.safetensors").is_file()


class TestEarlyStopping:
    # PEFT asks transformers by a name that the latter has renamed.
    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_keeps_the_best_weights(self, make_job: MakeJob, tiny_model: Path) -> None:
        # What training rows teach is wrong on the validation rows, so their loss soon rises.
        options = {"n_epochs": 30, "batch_size": 8, "learning_rate": 0.03, "early_stopping": {"patience": 2}}
        folder = make_job("job", make_rows(8, labels=("human",)), make_rows(8, seed=1, labels=("number",)), options=options)
        result = train(folder)
        assert result.stopped_by == "early_stopping"
        assert result.best_step == result.steps - 2
        assert validation_loss(folder, tiny_model) == pytest.approx(result.validation_loss, rel=1e-4)

    def test_needs_validation_rows(self, make_job: MakeJob) -> None:
        with pytest.raises(BadInput, match="validation rows"):
            train(make_job("job", make_rows(4), options={"early_stopping": {}}))


def validation_loss(folder: Path, tiny_model: Path) -> float:
    """The loss of what a training left in ``out/``, computed with PEFT and the plain step."""
    from peft import PeftModel

    base = resolve(str(tiny_model))
    model = PeftModel.from_pretrained(base.load_model(), str(folder / "out"))
    rows = encode_file(folder / "validation.jsonl", base.load_tokenizer(), 512, "validation_rows")
    with torch.no_grad():
        loss = plain_targets(model, rows, "float32", torch.device("cpu")).loss().item()
    return loss / sum(row.n_targets for row in rows)


def flip(place: Path) -> None:
    """One byte in the middle of a file becomes another."""
    content = bytearray(place.read_bytes())
    content[len(content) // 2] ^= 1
    place.write_bytes(content)


@contextmanager
def before_file_operations(look: Callable[[], object]) -> Iterator[None]:
    """Call `look` before every operation on files in this process: a kill at that moment would leave the files as they are then.

    Audit hooks stay for the life of a process, so afterwards this one does nothing.
    """
    awake = True

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal awake
        if awake and event.startswith(("open", "os.", "shutil.")):
            awake = False  # `look` itself reads files
            look()
            awake = True

    sys.addaudithook(hook)
    try:
        yield
    finally:
        awake = False


def is_whole(checkpoint: Path) -> bool:
    manifest = checkpoint / "manifest.json"
    sizes = {place.name: place.stat().st_size for place in checkpoint.iterdir() if place != manifest}
    return manifest.is_file() and sizes == {name: file["size_bytes"] for name, file in json.loads(manifest.read_text())["files"].items()}


HARMS: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: os.truncate(folder / "state.safetensors", 100), "state.safetensors is damaged"),
    (lambda folder: flip(folder / "adapter_model.safetensors"), "adapter_model.safetensors is damaged"),
    (lambda folder: (folder / "manifest.json").unlink(), "FileNotFoundError"),
    (lambda folder: (folder / "trainer_state.json").unlink(), "trainer_state.json is missing"),
    (lambda folder: (folder / "rng_state.pth").write_bytes(b"a pickle"), "rng_state.pth does not belong to it"),
]


class TestResume:
    @pytest.fixture
    def drained(self, make_job: MakeJob) -> Path:
        """The checkpoint of a training on eight rows that was stopped after its first step."""
        folder = make_job("drained", make_rows(8), options=FAST)
        with pytest.raises(Drained):
            run(folder, StopAtStep(folder, 1))
        return folder / "checkpoints" / "step-1"

    def test_gives_the_curve_of_an_uninterrupted_training(self, make_job: MakeJob) -> None:
        rows, validation = make_rows(12), make_rows(4, seed=1)
        whole = make_job("whole", rows, validation, options=FAST)
        train(whole)
        part = make_job("part", rows, validation, options=FAST)
        with pytest.raises(Drained):
            run(part, StopAtStep(part, 4))
        checkpoint = part / "checkpoints" / "step-4"
        rest = make_job("rest", rows, validation, options=FAST, resume_from=str(checkpoint))
        result = train(rest)
        expected, got = (read_lines(folder / "curve.jsonl") for folder in (whole, rest))
        assert [line["step"] for line in got] == [1, 2, 3, 4, 5, 6]
        for key in ("loss", "validation_loss", "learning_rate"):
            assert [line.get(key, 0.0) for line in got] == pytest.approx([line.get(key, 0.0) for line in expected], rel=1e-6)
        weights = [load_file(str(folder / "out" / "adapter_model.safetensors")) for folder in (whole, rest)]
        for name, weight in weights[0].items():
            torch.testing.assert_close(weights[1][name], weight, rtol=1e-6, atol=1e-7)
        assert result.tokens == json.loads((whole / "result.json").read_text())["tokens"]

    def test_refuses_the_checkpoint_of_another_training(self, make_job: MakeJob) -> None:
        part = make_job("part", make_rows(8), options=FAST)
        with pytest.raises(Drained):
            run(part, StopAtStep(part, 1))
        other = make_job("other", make_rows(8, seed=5), options=FAST, resume_from=str(part / "checkpoints" / "step-1"))
        with pytest.raises(BadInput, match="rows_digest"):
            train(other)

    def test_refuses_a_checkpoint_that_is_not_what_was_written(self, drained: Path, make_job: MakeJob) -> None:
        folder = make_job("again", make_rows(8), options=FAST, resume_from="step-1")
        for harm, said in HARMS:
            checkpoint = shutil.copytree(drained, folder / "step-1")
            harm(checkpoint)
            with pytest.raises(BadInput, match=f"The checkpoint 'step-1' cannot be read: {re.escape(said)}") as refused:
                train(folder)
            assert (refused.value.code, refused.value.param) == ("checkpoint_unreadable", "resume_from")
            shutil.rmtree(checkpoint)

    def test_nothing_is_unpickled(self, drained: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object, **__: object) -> None:
            raise AssertionError("a pickle was read")

        for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
            monkeypatch.setattr(module, name, refuse)
        assert {place.suffix for place in drained.iterdir()} == {".json", ".jsonl", ".safetensors"}
        train(make_job("again", make_rows(8), options=FAST, resume_from=str(drained)))

    def test_checkpoints_are_no_further_apart_than_asked(self, make_job: MakeJob) -> None:
        folder = make_job("job", make_rows(8), options=FAST, checkpoint_seconds=1e-6)
        train(folder)
        steps = json.loads((folder / "result.json").read_text())["steps"]
        assert sorted(place.name for place in (folder / "checkpoints").iterdir()) == [f"step-{steps - 2}", f"step-{steps - 1}"]

    def test_a_kill_at_any_file_operation_leaves_no_part_of_a_checkpoint(self, make_job: MakeJob) -> None:
        folder = make_job("job", make_rows(8), options=FAST, checkpoint_seconds=1e-6)
        left: list[tuple[str, bool]] = []

        def look() -> None:
            left.extend((place.name, is_whole(place)) for place in sorted((folder / "checkpoints").glob("step-*")))

        with before_file_operations(look), pytest.raises(Drained):
            run(folder, StopAtStep(folder, 2))
        assert set(left) == {("step-1", True), ("step-2", True)}

    def test_keeps_two_checkpoints(self, make_job: MakeJob) -> None:
        rows = make_rows(8)
        resume_from = None
        for step in (1, 2, 3):
            folder = make_job(f"part-{step}", rows, options=FAST, resume_from=resume_from)
            if resume_from:
                (folder / "checkpoints").symlink_to(Path(resume_from).parent)
            with pytest.raises(Drained):
                run(folder, StopAtStep(folder, step))
            resume_from = str((folder / "checkpoints").resolve() / f"step-{step}")
        assert sorted(place.name for place in Path(resume_from or "").parent.iterdir()) == ["step-2", "step-3"]


class TestBadInput:
    def test_long_row_is_refused_by_number(self, make_job: MakeJob) -> None:
        rows = make_rows(3)
        rows[1]["prompt"][1]["content"] = "many words " * 200
        with pytest.raises(BadInput, match=r"Row 2 has \d+ tokens; max_seq_length is 300") as caught:
            train(make_job("job", rows, options={"max_seq_length": 300}))
        assert (caught.value.code, caught.value.param) == ("row_too_long", "rows")

    def test_unknown_base_model_names_the_nearest(self, make_job: MakeJob) -> None:
        with pytest.raises(BadInput, match="'smollm2-135m-instruct'"):
            train(make_job("job", make_rows(2), base_model="smollm2-135m-instrukt"))

    def test_row_without_a_completion(self, make_job: MakeJob) -> None:
        with pytest.raises(BadInput, match="Row 1: completion"):
            train(make_job("job", [{"prompt": [{"role": "user", "content": "?"}], "completion": []}]))

    def test_no_rows(self, make_job: MakeJob) -> None:
        with pytest.raises(BadInput, match="no row"):
            train(make_job("job", []))

    def test_misspelt_option(self, make_job: MakeJob) -> None:
        with pytest.raises(BadInput, match=r"options\.epochs"):
            train(make_job("job", make_rows(2), options={"epochs": 3}))


class TestMemory:
    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"), "Tried to allocate 2.00 GiB. The trainer"),
            (MemoryError(), "an allocation was refused. The trainer"),
        ],
    )
    def test_a_shortage_is_told_with_sizes(self, error: Exception, said: str) -> None:
        message = shortage(error)
        assert message is not None
        assert said in message
        assert "GiB are free now" in message

    def test_torch_on_a_cpu_says_it_in_a_plain_error(self) -> None:
        with pytest.raises(RuntimeError) as refused:
            torch.empty(1 << 50)
        message = shortage(refused.value)
        assert message is not None
        assert message.startswith("can't allocate memory: you tried to allocate 4503599627370496 bytes")

    def test_another_error_is_none(self) -> None:
        assert shortage(RuntimeError("shapes do not match")) is None


def test_a_core_is_left_to_an_lm_host_while_it_answers_somebody() -> None:
    answering, before = Sign("answering"), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        threads, used = Threads(), []
        for shown in (False, True, False):
            answering.show(shown)
            threads.on_step_begin(None, None, None)
            used.append(torch.get_num_threads())
    finally:
        torch.set_num_threads(before)
    assert used == [3, 2, 3]

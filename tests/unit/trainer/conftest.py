"""A tiny base model for the whole folder, and work folders with rows to train on."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny_model import build_tiny_model

WORDS = ["who", "what", "city", "book", "how", "many", "name", "is", "the", "of", "river"]
LABELS = ("human", "location", "number")
SYSTEM = "Your input fields are: 1. `question` (str): Your output fields are: 1. `answer` (str):"

MakeJob = Callable[..., Path]


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLHOUSE_HOME", str(tmp_path_factory.getbasetemp() / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def make_rows(count: int, *, seed: int = 0, system: str = SYSTEM, labels: tuple[str, ...] = LABELS) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        question = " ".join(rng.choices(WORDS, k=rng.randint(3, 15)))
        prompt = [{"role": "system", "content": system}, {"role": "user", "content": question}]
        rows.append({"prompt": prompt, "completion": [{"role": "assistant", "content": rng.choice(labels)}]})
    return rows


@pytest.fixture
def make_job(tmp_path: Path, tiny_model: Path) -> MakeJob:
    """``make_job(name, rows, validation, **job fields)`` writes a work folder for the tiny model, in float32."""

    def make(name: str, rows: list[dict[str, Any]], validation: list[dict[str, Any]] | None = None, **job: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        write_lines(folder / "rows.jsonl", rows)
        content = {"base_model": str(tiny_model), "dtype": "float32"} | job
        if validation is not None:
            write_lines(folder / "validation.jsonl", validation)
            content["validation_rows"] = "validation.jsonl"
        (folder / "job.json").write_text(json.dumps(content))
        return folder

    return make


def write_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]

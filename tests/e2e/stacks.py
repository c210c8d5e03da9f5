"""The whole stack with a scripted teacher, on a model that trains in seconds."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stack.supervisor import Stack
from tests.support.scripted_lm import ScriptedLM

QUICK_TIMERS = {
    "STILLHOUSE_TIMERS__LEASE_SECONDS": "6",
    "STILLHOUSE_TIMERS__BEAT_SECONDS": "1",
    "STILLHOUSE_TIMERS__REAP_GRACE_SECONDS": "1",
    "STILLHOUSE_TIMERS__REAP_PERIOD_SECONDS": "1",
}


@contextmanager
def running_stack(
    teacher: ScriptedLM, tiny_model: Path, *, base_model: str = "", environment: Mapping[str, str] | None = None, **options: Any
) -> Iterator[Stack]:
    """A stack with `teacher` as its default teacher, which trains the tiny model if no other is named. `options` are those of `Stack`."""
    connection: dict[str, Any] = {"base_url": teacher.url, "models": ["big"], "default_teacher": True}
    keys = {}
    if teacher.api_key is not None:
        connection["api_key_env"] = "TEACHER_KEY"
        keys["TEACHER_KEY"] = teacher.api_key
    extra = {"STILLHOUSE_CONNECTIONS": json.dumps({"teacher": connection}), **QUICK_TIMERS, **keys, **(environment or {})}
    with pytest.MonkeyPatch.context() as monkeypatch, tempfile.TemporaryDirectory(prefix="stillhouse-e2e-") as home:
        monkeypatch.setenv("STILLHOUSE_MODELS", str(tiny_model.parent))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        model = base_model or f"local/{tiny_model.name}"
        with Stack(Path(home), fast=True, base_model=model, environment=extra, **options) as running:
            yield running

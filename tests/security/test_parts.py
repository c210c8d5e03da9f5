"""The parts that we stand on: their versions, their settings, and what they may run."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from distill.queue import make_app
from engines import base_models
from stack import server_checks
from tests.support.tiny_model import build_tokenizer

#: The first release in which the record is mended.
FLOORS = {
    "starlette": "0.49.1",  # CVE-2025-62727
    "python-multipart": "0.0.18",  # CVE-2024-53981
    "orjson": "3.9.15",  # CVE-2024-27454
    "jinja2": "3.1.6",  # CVE-2025-27516, CVE-2019-10906
    "redis": "4.5.5",  # CVE-2023-28859
    "torch": "2.6",  # CVE-2025-32434
    "transformers": "5.3",  # CVE-2026-4372
    "celery": "5.2.2",  # CVE-2021-23727
}


@pytest.mark.record("CVE-2025-62727")
def test_no_part_is_older_than_its_mending() -> None:
    old = {name: metadata.version(name) for name, floor in FLOORS.items() if Version(metadata.version(name)) < Version(floor)}
    assert old == {}


@pytest.mark.record("CVE-2021-23727")
def test_no_result_is_kept_where_it_could_be_run() -> None:
    conf = make_app().conf
    assert conf.result_backend is None
    assert conf.task_ignore_result
    assert conf.accept_content == ["json"]
    assert conf.task_serializer == "json"


@pytest.mark.record("CVE-2022-30034")
def test_nobody_steers_workers_through_redis() -> None:
    assert not make_app().conf.worker_enable_remote_control
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("flower")


@pytest.mark.record("CVE-2025-49844")
@pytest.mark.parametrize(
    "facts", [{"redis_version": "7.2.10"}, {"redis_version": "6.2.19"}, {"redis_version": "8.2.1"}, {"valkey_version": "8.1.3"}]
)
def test_a_redis_whose_scripts_take_it_over_is_told_of(facts: dict[str, Any]) -> None:
    found = server_checks.judge_broker({**facts, "maxmemory_policy": "noeviction"}, is_open=False, is_near=True)
    assert "CVE-2025-49844" in str(found)


@pytest.mark.record("CVE-2026-4372")
def test_code_in_a_models_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what its configuration names here, nor what it names on a hub: nothing is asked for."""
    folder = tmp_path / "model"
    build_tokenizer().save_pretrained(str(folder))
    code = f"open({str(tmp_path / 'PWNED')!r}, 'w').close()\nfrom transformers import LlamaConfig as Config, LlamaForCausalLM as Model\n"
    (folder / "evil.py").write_text(code)
    places = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "architectures": ["Model"], "auto_map": places}))
    (folder / "model.safetensors").write_bytes(b"")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises((ValueError, OSError)):
        base_models.resolve(str(folder)).load_model()
    assert not (tmp_path / "PWNED").exists()

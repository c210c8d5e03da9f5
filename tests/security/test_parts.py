"""The parts that we stand on: their versions, their settings, and what they may run."""

from __future__ import annotations

import json
import multiprocessing
from importlib import metadata
from pathlib import Path
from typing import Any

import jinja2
import pytest
from packaging.version import Version

from distill.queue import make_app
from engines import base_models, template_bounds
from engines.chat_template import prompt_text
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


PAYLOADS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch PWNED').read() }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{{ messages.append(1) }}",
]


@pytest.mark.record("GHSA-46cm-pfwv-cgf8")
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_chat_template_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: str) -> None:
    monkeypatch.chdir(tmp_path)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = payload
    with pytest.raises(jinja2.exceptions.SecurityError):
        prompt_text(tokenizer, [{"role": "user", "content": "a"}], None)
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.record("PYSEC-2026-2013")
@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for a in range(9000) %}{% for b in range(9000) %}{% endfor %}{% endfor %}", "more than 0.2 s of processor time"),
        ("{{ 'x' * 10**9 }}", "more than 64 MB of memory"),
        ("{{ 'x' * (8 * 10**6 + 1) }}", "makes 8,000,001 characters"),
    ],
)
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_chat_template_has_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str, why: str) -> None:
    """In a process of its own, as in the trainer: the bounds are a whole process's, and would end one whose other threads are at work."""
    tokenizer, messages = build_tokenizer(), [{"role": "user", "content": "a"}]
    assert "a" in prompt_text(tokenizer, messages, None)  # it imports what it renders with
    monkeypatch.setattr(template_bounds, "SECONDS", 0.2)
    monkeypatch.setattr(template_bounds, "MEGABYTES", 64)
    tokenizer.chat_template = template
    told = tmp_path / "told"

    def render() -> None:
        try:
            prompt_text(tokenizer, messages, None)
        except template_bounds.TooCostly as refusal:
            told.write_text(str(refusal))

    process = multiprocessing.get_context("fork").Process(target=render)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert told.exists(), "it was rendered to its end"
    assert why in told.read_text()


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

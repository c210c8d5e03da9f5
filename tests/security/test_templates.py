"""Chat templates, which come with base models: Jinja's sandbox keeps them from running code, and what gets through has nowhere to go."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from engines.rendering import Bounds, Question, Renderer, RendererError, TemplateRefused
from tests.security import rendering
from tests.security.whom import as_user, users, users_of_containers

PAYLOADS = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch PWNED').read() }}",
    "{{ self._TemplateReference__context.cycler.__init__.__globals__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{{ messages.append(1) }}",
]


def made_of(templates: Iterable[str], program: Path, bounds: Bounds | None = None) -> list[str | TemplateRefused]:
    renderer = Renderer(bounds, program)
    try:
        return renderer.render([Question(template, {}, [{"role": "user", "content": "a"}], None, False) for template in templates])
    finally:
        renderer.close()


@pytest.mark.record("GHSA-46cm-pfwv-cgf8")
def test_a_chat_template_runs_no_code() -> None:
    for payload, made in zip(PAYLOADS, made_of(PAYLOADS, rendering.PROGRAM), strict=True):
        assert isinstance(made, TemplateRefused), payload
        assert made.kind == "SecurityError", payload


@pytest.mark.record("PYSEC-2026-2013")
@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for a in range(5000) %}{% for b in range(5000) %}{% endfor %}{% endfor %}", "more than 0.2 s of processor time"),
        ("{{ 'x' * 10**8 }}", "more than 64 MB of memory"),
        ("{{ 'x' * (8 * 10**6 + 1) }}", "makes 8,000,001 characters"),
    ],
)
def test_a_chat_template_has_bounds(template: str, why: str) -> None:
    (made,) = made_of([template], rendering.PROGRAM, Bounds(seconds=0.2 if "processor" in why else 60, megabytes=64))
    assert isinstance(made, TemplateRefused)
    assert why in str(made)


OS = "{% set os = cycler.__init__.__globals__.os %}{% set libc = os.sys.modules.ctypes.CDLL(none) %}"
"""Without Jinja's sandbox a template has all that the interpreter has loaded."""
ATTEMPTS = {
    "read a file": "{{ os.open('/etc/passwd', os.O_RDONLY) }}",
    "write a file": "{{ os.open('PLACE', os.O_WRONLY + os.O_CREAT) }}",
    "list a folder": "{{ os.listdir('/') }}",
    "remove a file": "{{ os.unlink('KEPT') }}",
    "start a program": "{{ os.posix_spawn('/bin/true', ['true'], {}) }}",
    "start a process": "{% if os.fork() == 0 %}{{ os._exit(0) }}{% endif %}",
    "signal another process": "{{ os.kill(PARENT, 0) }}",
    "make a socket": "{{ 1 // (libc.socket(2, 1, 0) + 1) }}",
    "make a pair of them": "{{ os.pipe() }}",
    "give up the bounds": "{{ 1 // (libc.prctl(1, 0, 0, 0, 0) + 1) }}",
    "write to the log": "{{ os.write(2, ''.encode()) }}",
    "read what is beside": "{{ os.set_blocking(2, False) }}",
}


def attempts(folder: Path) -> list[str]:
    (folder / "kept").touch()
    places = {"PLACE": str(folder / "place"), "KEPT": str(folder / "kept"), "PARENT": str(os.getpid())}
    return [OS + re.sub("|".join(places), lambda found: places[found[0]], attempt) for attempt in ATTEMPTS.values()]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.record("rule-templates-locked-in")
def test_a_chat_template_that_runs_code_gets_nowhere(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMHOST_API_KEY", "planted")
    program = tmp_path_factory.mktemp("program") / "program.py"
    program.write_text(rendering.weaker(rendering.WITHOUT_JINJAS_SANDBOX), encoding="utf-8")
    seen, *made = made_of([OS + "{{ os.name }}{{ os.environ }}", *attempts(tmp_path)], program)
    assert str(seen).startswith("posix"), "it should run code"
    assert "planted" not in str(seen)
    for what, outcome in zip(ATTEMPTS, made, strict=True):
        assert isinstance(outcome, TemplateRefused), what
        assert outcome.kind in ("PermissionError", "ZeroDivisionError"), what
    assert left(tmp_path) == ["kept"]


def test_each_of_these_gets_out_where_it_is_not_locked_in(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """So that the test above can fail, for each of them."""
    program = tmp_path_factory.mktemp("program") / "program.py"
    program.write_text(rendering.weaker(rendering.WITHOUT_JINJAS_SANDBOX, rendering.WITHOUT_LOCK), encoding="utf-8")
    for what, outcome in zip(ATTEMPTS, made_of(attempts(tmp_path), program), strict=True):
        assert isinstance(outcome, str), what
    assert left(tmp_path) == ["place"]


def test_nothing_is_rendered_where_it_cannot_be_locked_in(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(rendering.weaker(("os.uname().machine", "'riscv64'")), encoding="utf-8")
    with pytest.raises(RendererError, match=r"it cannot lock itself in \(no filter of system calls is known for riscv64"):
        made_of(["a"], program)


@pytest.mark.slow
@pytest.mark.parametrize("user", [*users(), *users_of_containers()])
def test_the_program_locks_itself_in_for_everybody(user: str) -> None:
    """It does not start where it cannot; so it has to as root, as somebody else, and in a container as Docker makes it."""
    bounds = {"seconds": 10.0, "megabytes": 1024, "characters": 1000}
    asked = [OS + "{{ os.environ.HOME }}", OS + ATTEMPTS["read a file"]]
    same: dict[str, Any] = {"special": {}, "messages": [{"role": "user", "content": "a"}], "tools": None, "asks": False}
    conversations = [{"template": at, **same} for at in (0, 1)]
    program = rendering.weaker(rendering.WITHOUT_JINJAS_SANDBOX)
    done = subprocess.run(
        as_user(user, [sys.executable, "-P", "-c", program, json.dumps(bounds)]),
        input=json.dumps({"templates": asked, "conversations": conversations}) + "\n",
        env={**os.environ, "HOME": "/somewhere"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    ready, there, refused = map(json.loads, done.stdout.splitlines())
    assert (ready, there) == ({"ready": True}, {"text": "/somewhere"})
    assert refused["refused"][0] == "PermissionError"

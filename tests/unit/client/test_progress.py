"""What a wait shows: one bar in a terminal or a notebook, lines elsewhere, and what the job waits for."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import IPython
import pytest

import stillhouse
from stillhouse import _progress
from tests.unit.client.conftest import job, reply, scripted
from tests.unit.client.dropin_server import Server, asked_for

BOOTSTRAP = {"name": "bootstrap", "status": "running", "done": 3, "total": 4}
TRAIN = {"name": "train", "status": "running", "done": 0, "total": 2}
HOLDER = {"job": "cjob-9", "name": "nightly", "owner": "ana", "since": 1}
TRAINER = {"reason": "waits for a trainer: next in turn", "resource": "trainer", "estimated_seconds": 720, "held_by": [HOLDER]}


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(config={"IPKernelApp": {}}))


def running(step: dict[str, Any], percent: int, **fields: Any) -> Any:
    return reply(job("running", step=step["name"], steps=[BOOTSTRAP, step], progress={"percent": percent}, **fields))


def waited() -> None:
    client, _ = scripted(
        reply(job("queued", waiting=True, queue={"reason": "2 jobs ahead in the project"})),
        running(BOOTSTRAP, 30),
        running(TRAIN, 45, waiting=True, queue=TRAINER),
        running(TRAIN, 60),
        reply(job("succeeded", progress={"percent": 100})),
    )
    client.compile_jobs.wait("cjob-1", progress=True)


def test_a_terminal_has_one_bar_for_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "160")
    waited()
    shown = screen.getvalue()
    assert (shown.count("\n"), "\x1b[A" in shown) == (1, False)
    drawn = [" ".join(part.split()) for part in shown.split("\r")]
    for expected in ("queued 0%", "2 jobs ahead in the project", "bootstrap 30%", "3/4", "train 45%", "train 60%", "0/2", "succeeded 100%"):
        assert any(expected in part for part in drawn), (expected, drawn)
    assert any("waits for a trainer: next in turn, about 12 min, cjob-9 nightly, made by ana has it" in part for part in drawn), drawn
    assert not [part for part in drawn if " , " in part], drawn


def test_a_log_has_a_line_for_each_step_and_reason(capsys: pytest.CaptureFixture[str]) -> None:
    waited()
    assert capsys.readouterr().err.splitlines() == [
        "cjob-1 0% queued 2 jobs ahead in the project",
        "cjob-1 30% bootstrap 3/4",
        "cjob-1 45% train waits for a trainer: next in turn, about 12 min, cjob-9 nightly, made by ana has it",
        "cjob-1 60% train 0/2",
        "cjob-1 100% succeeded",
    ]


def test_a_log_does_not_repeat_a_reason_that_counts_down(capsys: pytest.CaptureFixture[str]) -> None:
    tried = [running(TRAIN, 45, waiting=True, queue={"reason": f"will be tried again in {seconds} s"}) for seconds in (20, 10)]
    client, _ = scripted(*tried, running(TRAIN, 50), running(TRAIN, 60), reply(job("failed", progress={"percent": 60})))
    client.compile_jobs.wait("cjob-1", progress=True)
    shown = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 2)[2] for line in shown] == [
        "train will be tried again in 20 s",
        "train 0/2",
        "failed",
    ]


def test_an_upload_is_one_line_in_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("12345")
    with _progress.sending(path) as on_sent:
        for count in range(6):
            if on_sent is not None:
                on_sent(count)
    assert capsys.readouterr().err == "rows.jsonl: 5 bytes sent\n"


def test_a_notebook_has_one_bar(notebook: None, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        waited()
    shown = capsys.readouterr()
    assert (len(shown.out.splitlines()), shown.err) == (1, "")


def test_a_notebook_without_widgets_has_lines_and_no_warning(
    notebook: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        waited()
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_ctrl_c_says_how_to_wait_again(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_: Any) -> Any:
        raise KeyboardInterrupt

    client, _ = scripted(running(BOOTSTRAP, 30), interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.compile_jobs.wait("cjob-1", progress=True)
    assert 'cjob-1 goes on. client.compile_jobs.wait("cjob-1", progress=True) follows it again' in capsys.readouterr().err


def test_a_compile_shows_it_too(server: Server, client: stillhouse.Stillhouse, capsys: pytest.CaptureFixture[str]) -> None:
    asked_for(server, client)
    assert capsys.readouterr().err.splitlines()[-1] == "cjob-1 0% failed"

"""The command: a cheap area in full, and what becomes of one that fails."""

import sys
from pathlib import Path

import pytest
from rich.console import Console

from bench import __main__ as bench
from bench.areas import AREAS, measure_of
from bench.fake_lm import FakeLM
from bench.report import Figure, Report, figure, measured
from bench.session import Session
from bench.side import Side, SideFailed
from bench.training_runs import train
from distill.sandbox import choose

COMMAND = ["--quick", "--only"]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(quick=True, seed=0, home=tmp_path, scratch=tmp_path / "scratch")


class TestCommand:
    @pytest.mark.slow
    def test_the_start_of_a_runner_is_measured_and_written(self, tmp_path: Path) -> None:
        out = tmp_path / "results.json"
        assert bench.main([*COMMAND, "runner", "--out", str(out)]) == 0
        report = Report.model_validate_json(out.read_text())
        assert [run.status for run in report.areas] == ["ok"]
        names = {"start to ready", "start to first rollout done", f"start on {choose().rung.name}"}  # type: ignore[union-attr]
        assert {figure.name for figure in report.figures} >= names
        assert {"added_ms", "added_ms_low", "added_cpu_ms_high", "load"} <= report.figures[-1].details.keys()
        assert all(figure.wall.ours > 0 and figure.wall.ratio for figure in report.figures)

    def test_an_unknown_area_is_refused_with_the_known_ones(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            bench.main(["--only", "rolouts"])
        assert "'rollouts'" in capsys.readouterr().err

    def test_every_area_can_be_measured(self) -> None:
        assert all(callable(measure_of(area)) for area in AREAS)


class TestFailure:
    def test_one_area_fails_alone(self, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(_: Session) -> list[Figure]:
            raise RuntimeError("no such thing")

        def works(_: Session) -> list[Figure]:
            return [figure("celery", "one", measured("s", "lower", [1.0]), n=1)]

        monkeypatch.setattr(bench, "measure_of", lambda name: fails if name == "jobs" else works)
        report = bench.run(session, ["jobs", "celery"], Console(quiet=True), tmp_path / "out.json")
        assert [(run.area, run.status, run.error) for run in report.areas] == [
            ("jobs", "failed", "RuntimeError: no such thing"),
            ("celery", "ok", None),
        ]
        assert [figure.area for figure in report.figures] == ["celery"]

    def test_a_run_that_is_broken_off_has_kept_the_areas_before(
        self, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken_off(_: Session) -> list[Figure]:
            raise KeyboardInterrupt

        def works(_: Session) -> list[Figure]:
            return [figure("jobs", "one", measured("s", "lower", [1.0]), n=1)]

        monkeypatch.setattr(bench, "measure_of", lambda name: works if name == "jobs" else broken_off)
        with pytest.raises(KeyboardInterrupt):
            bench.run(session, ["jobs", "celery"], Console(quiet=True), tmp_path / "out.json")
        kept = Report.model_validate_json((tmp_path / "out.json").read_text())
        assert [area.area for area in kept.areas] == ["jobs"]


class TestSides:
    def test_a_side_that_cannot_start_says_why(self, session: Session, tmp_path: Path) -> None:
        with pytest.raises(SideFailed, match="No module named"):
            Side("no_such_side", session.environment(), tmp_path / "side.log")

    def test_a_training_that_fails_says_why(self, session: Session, tmp_path: Path) -> None:
        command = [sys.executable, "-c", "raise SystemExit('out of rows')"]
        with pytest.raises(SideFailed, match="out of rows"):
            train(command, tmp_path, session.environment())

    def test_a_side_answers_what_it_was_asked(self, session: Session, tmp_path: Path) -> None:
        with FakeLM(0.2, session.environment()) as lm, Side("our_rollouts", session.environment(), tmp_path / "side.log") as side:
            assert side.ask(op="start", url=lm.url)["passed"] == 1
            timed = side.timed(op="run", url=lm.url, n=20, in_flight=5)
            assert timed.reply["passed"] == 20
            assert lm.stats() == {"served": 21, "peak": 5}
            with pytest.raises(SideFailed, match="KeyError"):
                side.ask(op="run")

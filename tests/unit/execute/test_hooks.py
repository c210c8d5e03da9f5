import os
import signal
import subprocess
import sys
from pathlib import Path

PASS_THREE_TIMES = (
    "from distill.execute.hooks import crash_point\nfor i in range(3): print(i, flush=True); crash_point('package.before_publish')"
)


def run(at: str | None, markers: Path) -> tuple[int, list[str]]:
    environment = {**os.environ, "STILLHOUSE_CRASH_MARKERS": str(markers)} | ({"STILLHOUSE_CRASH_AT": at} if at else {})
    done = subprocess.run([sys.executable, "-c", PASS_THREE_TIMES], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.split()


class TestCrashPoint:
    def test_dies_at_the_named_point_once_across_restarts(self, tmp_path: Path) -> None:
        assert run("package.before_publish:2", tmp_path) == (-signal.SIGKILL, ["0", "1"])
        assert run("package.before_publish:2", tmp_path) == (0, ["0", "1", "2"])

    def test_another_point_is_passed(self, tmp_path: Path) -> None:
        assert run("train.mid_work", tmp_path) == (0, ["0", "1", "2"])

    def test_one_of_several_points_is_enough(self, tmp_path: Path) -> None:
        assert run("train.mid_work,package.before_publish", tmp_path) == (-signal.SIGKILL, ["0"])

    def test_a_marker_made_beforehand_keeps_its_point_quiet(self, tmp_path: Path) -> None:
        (tmp_path / "package.before_publish").touch()
        assert run("package.before_publish", tmp_path) == (0, ["0", "1", "2"])

    def test_nothing_asked_for_nothing_happens(self, tmp_path: Path) -> None:
        assert run(None, tmp_path) == (0, ["0", "1", "2"])
        assert list(tmp_path.iterdir()) == []


class TestHold:
    def test_stands_at_the_named_point_until_it_may_go(self, tmp_path: Path) -> None:
        environment = {**os.environ, "STILLHOUSE_CRASH_MARKERS": str(tmp_path), "STILLHOUSE_HOLD_AT": "package.before_publish:2"}
        process = subprocess.Popen([sys.executable, "-c", PASS_THREE_TIMES], env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["0\n", "1\n"]
        marker = tmp_path / "package.before_publish"
        while not marker.exists():
            assert process.poll() is None
        assert process.poll() is None
        (tmp_path / "package.before_publish.go").touch()
        assert process.communicate(timeout=20)[0] == "2\n"

"""Programs and metrics that end their process, block it or raise what nobody expects: each costs its own example, and nothing else."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.views.facts import rejection_read
from distill.db import Page, unit_of_work
from distill.execute import rollouts
from distill.jobs import facts, repository
from distill.jobs.models import Job
from distill.rollouts import ProgramHost
from distill.sandbox import Limits
from distill.settings import get_settings
from tests.integration.execute.house import House
from tests.support.installed import PACKAGE, make_runtime
from tests.support.scripted_lm import ScriptedLM

HOSTILE = {"reference": f"{PACKAGE}.hostile:make_hostile"}
METRIC = f"{PACKAGE}.hostile:hostile_metric"
DIED = "ProcessDied: killed the program's process: it"
WIDTH = 8
MEMORY_MB = 1500
"""Of all processes of a runner together: the one that "crowds" takes 2,000."""


def rows(ways: dict[int, str], count: int = 24) -> list[dict[str, str]]:
    """`{3: "exits"}`: what the program does at example 3; `{3: "fine exits"}` is the metric's doing."""
    return [{"message": f"{ways.get(at, 'fine')} fine message {at}", "answer": "yes"} for at in range(count)]


@pytest.fixture
def house(database: str, tmp_path: Path) -> Iterator[House]:
    python = make_runtime(tmp_path / "runtime")
    with (
        ScriptedLM(answer=lambda ask: {"answer": "yes"}) as teacher,
        ScriptedLM(answer=lambda ask: {"answer": "no"}) as student,
        House(tmp_path, teacher, student, python=python, references=(PACKAGE,), limits=Limits(memory_mb=MEMORY_MB)) as opened,
    ):
        yield opened


def bootstrapped(house: House, examples: Sequence[dict[str, str]], **more: Any) -> Job:
    """The job once its bootstrap is over, or it has failed."""
    host = ProgramHost(house.ports.runners)
    program = host.describe(house.project_id, HOSTILE)["program"]
    source = host.describe(house.project_id, {"reference": METRIC, "metric": True})["source"]
    metric = {"type": "reference", "reference": METRIC, "source": source}
    settled = {"num_threads": WIDTH, "evaluate": {"roles": []}, "holdout": {"n": 0}, **more}
    return house.run(house.submit(list(examples), program, metric=metric, **settled), seconds=240)


def told(job: Job) -> dict[int, tuple[str, str]]:
    """Of every example that is not trained on: the reason and the error."""
    with unit_of_work() as s:
        read = [rejection_read(fact) for fact in facts.list_rejections(s, facts.place_of(job), Page(limit=100)).data]
    return {each.row - 1: (each.reason, each.message or "") for each in read}


def attempts(job: Job) -> Counter[tuple[str, int]]:
    with unit_of_work() as s:
        return Counter((item.status, item.attempts) for item in repository.items(s, job.id, "bootstrap"))


@pytest.mark.slow
class TestEndsItsProcess:
    def test_each_costs_its_own_example_and_no_other(self, house: House) -> None:
        ways = {2: "exits", 5: "kills", 13: "segfaults", 14: "fine exits"}
        job = bootstrapped(house, rows(ways))
        assert job.status == "succeeded", job.error
        assert told(job) == {
            2: ("failed", f"{DIED} ended with exit code 3"),
            5: ("failed", f"{DIED} was killed by signal 9 (SIGKILL)"),
            13: ("failed", f"{DIED} was killed by signal 11 (SIGSEGV)"),
            14: ("metric_failed", f"{DIED} ended with exit code 3"),
        }
        assert {each for _, each in attempts(job)} == {1}
        # Of the others, each was asked once and again at most once for every death that it was in flight at: none twice a halving.
        assert len(house.teacher.calls) <= 21 + 4 * 2 * WIDTH


@pytest.mark.slow
class TestFillsMemory:
    def test_many_processes_cost_their_own_example_alone(self, house: House) -> None:
        job = bootstrapped(house, rows({5: "crowds"}, count=8))
        assert job.status == "succeeded", job.error
        used = f"used more than {MEMORY_MB} MB of memory in all its processes together, and was stopped"
        assert told(job) == {5: ("memory", f"memory: The program's process {used}")}


class TestRaises:
    def test_what_nobody_expects_costs_its_example(self, house: House) -> None:
        """Neither the process nor the others are harmed by what is no Exception, too large, or cannot be printed or pickled."""
        ways = ("quits", "interrupts", "shouts", "mumbles", "mute", "locked", "greedy")
        job = bootstrapped(house, rows({3 * at + 1: how for at, how in enumerate(ways)}))
        assert job.status == "succeeded", job.error
        found = {at: (reason, message[:60]) for at, (reason, message) in told(job).items()}
        assert found == {
            1: ("failed", "SystemExit: 4"),
            4: ("failed", "KeyboardInterrupt: "),
            7: ("failed", f"ValueError: {'x' * 48}"),
            10: ("failed", "ValueError: ?"),
            13: ("failed", "Unprintable: (its message cannot be read: RuntimeError)"),
            16: ("failed", found[16][1]),
            19: ("memory", found[19][1]),
        }
        assert found[16][1].startswith("Unpicklable: ('held', <unlocked _thread.lock")
        assert {each for _, each in attempts(job)} == {1}

    @pytest.mark.slow
    def test_the_same_of_a_metric(self, house: House) -> None:
        ways = ("quits", "interrupts", "shouts", "mumbles", "mute", "locked", "greedy")
        job = bootstrapped(house, rows({3 * at + 1: f"fine {how}" for at, how in enumerate(ways)}))
        assert job.status == "succeeded", job.error
        assert {at: reason for at, (reason, _) in told(job).items()} == dict.fromkeys((1, 4, 7, 10, 13, 16, 19), "metric_failed")
        assert len(house.teacher.calls) == 24


@pytest.mark.slow
class TestBlocks:
    def test_a_program_that_holds_the_interpreter_is_ended_and_costs_its_example(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STILLHOUSE_LIMITS__EXAMPLE_SECONDS", "4")
        monkeypatch.setenv("STILLHOUSE_TIMERS__SILENCE_SECONDS", "2")
        get_settings.cache_clear()
        job = bootstrapped(house, rows({4: "blocks"}, count=8), num_threads=2)
        assert job.status == "succeeded", job.error
        assert told(job) == {4: ("time_limit", "time_limit: The program's process said nothing for 6 s and was stopped")}


class TestLeavesAChild:
    def test_nothing_that_a_program_started_outlives_its_job(self, house: House) -> None:
        """Not even in a session of its own."""
        job = bootstrapped(house, rows({1: "leaves"}, count=4))
        ((_, said),) = told(job).values()
        house.ports.runners.close()
        assert said.startswith("ValueError: left ")
        assert said.split()[-1] not in {word for each in psutil.process_iter(["cmdline"]) for word in each.info["cmdline"] or ()}


@pytest.mark.slow
class TestOnlyDies:
    def test_a_program_that_always_dies_stops_the_job_after_the_first_examples(self, house: House) -> None:
        job = bootstrapped(house, rows(dict.fromkeys(range(40), "exits"), count=40))
        assert (job.status, (job.error or {}).get("code")) == ("failed", "all_rollouts_failed")
        assert DIED in str(job.error)

    def test_in_a_later_slice_it_stops_after_a_bound(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rollouts, "MOST_CULPRITS", 2)
        job = bootstrapped(house, rows(dict.fromkeys(range(10, 20), "exits"), count=20))
        assert (job.status, (job.error or {}).get("code")) == ("failed", "program_ends_its_process")
        assert "3 examples of one slice ended the program's process; of the last one it ended with exit code 3." in str(job.error)

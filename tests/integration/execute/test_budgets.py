"""Budgets at work: what is paid for is counted at the LM hosts, over slices and workers; a job that is stopped keeps all and goes on."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from distill.db import unit_of_work
from distill.errors import Conflict
from distill.execute.run import run_queue
from distill.execute.steps import STEPS
from distill.jobs import editing, pausing
from distill.jobs.claims import WorkerInfo
from distill.jobs.editing import Changes
from distill.jobs.models import Job
from distill.jobs.slices import FIRST
from distill.settings import PriceSettings
from tests.integration.execute.house import House, knows, reap, rows
from tests.integration.execute.test_costs import set_prices
from tests.integration.execute.test_crashes import CALLS_OF_AN_EXAMPLE, work
from tests.support.scripted_lm import ScriptedLM

BARE: dict[str, Any] = {"evaluate": {"roles": []}}
FREE = {"*": PriceSettings(input=0, output=0)}
PRICED = {"*": PriceSettings(input=100.0, output=100.0)}


def calls(*hosts: ScriptedLM) -> int:
    return sum(len(host.calls) for host in hosts)


def repeats(*hosts: ScriptedLM) -> int:
    return sum(len(host.calls) - len({call.digest for call in host.calls}) for host in hosts)


def tokens(*hosts: ScriptedLM) -> int:
    """What the answers so far said that they took; every one has as many words as tokens."""
    with unit_of_work() as s:
        return int(s.scalar(text("SELECT COALESCE(sum(prompt_tokens + completion_tokens), 0) FROM lm_usage WHERE kind = 'paid'")) or 0)


def stopped(job: Job) -> dict[str, Any]:
    assert (job.status, job.error) == ("paused", None)
    assert job.pause_reason is not None
    return job.pause_reason


def run_until_paused(house: House, job_id: str, workers: int = 1, width: int = 8) -> Job:
    """With several workers at once, each of which makes as many rollouts at once as its width."""
    if workers == 1:
        return house.run(job_id, 100, until=lambda job: job.status == "paused")
    while house.job(job_id).step == "validate":
        run_queue("rollouts", house.worker, house.ports, house.shift, STEPS, seconds=0.001)  # one item, or none
    infos = [WorkerInfo(f"worker-{n}", house.worker.capabilities, max_width=width) for n in range(workers)]
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(lambda info: run_queue("rollouts", info, house.ports, house.shift, STEPS, 60), infos))
    return house.job(job_id)


def raise_to(house: House, job_id: str, **limits: Any) -> None:
    with unit_of_work() as s:
        editing.edit(s, house.project_id, job_id, Changes(limits=limits))
        assert pausing.resume(s, house.project_id, job_id).status == "queued"


class TestCalls:
    def test_a_budget_that_is_ample_is_never_in_the_way(self, house: House) -> None:
        job = house.compile(rows(40), budget={"max_calls": 1000}, num_threads=2)
        assert job.status == "succeeded", job.error
        assert house.job(job.id).calls_taken == calls(house.teacher, house.student)

    def test_a_job_without_a_budget_is_counted_too(self, house: House) -> None:
        job = house.compile(rows(40), num_threads=2)
        counted = house.job(job.id)
        assert (counted.calls_taken, counted.tokens_taken) == (calls(house.teacher, house.student), tokens())

    def test_a_budget_that_is_just_enough_is_spent_to_the_last_call(self, house: House) -> None:
        job = house.compile(rows(10), budget={"max_calls": 20}, num_threads=2, **BARE)
        assert job.status == "succeeded", job.error
        assert calls(house.teacher) == 20

    def test_at_the_cap_the_job_pauses_and_says_what_raising_it_would_need(self, house: House) -> None:
        job = run_until_paused(house, house.submit(rows(40), budget={"max_calls": 21}, num_threads=2, **BARE))
        reason = stopped(job)
        assert (reason["code"], reason["param"]) == ("budget_exhausted", "budget.max_calls")
        assert reason["data"] == {"limit": 21, "spent": 20, "next": 2, "needed": 80}
        assert reason["message"] == (
            "Of the budget of 21 LM calls 20 are spent, and a rollout needs 2. At the rate so far the job needs about 80 in all. "
            f"Raise budget.max_calls with PATCH /v1/compile_jobs/{job.id}, then resume. All that was made is kept."
        )
        assert calls(house.teacher) == 20

    def test_raised_and_resumed_it_goes_on_and_pays_nothing_twice(self, house: House) -> None:
        job = run_until_paused(house, house.submit(rows(24), budget={"max_calls": 30}, num_threads=4, **BARE))
        with unit_of_work() as s, pytest.raises(Conflict) as refused:
            pausing.resume(s, house.project_id, job.id)
        assert (refused.value.code, refused.value.param) == ("budget_exhausted", "budget.max_calls")
        raise_to(house, job.id, max_calls=stopped(job)["data"]["needed"])
        done = house.run(job.id, 100)
        assert done.status == "succeeded", done.error
        assert repeats(house.teacher, house.student) == 0

    def test_slices_of_several_workers_share_it(self, house: House) -> None:
        house.teacher.latency = 0.01
        job = run_until_paused(house, house.submit(rows(60), budget={"max_calls": 61}, num_threads=9, **BARE), workers=3, width=3)
        assert stopped(job)["param"] == "budget.max_calls"
        assert calls(house.teacher, house.student) <= 61
        assert job.calls_taken == calls(house.teacher, house.student)
        assert calls(house.teacher, house.student) > 61 - 3 * 3 * 2, "what lay unused is less than one round of each worker"
        raise_to(house, job.id, max_calls=100_000)
        assert house.run(job.id, 100).status == "succeeded"
        assert repeats(house.teacher, house.student) == 0

    def test_rollouts_that_end_early_give_back_what_was_set_aside(self, house: House) -> None:
        house.teacher.answer = lambda ask: "not a field" if "category" in ask.outputs and ask.inputs["message"][8] in "12" else knows(ask)
        job = house.compile(rows(30), budget={"max_calls": 42}, num_threads=2, **BARE)
        assert job.status == "succeeded", job.pause_reason
        assert calls(house.teacher) == 38, "30 classifications, 8 replies"

    def test_evaluation_counts_too(self, house: House) -> None:
        job_id = house.submit(rows(6), valset=rows(12)[6:], budget={"max_calls": 12 + 5}, num_threads=1, evaluate={"roles": ["compiled"]})
        job = run_until_paused(house, job_id)
        assert (job.step, stopped(job)["data"]) == ("evaluate", {"limit": 17, "spent": 16, "next": 2, "needed": 24})
        raise_to(house, job.id, max_calls=24)
        assert house.run(job.id, 100).status == "succeeded"
        assert (calls(house.teacher, house.student), repeats(house.teacher, house.student)) == (24, 0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_a_lost_worker_had_taken_counts_as_spent(house: House, tmp_path: Path) -> None:
    with House(tmp_path / "losing", house.teacher, house.student, device="cpu-0", project="losing") as losing:
        job_id, markers = losing.submit(rows(40), budget={"max_calls": 40}, num_threads=4, **BARE), tmp_path / "markers"
        assert work(losing, job_id, "bootstrap.flushed", markers) == -9
        reap()
        with unit_of_work() as s:
            kept, paid = s.execute(text("SELECT (SELECT sum(calls) FROM traces), (SELECT sum(calls) FROM lm_usage)")).one()
        assert paid >= kept > 0, "what was kept is on the bill"

        assert work(losing, job_id, "", markers) == 0
        job = losing.job(job_id)
        assert stopped(job)["param"] == "budget.max_calls"
        assert job.calls_taken <= 40
        assert calls(house.teacher) <= 40

        raise_to(losing, job_id, max_calls=1000)
        assert work(losing, job_id, "", markers) == 0
        assert losing.job(job_id).status == "succeeded"
        assert repeats(house.teacher) <= FIRST * CALLS_OF_AN_EXAMPLE


class TestTokens:
    def test_it_is_overspent_by_the_calls_in_flight_at_most(self, house: House) -> None:
        house.teacher.latency = 0.01
        job = run_until_paused(house, house.submit(rows(60), budget={"max_tokens": 4000}, num_threads=9, **BARE), workers=3, width=3)
        reason = stopped(job)
        assert (reason["code"], reason["param"]) == ("budget_exhausted", "budget.max_tokens")
        most = max(len(str(call.body["messages"]).split()) for call in house.teacher.calls) + 50
        assert 4000 - 9 * 2 * most < tokens() <= 4000 + 9 * most
        assert job.tokens_taken == tokens()
        raise_to(house, job.id, max_tokens=reason["data"]["needed"] * 2)
        assert house.run(job.id, 100).status == "succeeded"
        assert repeats(house.teacher) == 0

    def test_a_host_that_does_not_say_what_an_answer_took_stops_the_job(self, house: House) -> None:
        house.teacher.tells_usage = False
        job = run_until_paused(house, house.submit(rows(12), budget={"max_tokens": 5000}, num_threads=1, **BARE))
        reason = stopped(job)
        assert (reason["code"], reason["param"]) == ("usage_unknown", "budget.max_tokens")
        assert reason["message"].startswith("An answer of teacher/big did not say how many tokens it took, so budget.max_tokens cannot be")
        raise_to(house, job.id, max_tokens=None)
        assert house.run(job.id, 100).status == "succeeded"


class TestMoney:
    def test_it_is_overspent_by_the_calls_in_flight_at_most(self, house: House) -> None:
        set_prices(house, {"teacher": PRICED, "house": FREE})
        house.teacher.latency = 0.01
        job = run_until_paused(house, house.submit(rows(60), budget={"max_cost_usd": 0.4}, num_threads=9, **BARE), workers=3, width=3)
        reason = stopped(job)
        assert (reason["code"], reason["param"]) == ("budget_exhausted", "budget.max_cost_usd")
        most = max(len(str(call.body["messages"]).split()) for call in house.teacher.calls) + 50
        with unit_of_work() as s:
            usd = float(s.scalar(text("SELECT sum(usd) FROM lm_usage WHERE kind = 'paid'")) or 0)
        assert 0.4 - 9 * 2 * most / 10_000 < usd <= 0.4 + 9 * most / 10_000
        assert job.usd_taken == pytest.approx(usd)
        raise_to(house, job.id, max_cost_usd=reason["data"]["needed"] * 2)
        assert house.run(job.id, 100).status == "succeeded"
        assert repeats(house.teacher, house.student) == 0

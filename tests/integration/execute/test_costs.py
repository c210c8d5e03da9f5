"""What a job cost, and what reuse saved it: counted at the LM hosts."""

from typing import Any

from app.views.costs import cost_read
from distill.catalog import connections, traces, usage
from distill.catalog.facts import RowFact
from distill.catalog.row_facts import every
from distill.db import unit_of_work
from distill.jobs import repository
from distill.settings import PriceSettings, Settings
from tests.integration.execute.house import House, knows, rows
from tests.support.scripted_lm import Fail, ScriptedLM

TEACHER = {"big": PriceSettings(input=2.0, output=8.0, cached_input=0.5)}


def set_prices(house: House, prices: dict[str, dict[str, PriceSettings]]) -> None:
    for name, table in prices.items():
        house.connections[name] = house.connections[name].model_copy(update={"prices": table})
    with unit_of_work() as s:
        connections.sync(s, Settings(connections=house.connections))


def cost(job_id: str) -> Any:
    with unit_of_work() as s:
        return cost_read(usage.of_jobs(s, [job_id]).get(job_id, []), repository.fine_tune_jobs(s, job_id))


def answered(lm: ScriptedLM) -> int:
    return len(lm.calls)


class TestCost:
    def test_priced_calls_add_up_and_unpriced_ones_are_named(self, house: House) -> None:
        set_prices(house, {"teacher": TEACHER})
        job = house.compile(rows(6), valset=rows(9)[6:], evaluate={"roles": ["teacher", "compiled"]})
        assert job.status == "succeeded", job.error
        found = cost(job.id)
        teacher = next(line for line in found.models if line.model == "teacher/big")
        assert teacher.calls == answered(house.teacher) == 18
        fresh = teacher.prompt_tokens - teacher.cached_tokens
        assert found.teacher_usd == round((fresh * 2.0 + teacher.cached_tokens * 0.5 + teacher.completion_tokens * 8.0) / 1e6, 6)
        assert found.teacher_usd > 0
        assert (found.student_usd, found.total_usd) == (None, None)
        assert found.unknown[0].startswith("price of house/")
        assert found.calls == answered(house.teacher) + answered(house.student)

    def test_a_trace_holds_the_model_and_the_price_of_each_call(self, house: House) -> None:
        set_prices(house, {"teacher": TEACHER})
        job = house.compile(rows(4), evaluate={"roles": []})
        with unit_of_work() as s:
            fact: RowFact = every(s, job.id, "rollout", "teacher:0")[0]
            trace = traces.lookup(s, job.project_id, [str(fact.trace_digest)])[str(fact.trace_digest)].body
        assert [call["model"] for call in trace["calls"]] == ["teacher/big", "teacher/big"]
        assert trace["usage"]["usd"] == sum(call["usage"]["usd"] for call in trace["calls"]) > 0
        assert all(call["seconds"] > 0 for call in trace["calls"])

    def test_what_an_earlier_job_paid_for_is_saved_not_paid(self, house: House) -> None:
        set_prices(house, {"teacher": TEACHER})
        first = house.compile(rows(4), evaluate={"roles": []})
        paid = answered(house.teacher)
        second = house.compile(rows(6), evaluate={"roles": []})
        assert answered(house.teacher) - paid == 4, "two predictors for each of two examples that are new"
        found = cost(second.id)
        assert (found.saved_calls, found.calls) == (8, 4)
        assert found.saved_by_reuse_usd == cost(first.id).teacher_usd

    def test_a_job_that_stops_has_cost_what_it_asked(self, house: House) -> None:
        set_prices(house, {"teacher": TEACHER})
        house.teacher.answer = lambda ask: knows(ask) if ask.n < 7 else Fail(401, "invalid_api_key", "wrong key")
        job = house.compile(rows(40), evaluate={"roles": []}, num_threads=1)
        assert job.error is not None
        assert job.error["code"] == "connection_unauthorized"
        assert cost(job.id).calls == 7

    def test_with_every_price_known_there_is_a_total(self, house: House) -> None:
        set_prices(house, {"teacher": TEACHER, "house": {"*": PriceSettings(input=0, output=0)}})
        job = house.compile(rows(6), valset=rows(9)[6:])
        found = cost(job.id)
        assert (found.student_usd, found.unknown) == (0.0, [])
        assert found.total_usd == found.teacher_usd

"""Several teachers, teachers with programs of their own, and rows that no teacher is asked about."""

from typing import Any

from distill.catalog import programs, row_facts
from distill.db import unit_of_work
from stillhouse_programs.spec import parse_spec
from tests.integration.execute.house import SUPPORT, House, PretendTrainer, field_of, knows, rows
from tests.support.scripted_lm import Answer, Ask


def told(instructions: str) -> dict[str, Any]:
    """The program with other instructions for its first predictor, and a predictor order and wiring of its own."""
    classify, reply = SUPPORT["predictors"]
    changed = {**classify, "signature": {**classify["signature"], "instructions": instructions}}
    steps = [{**SUPPORT["steps"][0], "id": "first"}, {**SUPPORT["steps"][1], "id": "second"}]
    steps[1] = {**steps[1], "args": {"message": {"from": "input.message"}, "category": {"from": "first.category"}}}
    outputs = {"category": {"from": "first.category"}, "answer": {"from": "second.answer"}}
    return {"predictors": [changed, reply], "steps": steps, "outputs": outputs}


def objectives(house: House) -> list[str]:
    """The instructions in each training row's prompt."""
    assert isinstance(house.trainer, PretendTrainer)
    texts = [text for job in house.trainer.jobs for text in job["texts"]]
    return [text["prompt"][0]["content"].split("objective is:")[1].strip() for text in texts]


class TestSeveralTeachers:
    def test_rows_of_all_that_pass_are_kept_and_rendered_as_the_student_is_asked(self, house: House) -> None:
        """The first teacher knows the messages with an even number, the second, who was told otherwise, the odd ones."""

        def answer(ask: Ask) -> Answer:
            second = "Sort the mail." in ask.messages[0]["content"]
            number = int(ask.inputs["message"].split()[1])
            if "category" in ask.outputs and (number % 2 == 1) != second:
                return {"category": next(name for name in ("billing", "account") if name != ask.inputs["message"].split()[-1])}
            return knows(ask)

        house.teacher.answer = answer
        with unit_of_work() as s:
            other = programs.ensure(s, house.project_id, None, parse_spec(told("Sort the mail."))).id
        job = house.compile(rows(8), teacher=[{}, {"program_id": other}], multitask=False)
        assert job.status == "succeeded", job.error
        with unit_of_work() as s:
            passed = {
                role: sorted(fact.example_index for fact in row_facts.every(s, job.id, "rollout", role) if fact.passed)
                for role in ("teacher:0", "teacher:1")
            }
        assert passed == {"teacher:0": [0, 2, 4, 6], "teacher:1": [1, 3, 5, 7]}
        assert sorted(objectives(house)) == ["Answer the customer."] * 8 + ["Route a customer message to one team."] * 8


class TestRowsOfAFile:
    def test_a_row_that_the_summary_hides_stops_the_job_before_any_call(self, house: House) -> None:
        order = {
            "type": "object",
            "title": "Order",
            "properties": {"id": {"type": "integer"}, "lines": {"type": "array", "items": {"type": "string"}}},
            "required": ["id", "lines"],
        }
        fields = [field_of("order", "input", order), field_of("category", "output")]
        program = {"predictors": [{"name": "self", "lm": "student", "signature": {"fields": fields}}]}
        good = {"order": {"id": 1, "lines": ["a"]}, "category": "x"}
        bad = [{"order": {"id": 1, "lines": ["a", number]}, "category": "x"} for number in range(30)]
        job = house.compile([good, *bad], program=program)
        assert job.status == "failed"
        assert job.error is not None
        assert (job.error["code"], job.error["step"], job.error["param"]) == ("invalid_rows", "validate", "trainset[1].order")
        assert job.error["message"] == "trainset: 30 of 31 rows cannot be used. Row 2, `order`: `lines`: item 2: expected text."
        assert [(each["row"], each["field"]) for each in job.error["data"]["details"]] == [(row, "order") for row in range(2, 22)]
        assert house.teacher.calls == house.student.calls == []

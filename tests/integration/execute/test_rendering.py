"""Whose prompts the training rows have."""

import copy
import json
import re
from typing import Any

from distill.catalog import programs
from distill.db import unit_of_work
from stillhouse_programs.spec import parse_spec
from tests.integration.execute.house import CATEGORIES, SUPPORT, House, PretendTrainer, rows
from tests.support.scripted_lm import Answer, Ask

DEMO = {"message": "Refund me", "category": "billing"}


def teacher_of(house: House) -> dict[str, Any]:
    """A teacher with another instruction, a demo and another prompt adapter than the student."""
    body = copy.deepcopy(SUPPORT)
    body["predictors"][0] |= {"demos": [DEMO]}
    body["predictors"][0]["signature"]["instructions"] = "Think of the team first."
    with unit_of_work() as s:
        program = programs.ensure(s, house.project_id, None, parse_spec(body), name="taught")
        return {"program_id": program.id, "lms": {"student": {"prompt_adapter": {"type": "xml"}}}}


def reads_xml(ask: Ask) -> Answer:
    """The teacher, for prompts whose inputs the scripted LM does not take apart."""
    said = re.findall(r"about (\w+)", ask.text)[-1]
    return {"category": said} if "category" in ask.outputs else {"answer": f"Team {said} will help."}


def compiled(house: House, **more: Any) -> tuple[list[str], list[str]]:
    """The prompt of each row of the first predictor, each in one text, and the codes of the job's warnings."""
    house.teacher.answer = reads_xml
    job = house.compile(rows(6), teacher=[teacher_of(house)], multitask=False, **more)
    assert job.status == "succeeded", job.error
    assert isinstance(house.trainer, PretendTrainer)
    texts = house.trainer.jobs[-2]["texts"]
    assert len(texts) == 6
    prompts = ["\n".join(message["content"] for message in text["prompt"]) for text in texts]
    return prompts, [warning["code"] for warning in job.warnings]


class TestRender:
    def test_rows_have_the_students_prompts(self, house: House) -> None:
        prompts, warned = compiled(house)
        assert all("Route a customer message" in text and "[[ ## message ## ]]" in text for text in prompts)
        assert not any("Refund me" in text for text in prompts)
        assert "prompts_differ" not in warned

    def test_rows_have_the_teachers_prompts_when_asked_for_and_the_job_says_that_they_differ(self, house: House) -> None:
        prompts, warned = compiled(house, render="teacher")
        assert all("Think of the team first." in text and "<message>\nRefund me\n</message>" in text for text in prompts)
        assert "prompts_differ" in warned

    def test_under_the_baml_prompt_adapter(self, house: House) -> None:
        job = house.compile(rows(6), prompt_adapter={"type": "baml"}, multitask=False)
        assert job.status == "succeeded", job.error
        assert isinstance(house.trainer, PretendTrainer)
        row = house.trainer.jobs[0]["texts"][0]
        assert 'Output field `category` should be of type: "billing" or "technical" or "account"' in row["prompt"][0]["content"]
        assert json.loads(row["completion"][0]["content"])["category"] in CATEGORIES

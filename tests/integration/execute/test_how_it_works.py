"""The example of docs/how-it-works.md comes out as the page says."""

from collections import Counter
from pathlib import Path
from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

from distill.catalog import row_facts
from distill.db import unit_of_work
from tests.integration.execute.house import House, PretendTrainer
from tests.support.scripted_lm import Answer, Ask

PAGE = Path(__file__).parents[3] / "docs/how-it-works.md"
ROWS = [
    {"message": "I was charged twice.", "team": "billing"},
    {"message": "The app crashes.", "team": "technical"},
    {"message": "Login fails.", "team": "technical"},
    {"message": "Where is my invoice?", "team": "billing"},
    {"message": "I was charged twice.", "team": "billing"},
]
REPLIES: dict[str, Answer] = {
    "I was charged twice.": {"answer": "We look into it."},
    "The app crashes.": {"answer": "We refund it."},
    "Login fails.": "We look into it.",
    "Where is my invoice?": {"answer": "Look below\n[[ ## completed ## ]]\nhere."},
}


def teacher(ask: Ask) -> Answer:
    message = ask.inputs["message"]
    return {"team": "technical" if message == "Login fails." else "billing"} if "team" in ask.outputs else REPLIES[message]


def page_student() -> dict[str, Any]:
    document = Sybil([PythonCodeBlockParser()]).parse(PAGE)
    for example in document.examples():
        example.evaluate()
    student: dict[str, Any] = document.namespace["student"].model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return student


def test_the_rows_and_rejections_of_the_page(house: House) -> None:
    house.teacher.answer = teacher
    job = house.compile(
        ROWS,
        program=page_student(),
        metric={"type": "exact_match", "fields": ["team"]},
        teacher=[{"lms": {"student": {"connection": "teacher", "model": "big", "prompt_adapter": "json"}}}],
        multitask=False,
        holdout={"n": 0},
    )
    assert job.status == "succeeded", job.error
    assert isinstance(house.trainer, PretendTrainer)
    trained = [[text["prompt"][1]["content"].split("\n")[1] for text in training["texts"]] for training in house.trainer.jobs]
    assert [sorted(messages) for messages in trained] == [["I was charged twice.", "Where is my invoice?"], ["I was charged twice."]]
    with unit_of_work() as s:
        rollouts = row_facts.every(s, job.id, "rollout", "teacher:0")
        rejected = Counter((fact.example_index + 1, fact.predictor, fact.reason) for fact in row_facts.every(s, job.id, "rejected"))
    assert [(fact.status, fact.score) for fact in rollouts] == [("ok", 1.0), ("ok", 0.0), ("unparsable", 0.0), ("ok", 1.0), ("ok", 1.0)]
    assert rejected == {(4, "reply", "not_round_trip"): 1}
    assert len(house.teacher.calls) == 2 * 4

"""Types of a program that runs here: its models are trained on the prompts that it asks with."""

from __future__ import annotations

import dataclasses
from typing import Any

import dspy
import pydantic
import pytest

from stillhouse.dropin.programs import check_types, own_program
from stillhouse_programs import prompts
from stillhouse_programs.build import build_program
from stillhouse_programs.spec import expand, parse_spec


class Priced(pydantic.BaseModel):
    name: str
    price: float = 0.0

    @pydantic.field_validator("name")
    @classmethod
    def _trimmed(cls, value: str) -> str:
        return value.strip()


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True)
    parts: list[Priced] = pydantic.Field(default_factory=lambda: [Priced(name="none")])


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Tree(pydantic.BaseModel):
    children: list[Tree] = []


class Renamed(pydantic.BaseModel):
    unit_price: float = pydantic.Field(alias="unitPrice")


class Asking(dspy.Module):
    def __init__(self, kind: Any) -> None:
        super().__init__()
        signature = dspy.Signature("question: str -> note: str").append("found", dspy.OutputField(desc="what was found"), type_=kind)
        self.ask = dspy.Predict(signature)

    def forward(self, question: str) -> Any:
        return self.ask(question=question)


def sent(program: dspy.Module) -> dict[str, Any]:
    return own_program(program, [dspy.Example(question="Who?").with_inputs("question")], {"ask": "student"})


@pytest.mark.parametrize("kind", [Priced, Strict, Point, list[Point], Priced | None])
def test_python_code_in_a_type_leaves_the_prompt_as_it_is(kind: Any) -> None:
    program = Asking(kind)
    spec = expand(parse_spec({"spec_version": 1, "predictors": sent(program)["predictors"], "prompt_adapter": {"type": "chat"}}))
    body = spec.model_dump(mode="json")["predictors"][0]
    alone = build_program(expand(parse_spec({"spec_version": 1, "predictors": [{**body, "name": "self"}]})))
    adapter = prompts.make_prompt_adapter("chat")
    asked = [prompts.messages_of(adapter, each.signature, [], {"question": "Who?"}) for each in (program.ask, alone.predictors()[0])]
    assert asked[0] == asked[1]


@pytest.mark.parametrize("kind", [Tree, Renamed])
def test_a_type_that_no_row_can_show_is_refused_before_a_job_is_made(kind: Any) -> None:
    with pytest.raises(ValueError, match=f"predictor ask, field found: .*{kind.__name__}.*"):
        check_types(Asking(kind))

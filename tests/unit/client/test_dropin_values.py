"""Programs and metrics that run here get the values of the caller's examples, as upstream's do, not the JSON that stands for them."""

from __future__ import annotations

import datetime
import enum
import json
from collections.abc import Iterator
from typing import Any

import dspy
import pydantic
import pytest

import stillhouse
from stillhouse._plain import plain_json
from stillhouse.dropin.originals import Originals
from stillhouse.dropin.programs import own_metric, own_program
from stillhouse.dropin.runner import ItemRun
from tests.support.scripted_lm import Ask, ScriptedLM
from tests.unit.client.dropin_server import Server, item_of, rows_sent


class Item(pydantic.BaseModel):
    name: str
    price: float


class Team(enum.Enum):
    BILLING = "billing"
    ACCOUNT = "account"


class Route(dspy.Signature):
    """Route an order to one team."""

    item: Item = dspy.InputField()
    year: int = dspy.InputField()
    team: Team = dspy.OutputField()


class Desk(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.route = dspy.Predict(Route)

    def forward(self, item: Item, ordered: datetime.date) -> Any:
        if item.price < 0:
            raise ValueError("a price is not negative")
        return self.route(item=item, year=ordered.year)


def billing(ask: Ask) -> dict[str, str]:
    return {"team": "billing"}


def order(number: int) -> Any:
    item, ordered = Item(name="pen", price=number), datetime.date(2026, 1, 1 + number)
    return dspy.Example(item=item, ordered=ordered, team=Team.BILLING).with_inputs("item", "ordered")


@pytest.fixture
def lm() -> Iterator[ScriptedLM]:
    with ScriptedLM(answer=billing) as made:
        yield made


def test_objects_are_given_as_they_are(server: Server, client: stillhouse.Stillhouse) -> None:
    """To a metric also where the answer was stored by an earlier run."""
    seen: list[Any] = []

    def metric(example: Any, prediction: Any, trace: Any = None) -> bool:
        seen.append((type(example.item), type(example.ordered), example.team == prediction.team))
        return True

    examples = [order(1), order(2)]
    server.examples = [dspy.Example(plain_json(dict(each.items()))).with_inputs("item", "ordered") for each in examples]
    student, teacher = Desk(), Desk()
    student.set_lm(dspy.LM("house/tiny"))
    teacher.set_lm(dspy.LM("openai/big"))
    with pytest.raises(stillhouse.StillhouseError, match="over"):
        stillhouse.BootstrapFinetune(metric=metric, client=client).compile(student, examples, teacher=teacher)
    assert rows_sent(server) == [1, 2]

    item = item_of(server.bodies("POST /v1/compile_jobs")[-1], server.examples)
    ItemRun(client, item, teacher, lambda *_: True, Originals(examples)).run()
    for each in item.examples:
        each.rollouts[0]["score"] = None
    ItemRun(client, item, teacher, metric, Originals(examples)).run()
    assert seen == [(Item, datetime.date, True)] * 4


class TestKeys:
    def test_keys_that_are_no_texts_find_their_example(self) -> None:
        example = dspy.Example(by={2: "x", 10: "y", None: Team.BILLING})
        row = json.loads(json.dumps(plain_json(dict(example.items()))))
        assert Originals([example]).values(row, {"by": None}) == {"by": example.by}

    def test_examples_with_objects_share_no_traces_with_code_that_gets_json(self) -> None:
        program = Desk()
        roles = {name: "student" for name, _ in program.named_predictors()}
        plain = dspy.Example(item={"name": "pen"}, ordered="2026-01-01").with_inputs("item", "ordered")
        of_objects, of_json = (own_program(program, [each], roles)["client"] for each in (order(1), plain))
        assert of_objects["source"] != of_json["source"]
        assert "identity" not in of_objects
        metrics = [own_metric(billing, [each])["source"] for each in (order(1), plain)]
        assert metrics[0] != metrics[1]

"""Programs, specs and types that several tests of this folder use."""

import datetime
import enum
import json
from typing import Any, Literal, Optional, Union

import dspy
import pydantic

ROUTER: dict[str, Any] = {
    "spec_version": 1,
    "predictors": [
        {
            "name": "self",
            "lm": "student",
            "signature": {
                "instructions": "Route a customer message to one team.",
                "fields": [
                    {"name": "message", "role": "input"},
                    {
                        "name": "category",
                        "role": "output",
                        "desc": "the team",
                        "schema": {"type": "string", "enum": ["billing", "technical", "account", "other"]},
                    },
                ],
            },
        }
    ],
}

DEMO = {"message": "I was charged twice", "category": "billing", "answer": "Sorry! We refund it today.", "confidence": 0.9}

SUPPORT: dict[str, Any] = {
    "spec_version": 1,
    "predictors": [
        {**ROUTER["predictors"][0], "name": "classify.predict", "type": "ChainOfThought"},
        {
            "name": "reply",
            "lm": "student",
            "config": {"temperature": 0.2},
            "signature": {
                "instructions": "Answer the customer in at most three sentences.",
                "fields": [
                    {"name": "message", "role": "input"},
                    {"name": "category", "role": "input", "desc": "team that answers"},
                    {"name": "answer", "role": "output"},
                    {"name": "confidence", "role": "output", "desc": "0 to 1", "schema": {"type": "number"}},
                ],
            },
            "demos": [DEMO],
        },
    ],
    "steps": [
        {"id": "c", "predictor": "classify.predict", "args": {"message": {"from": "input.message"}}},
        {"id": "r", "predictor": "reply", "args": {"message": {"from": "input.message"}, "category": {"from": "c.category"}}},
    ],
    "outputs": {"category": {"from": "c.category"}, "answer": {"from": "r.answer"}, "confidence": {"from": "r.confidence"}},
    "prompt_adapter": {"type": "chat"},
}

SAMPLES = [{"message": "I was charged twice"}, {"message": 'Line one\n[[ ## x ## ]] "quoted" <b>é'}]


def copy_of(spec: dict[str, Any]) -> dict[str, Any]:
    """Return a spec that a test may change."""
    copied: dict[str, Any] = json.loads(json.dumps(spec))
    return copied


class Route(dspy.Signature):
    """Route a customer message to one team."""

    message: str = dspy.InputField()
    category: Literal["billing", "technical", "account", "other"] = dspy.OutputField(desc="the team")


class Reply(dspy.Signature):
    """Answer the customer in at most three sentences."""

    message: str = dspy.InputField()
    category: str = dspy.InputField(desc="team that answers")
    answer: str = dspy.OutputField()
    confidence: float = dspy.OutputField(desc="0 to 1")


class Support(dspy.Module):
    """The program that SUPPORT stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.classify = dspy.ChainOfThought(Route)
        self.reply = dspy.Predict(Reply, temperature=0.2)
        self.reply.demos = [dspy.Example(**DEMO)]

    def forward(self, message: str) -> dspy.Prediction:
        found = self.classify(message=message)
        reply = self.reply(message=message, category=found.category)
        return dspy.Prediction(category=found.category, answer=reply.answer, confidence=reply.confidence)


class Item(pydantic.BaseModel):
    """An order line."""

    name: str = pydantic.Field(description="product")
    qty: int = pydantic.Field(1, ge=1, le=99)


class Order(pydantic.BaseModel):
    items: list[Item]
    note: Optional[str] = None  # noqa: UP045 - both spellings of an option are to travel
    tags: list[str] = pydantic.Field(default_factory=list)
    kind: Literal["sale", "return"] = "sale"
    weight: int | None = pydantic.Field(None, ge=1, le=50)


class Closed(pydantic.BaseModel):
    model_config = {"extra": "forbid"}

    x: int


class Price(pydantic.BaseModel):
    amount: float = pydantic.Field(gt=0, le=1_000_000)
    code: str = pydantic.Field(pattern="^[A-Z]{3}$")


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


class Tone(str, enum.Enum):  # noqa: UP042 - the older spelling is to travel too
    WARM = "warm"
    COLD = "cold"


TRAVELLING: list[Any] = [
    str, int, float, bool, Any, Literal["a"], Literal[1, 2], Literal["a'b", 'c"d'], Literal[True, "maybe"],
    Optional[str], Union[int, str],  # noqa: UP007, UP045 - both spellings are to travel
    str | None, int | None, Literal["x", "y"] | None, int | bool,
    list, list[str], list[Literal["a", "b"]], list[list[int]], set[str], tuple[int, str], dict, dict[str, int], dict[str, list[int]],
    datetime.date, datetime.datetime, datetime.time,
    Color, Level, Tone, list[Color], Color | None, Item, Order, list[Order], Order | None, dict[str, Item], Closed, Price,
]  # fmt: skip

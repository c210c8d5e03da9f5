"""Types to JSON schemas and back."""

import json
import typing
from typing import Annotated, Any

import dspy
import pydantic
import pytest

from stillhouse_programs.build import build_program
from stillhouse_programs.derive import derive
from stillhouse_programs.not_a_spec import NotASpec
from stillhouse_programs.prompts import annotation_name
from stillhouse_programs.prove import prove
from stillhouse_programs.schema_check import SchemaFault
from stillhouse_programs.spec import canonical_json, parse_spec
from stillhouse_programs.types import schema_to_type, type_to_schema
from tests.unit.programs.samples import TRAVELLING, Color, Item, Order, Tone


class Checked(pydantic.BaseModel):
    x: int

    @pydantic.field_validator("x")
    @classmethod
    def even(cls, value: int) -> int:
        return value


class Hidden(pydantic.BaseModel):
    x: Annotated[int, pydantic.AfterValidator(abs)]


class Node(pydantic.BaseModel):
    label: str
    kids: list["Node"] = []


class Alias(pydantic.BaseModel):
    from_: str = pydantic.Field(alias="from")


class Stripped(pydantic.BaseModel):
    model_config = {"str_strip_whitespace": True}

    x: str


class Made(pydantic.BaseModel):
    x: str = pydantic.Field(default_factory=lambda: "now")


class Pair(typing.TypedDict):
    x: int


REFUSED: list[tuple[Any, str]] = [
    (Checked, "type Checked has Python validators"),
    (Hidden, "Hidden.x has a Python validator"),
    (list[Checked], "type Checked has Python validators"),
    (Node, "the type Node contains itself"),
    (Alias, "Alias.from_ has an alias"),
    (Stripped, "sets model_config['str_strip_whitespace']"),
    (Made, "default_factory other than list or dict"),
    (Pair, "type Pair is a dataclass or TypedDict"),
    (frozenset[str], "type frozenset[str] would not come back the same"),
    (tuple[int, ...], "would not come back the same"),
    (dict[int, str], "would not come back the same"),
    (bytes, "type bytes: `format` must be one of date"),
    (Annotated[int, pydantic.Field(ge=3)], "`minimum` can stand at a property"),
    (list[dspy.History], "a History is the type of a whole field"),
    (dspy.Code, "dspy.Code cannot travel"),
    (object, "would not come back the same"),
]


@pytest.mark.parametrize("annotation", TRAVELLING, ids=str)
def test_prompts_of_a_rebuilt_type_are_the_same(annotation: Any) -> None:
    fields = {"question": (annotation, dspy.InputField()), "answer": (annotation, dspy.OutputField()), "last": (str, dspy.OutputField())}
    program = dspy.Predict(dspy.Signature(fields, "Do it."))
    spec = parse_spec(json.loads(canonical_json(derive(program, {"question": "x"}))))
    rebuilt = build_program(spec)
    assert annotation_name(rebuilt.signature.fields["answer"].annotation) == annotation_name(annotation)
    prove(program, spec, [{"question": "x"}])


@pytest.mark.parametrize(("annotation", "reason"), REFUSED, ids=lambda value: getattr(value, "__name__", str(value))[:40])
def test_refused_by_name(annotation: Any, reason: str) -> None:
    with pytest.raises(NotASpec) as caught:
        type_to_schema(annotation)
    assert reason in caught.value.reason


def test_derive_names_predictor_and_field() -> None:
    program = dspy.Predict(dspy.Signature({"q": (str, dspy.InputField()), "y": (Checked, dspy.OutputField())}, "x"))
    with pytest.raises(NotASpec, match="predictor self, field y: type Checked has Python validators"):
        derive(program, {"q": "x"})


class TestBack:
    def test_objects_keep_bounds_defaults_and_descriptions(self) -> None:
        rebuilt = schema_to_type(type_to_schema(Item))
        assert rebuilt(name="pen").qty == 1
        assert rebuilt.__doc__ == "An order line."
        assert rebuilt.model_fields["name"].description == "product"
        with pytest.raises(pydantic.ValidationError):
            rebuilt(name="pen", qty=100)

    def test_a_definition_is_one_class(self) -> None:
        rebuilt = schema_to_type(type_to_schema(list[Order] | Item))
        listed, item = typing.get_args(rebuilt)
        inner = typing.get_args(listed)[0].model_fields["items"].annotation
        assert typing.get_args(inner)[0] is item

    def test_lists_are_made_anew_for_each_object(self) -> None:
        rebuilt = schema_to_type(type_to_schema(Order))
        one, two = rebuilt(items=[]), rebuilt(items=[])
        one.tags.append("x")
        assert two.tags == []

    def test_enums_keep_names_and_kind(self) -> None:
        rebuilt = schema_to_type(type_to_schema(Color))
        assert {member.name: member.value for member in rebuilt} == {"RED": "red", "BLUE": "blue"}
        assert schema_to_type(type_to_schema(Tone))("warm") == "warm"

    def test_an_object_by_hand_is_named_by_its_field(self) -> None:
        rebuilt = schema_to_type({"type": "object", "properties": {"qty": {"type": "integer"}}, "required": ["qty"]}, "order")
        assert rebuilt.__name__ == "order"

    def test_an_optional_property_needs_a_default(self) -> None:
        with pytest.raises(SchemaFault, match="needs a `default`"):
            schema_to_type({"type": "object", "properties": {"qty": {"type": "integer"}}})

    @pytest.mark.parametrize("name", ["copy", "model_config", "json", "model_fields", "dict"])
    def test_property_names_of_pydantic_do_no_harm(self, name: str) -> None:
        schema = {"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]}
        try:
            rebuilt = schema_to_type(schema)
        except SchemaFault:
            return  # refused, and not with another exception
        assert rebuilt.model_validate({name: 3}).model_dump() == {name: 3}

"""Specs come from strangers: whatever is sent, the answer is a program or a SpecError."""

import warnings
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stillhouse_programs.build import build_program
from stillhouse_programs.spec import SpecError, canonical_json, check_row, columns, parse_metric, parse_spec
from stillhouse_programs.types import type_to_schema
from tests.unit.programs.samples import ROUTER, SUPPORT, Order, Price, Tone, copy_of

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "a", "input.x", "string", "array", "self"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "from", "$ref", "enum", "a", "name"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def typed_spec() -> dict[str, Any]:
    """The support spec with rich types in it."""
    spec = copy_of(SUPPORT)
    fields = spec["predictors"][1]["signature"]["fields"]
    for name, annotation in (("order", Order), ("price", Price), ("tone", Tone)):
        fields.append({"name": name, "role": "output", "schema": type_to_schema(annotation)})
    spec["predictors"][1]["demos"] = []
    return spec


def places_of(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all nodes of a JSON value below its root."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [place for key, part in inner for place in ((*path, key), *places_of(part, (*path, key)))]


def replaced(spec: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    changed = copy_of(spec)
    node: Any = changed
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = value
    return changed


SPECS = [ROUTER, SUPPORT, typed_spec()]
PLACES = [(at, place) for at, spec in enumerate(SPECS) for place in places_of(spec)]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(place=st.sampled_from(PLACES), value=JSON)
def test_any_value_at_any_place(place: tuple[int, tuple[Any, ...]], value: Any) -> None:
    at, path = place
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            spec = parse_spec(replaced(SPECS[at], path, value))
            build_program(spec)
        except SpecError:
            return
    assert canonical_json(parse_spec(replaced(SPECS[at], path, value))) == canonical_json(spec)
    assert check_row(spec, dict.fromkeys(columns(spec), value)) is not None


@settings(max_examples=100, deadline=None)
@given(value=JSON)
def test_any_value_as_a_whole(value: Any) -> None:
    for read in (parse_spec, parse_metric):
        with suppress(SpecError):
            read(value)


@pytest.mark.parametrize("depth", [5, 500])
def test_deep_types(depth: int) -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    spec = replaced(ROUTER, ("predictors", 0, "signature", "fields", 1, "schema"), schema)
    if depth == 5:
        assert build_program(parse_spec(spec))
    else:
        with pytest.raises(SpecError, match="nested too deeply"):
            parse_spec(spec)


def chained(links: int, names: Iterable[int]) -> dict[str, Any]:
    """Definitions of which each refers to the next, written in the order of `names`."""
    defs = {f"A{at}": {"$ref": f"#/$defs/A{at + 1}"} if at < links else {"type": "string"} for at in names}
    return {"$defs": defs, "$ref": "#/$defs/A0"}


def test_definitions_lead_to_one_another_no_deeper_than_types_may_be_nested() -> None:
    """In whichever order they are written: the check visits each once, what builds types from them follows them all."""
    place = ("predictors", 0, "signature", "fields", 1, "schema")
    for names in (range(1001), range(1000, -1, -1)):
        with pytest.raises(SpecError, match="nested too deeply"):
            parse_spec(replaced(ROUTER, place, chained(1000, names)))
    assert build_program(parse_spec(replaced(ROUTER, place, chained(50, range(50, -1, -1)))))


def test_types_have_a_bound_on_their_parts() -> None:
    """What shows a type to an LM takes time for each of them, in every call."""
    place = ("predictors", 0, "signature", "fields", 1, "schema")
    wide: list[dict[str, Any]] = [
        {"enum": [f"label {at}" for at in range(5001)]},
        {"anyOf": [{"const": at} for at in range(5001)]},
        {"type": "array", "prefixItems": [{"type": "string"}] * 5001},
        {"$defs": {name: {"enum": list(range(3000))} for name in "AB"}, "anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]},
    ]
    for schema in wide:
        with pytest.raises(SpecError, match="5,000 parts and choices") as refused:
            parse_spec(replaced(ROUTER, place, schema))
        assert refused.value.param.startswith("predictors[0].signature.fields[1].schema")
    labels = {"enum": [f"label {at}" for at in range(4900)]}
    spec = replaced(ROUTER, place, labels)
    parse_spec(spec)
    fields = spec["predictors"][0]["signature"]["fields"]
    fields += [{"name": f"more{at}", "role": "output", "schema": labels} for at in range(2)]
    with pytest.raises(SpecError, match="all types of a program together have at most 10,000"):
        parse_spec(spec)


def test_shared_definitions_cost_no_more_than_they_are_long() -> None:
    names = [f"T{at}" for at in range(22)]
    defs: dict[str, Any] = {names[-1]: {"type": "object", "title": names[-1], "properties": {"a": {"type": "string"}}, "required": ["a"]}}
    for name, inner in pairwise(names):
        both = {key: {"$ref": f"#/$defs/{inner}"} for key in ("a", "b")}
        defs[name] = {"type": "object", "title": name, "properties": both, "required": ["a", "b"]}
    schema = {"$defs": defs, "$ref": "#/$defs/T0"}
    spec = parse_spec(replaced(ROUTER, ("predictors", 0, "signature", "fields", 1, "schema"), schema))
    assert build_program(spec)

"""Python types to JSON schemas and back: the types of signature fields, as a spec carries them.

Travel: str, int, float, bool, None, Any, Literal, Enum, date, datetime, time, Optional and unions, list, set, dict with text keys,
tuple of fixed length, pydantic models of these with defaults, descriptions and bounds, and dspy's Image and History.
"""

import datetime
import enum
import json
import types as python_types
import typing
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Union

import dspy
import pydantic
from pydantic.fields import FieldInfo
from pydantic_core import SchemaError

from stillhouse_programs.not_a_spec import NotASpec
from stillhouse_programs.schema_check import BOUNDS, DSPY_TYPES, SchemaFault, check_schema

_SCALARS: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool, "null": type(None)}
_FORMATS: dict[str, Any] = {"date": datetime.date, "date-time": datetime.datetime, "time": datetime.time}
_DSPY: dict[str, Any] = {name: getattr(dspy, name) for name in DSPY_TYPES}
_BARE: dict[str, Any] = {"list": list, "dict": dict}
_ENUM_MIXINS: dict[str, type] = {"str": str, "int": int}
_FIELD_OPTIONS = {
    "description": "description",
    "title": "title",
    "minimum": "ge",
    "maximum": "le",
    "exclusiveMinimum": "gt",
    "exclusiveMaximum": "lt",
    "multipleOf": "multiple_of",
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_length",
    "maxItems": "max_length",
    "pattern": "pattern",
    "examples": "examples",
}
_MODEL_CODE = (
    "validators", "field_validators", "root_validators", "model_validators", "computed_fields", "field_serializers", "model_serializers",
)  # fmt: skip


def type_to_schema(annotation: Any) -> dict[str, Any]:
    """Return the JSON schema of a type. Raises NotASpec, naming the type, if it would not come back the same."""
    for each in _inside(annotation):
        _refuse_code(each)
    schema, rebuilt = _there_and_back(annotation)
    if _shape(rebuilt) != _shape(annotation):
        raise _not_the_same(annotation)
    return schema


def type_to_shown_schema(annotation: Any) -> dict[str, Any]:
    """Return a JSON schema whose type has the same fields as this one, without the Python code that this one holds.

    For programs that run elsewhere, of which only prompts are rendered from the spec. Raises NotASpec, naming the type, if there is none.
    """
    for each in _inside(annotation):
        if isinstance(each, type) and issubclass(each, pydantic.BaseModel):
            _refuse_dspy(each)
            for name, field in each.model_fields.items():
                _refuse_alias(f"{each.__name__}.{name}", field)
    return _there_and_back(annotation)[0]


def _there_and_back(annotation: Any) -> tuple[dict[str, Any], Any]:
    """The schema of a type, and the type made of that, which has the same schema."""
    schema = _raw_schema(annotation)
    try:
        check_schema(schema)
        rebuilt = schema_to_type(schema, type_name(annotation))
        same = json.dumps(_raw_schema(rebuilt)) == json.dumps(schema)
    except SchemaFault as fault:
        raise NotASpec(f"type {type_name(annotation)}: {fault}") from None
    except (pydantic.PydanticUserError, TypeError, ValueError):
        same = False
    if not same:
        raise _not_the_same(annotation)
    return schema, rebuilt


def _not_the_same(annotation: Any) -> NotASpec:
    return NotASpec(f"type {type_name(annotation)} would not come back the same")


def type_name(annotation: Any) -> str:
    """Return the short name of a type for messages."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "")


def _raw_schema(annotation: Any) -> dict[str, Any]:
    for name, bare in _BARE.items():
        if annotation is bare:
            return {"type": "array" if bare is list else "object", "x-py": name}
    for name, own in _DSPY.items():
        if annotation is own:
            return {"x-dspy-type": name}
    try:
        schema = _marked(pydantic.TypeAdapter(annotation).json_schema(), annotation)
    except pydantic.PydanticUserError:
        raise NotASpec(f"type {type_name(annotation)} has no JSON schema") from None
    for part in _enum_parts(schema):
        _name_members(part, annotation)
    return schema


def _marked(schema: dict[str, Any], annotation: Any) -> dict[str, Any]:
    """A schema with dspy's own types by their names, where pydantic tells what they are made of."""
    own = {name for name, kind in _DSPY.items() if any(each is kind for each in _inside(annotation))}
    defs = {name: _named(part, own) for name, part in schema.get("$defs", {}).items() if name not in own}
    rest = _named({key: part for key, part in schema.items() if key != "$defs"}, own)
    return {"$defs": defs, **rest} if defs else dict(rest)


def _named(part: Any, own: set[str]) -> Any:
    if isinstance(part, list):
        return [_named(each, own) for each in part]
    if not isinstance(part, dict):
        return part
    name = str(part.get("$ref", "")).rsplit("/", 1)[-1]
    return {"x-dspy-type": name} if name in own else {key: _named(each, own) for key, each in part.items()}


def _shape(annotation: Any) -> Any:
    """What a type is made of, in a form that can be compared: JSON schema alone does not tell a set from a frozenset."""
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return annotation.__name__, {name: _shape(field.annotation) for name, field in annotation.model_fields.items()}
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal or not parts:
        return type_name(annotation)
    kind = "union" if is_union(annotation) else type_name(typing.get_origin(annotation))
    return kind, [_shape(part) for part in parts]


# ------------------------------------------------------------------ what must not be inside a type


def _inside(annotation: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """Yield a type and the types it is made of, each once."""
    seen = set() if seen is None else seen
    if id(annotation) in seen:
        return
    seen.add(id(annotation))
    yield annotation
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        for field in annotation.model_fields.values():
            yield from _inside(field.annotation, seen)
    for part in typing.get_args(annotation):
        yield from _inside(part, seen)


def _refuse_code(annotation: Any) -> None:
    if not isinstance(annotation, type) or typing.get_origin(annotation) is not None:
        return
    if annotation in _DSPY.values():
        return
    _refuse_dspy(annotation)
    if issubclass(annotation, pydantic.BaseModel):
        _refuse_model_code(annotation)
    elif hasattr(annotation, "__dataclass_fields__") or hasattr(annotation, "__total__"):
        raise NotASpec(f"type {annotation.__name__} is a dataclass or TypedDict, which would come back as a pydantic model")


def _refuse_dspy(kind: type) -> None:
    if kind not in _DSPY.values() and kind.__module__.startswith("dspy."):
        raise NotASpec(f"the type dspy.{kind.__name__} cannot travel as a spec")


def _refuse_model_code(model: type[pydantic.BaseModel]) -> None:
    decorators = model.__pydantic_decorators__
    if any(getattr(decorators, name) for name in _MODEL_CODE):
        raise NotASpec(f"type {model.__name__} has Python validators or serializers, which JSON schema cannot carry")
    settings = set(model.model_config) - {"extra", "title"}
    if settings:
        raise NotASpec(f"type {model.__name__} sets model_config[{sorted(settings)[0]!r}], which JSON schema cannot carry")
    for name, field in model.model_fields.items():
        _refuse_field_code(f"{model.__name__}.{name}", field)


def _refuse_alias(place: str, field: FieldInfo) -> None:
    if field.alias or field.validation_alias or field.serialization_alias:
        raise NotASpec(f"{place} has an alias, which a spec cannot carry")


def _refuse_field_code(place: str, field: FieldInfo) -> None:
    _refuse_alias(place, field)
    if any(hasattr(extra, "func") or hasattr(extra, "__get_pydantic_core_schema__") for extra in field.metadata):
        raise NotASpec(f"{place} has a Python validator, which JSON schema cannot carry")
    if field.default_factory not in (None, list, dict):
        raise NotASpec(f"{place} has a default_factory other than list or dict, which JSON schema cannot carry")


# ------------------------------------------------------------------ enums


def _enum_parts(schema: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """pydantic gives a title to Enum classes and, inside models, to properties; only the former stand at the root or in `$defs`."""
    for part in (schema, *schema.get("$defs", {}).values()):
        if "title" in part and ("enum" in part or "const" in part):
            yield part


def _name_members(part: dict[str, Any], annotation: Any) -> None:
    values = part.pop("enum", None) or [part.pop("const")]
    for each in _inside(annotation):
        if isinstance(each, enum.EnumMeta) and each.__name__ == part["title"] and _members(each, "value") == values:
            part["enum"], part["x-enum-names"] = values, _members(each, "name")
            mixin = next((name for name, kind in _ENUM_MIXINS.items() if issubclass(each, kind)), None)
            if mixin:
                part["x-py"] = mixin
            return
    raise NotASpec(f"enum {part['title']} cannot travel as a spec")


def _members(kind: Any, what: Literal["name", "value"]) -> list[Any]:
    return [getattr(member, what) for member in kind]


# ------------------------------------------------------------------ back


def schema_to_type(schema: Mapping[str, Any], name: str = "Model") -> Any:
    """Build the type of a checked JSON schema. `name` is the class name of an object without a title.

    Raises SchemaFault for a schema that no type stands for.
    """
    return _TypeBuilder(schema.get("$defs", {})).build(schema, name)


class _TypeBuilder:
    """Builds each definition once, so that one class stands for it wherever it is used."""

    def __init__(self, defs: Mapping[str, Any]) -> None:
        self.defs = defs
        self.built: dict[str, Any] = {}

    def build(self, schema: Mapping[str, Any], name: str) -> Any:
        if "x-dspy-type" in schema:
            return _DSPY[schema["x-dspy-type"]]
        if "$ref" in schema:
            return self._definition(str(schema["$ref"]).rsplit("/", 1)[-1])
        if "x-enum-names" in schema:
            return _enum_class(schema, name)
        if "enum" in schema or "const" in schema:
            return Literal[tuple(schema.get("enum", [schema.get("const")]))]
        if "anyOf" in schema:
            return Union[tuple(self.build(part, name) for part in schema["anyOf"])]  # noqa: UP007 - the parts are known at run time
        return self._plain(schema, name)

    def _definition(self, key: str) -> Any:
        if key not in self.built:
            self.built[key] = self.build(self.defs[key], key)
        return self.built[key]

    def _plain(self, schema: Mapping[str, Any], name: str) -> Any:
        kind = schema.get("type")
        if schema.get("x-py") in _BARE:
            return _BARE[schema["x-py"]]
        if kind == "array":
            return self._array(schema, name)
        if kind == "object":
            return self._model(schema, name) if "properties" in schema else self._mapping(schema, name)
        if kind == "string" and "format" in schema:
            return _FORMATS[schema["format"]]
        return _SCALARS[kind] if kind else Any

    def _array(self, schema: Mapping[str, Any], name: str) -> Any:
        if "prefixItems" in schema:
            return tuple[tuple(self.build(part, name) for part in schema["prefixItems"])]  # type: ignore[misc]
        container: Any = set if schema.get("uniqueItems") else list
        return container[self.build(schema.get("items", {}), name)]

    def _mapping(self, schema: Mapping[str, Any], name: str) -> Any:
        rest = schema.get("additionalProperties", {})
        values: Any = self.build(rest, name) if isinstance(rest, Mapping) else Any
        return dict[str, values]

    def _model(self, schema: Mapping[str, Any], name: str) -> Any:
        fields = {key: self._field(key, part, key in schema.get("required", [])) for key, part in schema["properties"].items()}
        extra = schema.get("additionalProperties")
        config = pydantic.ConfigDict(extra="allow" if extra else "forbid") if isinstance(extra, bool) else None
        make: Any = pydantic.create_model
        try:
            with warnings.catch_warnings():
                # A property may be called as a method of pydantic's, `copy` for instance.
                warnings.filterwarnings("ignore", "Field name", UserWarning)
                return make(schema.get("title", name), __doc__=schema.get("description"), __config__=config, **fields)
        except (pydantic.PydanticUserError, SchemaError, NameError, TypeError, ValueError, RuntimeError) as error:
            raise SchemaFault(f"object {schema.get('title', name)}: {str(error).splitlines()[0]}") from None

    def _field(self, key: str, schema: Mapping[str, Any], required: bool) -> tuple[Any, Any]:
        # pydantic words the bounds of an optional property inside its `anyOf`.
        bounds = [part for part in schema.get("anyOf", []) if BOUNDS & part.keys()]
        worded = {**schema, **({word: bounds[0][word] for word in bounds[0] if word in BOUNDS} if len(bounds) == 1 else {})}
        options = {option: worded[word] for word, option in _FIELD_OPTIONS.items() if word in worded}
        if "prefixItems" in schema:
            options = {option: value for option, value in options.items() if option not in ("min_length", "max_length")}
        annotation = self.build(schema, key)
        if not required:
            options |= _default_of(schema, annotation)
        return annotation, pydantic.Field(**options)


def _default_of(schema: Mapping[str, Any], annotation: Any) -> dict[str, Any]:
    if "default" in schema:
        try:
            return {"default": pydantic.TypeAdapter(annotation).validate_python(schema["default"])}
        except pydantic.ValidationError as error:
            raise SchemaFault(f"the default does not fit: {error.errors()[0]['msg']}") from None
    if schema.get("type") in ("array", "object"):
        return {"default_factory": list if schema["type"] == "array" else dict}
    raise SchemaFault("a property that is not required needs a `default`")


def _enum_class(schema: Mapping[str, Any], name: str) -> Any:
    members = dict(zip(schema["x-enum-names"], schema["enum"], strict=True))
    mixin = _ENUM_MIXINS.get(schema.get("x-py", ""))
    try:
        make: Any = enum.Enum
        return make(schema.get("title", name), members, type=mixin) if mixin else make(schema.get("title", name), members)
    except (TypeError, ValueError) as error:
        raise SchemaFault(f"enum {schema.get('title', name)}: {error}") from None


def is_union(annotation: Any) -> bool:
    """Whether a type is `Union[...]`, `Optional[...]` or `X | Y`."""
    return typing.get_origin(annotation) in (Union, python_types.UnionType)

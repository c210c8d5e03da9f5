"""Rules that validators check and tell of in their own words, as JSON Schema: declared, so that clients can keep them.

Conditions stand in `if`, `then` and `else`: generators of clients pass these over, where they would make a union of an `anyOf`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema

from distill.spec import ALIAS_NAME

Schema = Mapping[str, Any]
WITHOUT_NUL = r"^[^\x00]*$"
NULL: Schema = {"type": "null"}
ARTIFACT_REF = rf"^[!-?A-~]+$|{ALIAS_NAME}"

METADATA: Schema = {
    "maxProperties": 16,
    "propertyNames": {"maxLength": 64, "pattern": WITHOUT_NUL},
    "additionalProperties": {"type": "string", "maxLength": 512, "pattern": WITHOUT_NUL},
}


def declared(**rules: Any) -> Any:
    """A field's metadata, for rules that its own validator checks."""
    return Field(json_schema_extra=rules)


class ReadAs:
    """Give a document that is kept as it is sent the schema of the type that reads it later, with error messages of its own."""

    def __init__(self, kind: Any) -> None:
        self._schema = TypeAdapter[Any](kind).core_schema

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(self._schema)


def ruled(config: ConfigDict, rules: Schema) -> ConfigDict:
    """A body's `model_config` with rules between its fields."""
    extra = config.get("json_schema_extra")
    return {**config, "json_schema_extra": {**(extra if isinstance(extra, dict) else {}), **rules}}


def if_given(field: str, kind: str, then: Schema, otherwise: Schema) -> Schema:
    """One rule where `field` is there and is of the kind, another where it is not."""
    return {"if": {"required": [field], "properties": {field: {"type": kind}}}, "then": then, "else": otherwise}


def any_given(*fields: str) -> Schema:
    """One of the fields at least is there and not null."""
    rule: dict[str, Any] = {"required": [fields[-1]], "properties": {fields[-1]: {"not": NULL}}}
    for name in reversed(fields[:-1]):
        rule = {"if": {"required": [name], "properties": {name: {"not": NULL}}}, "then": {}, "else": rule}
    return rule


def if_ok(then: Schema, otherwise: Schema, *, absent_is_ok: bool) -> Schema:
    """One rule where `status` is `ok`, another where it is not."""
    required = {} if absent_is_ok else {"required": ["status"]}
    return {"if": {"properties": {"status": {"const": "ok"}}, **required}, "then": then, "else": otherwise}


def needs(field: str, kind: str, **others: Schema) -> Schema:
    """`field` is there and of the kind; `others` by name."""
    return {"required": [field], "properties": {field: {"type": kind}, **others}}

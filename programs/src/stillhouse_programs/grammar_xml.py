"""Patterns of nested XML answers: lists and objects as elements, the way the XML prompt adapter writes and reads them."""

from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from stillhouse_programs.regexes import FORMATS, NotRegular, choice, escape, numbers, sequence, whole_numbers, xml_text

_MOST_ITEMS = 64


def nested_element(tag: str, annotation: Any, most_text: int) -> str:
    """Return the pattern of the element of a list or object. Raises NotRegular for what does not always read back."""
    schema = pydantic.TypeAdapter(annotation).json_schema()
    regex = _XmlRegex(schema.get("$defs", {}), most_text)
    element = regex.element(tag, schema)
    # At the top dspy writes None as text; it reads that back for an object, and for a list as a list of it.
    return choice([element, f"<{tag}>\nNone\n</{tag}>"]) if regex.is_optional_object(schema) else element


class _XmlRegex:
    def __init__(self, defs: Mapping[str, Any], most_text: int) -> None:
        self.defs = defs
        self.most_text = most_text

    def element(self, tag: str, schema: Mapping[str, Any]) -> str:
        schema = self._resolved(schema)
        if "anyOf" in schema:
            return self._union(tag, schema["anyOf"])
        if schema.get("type") == "null":
            return f"<{tag} />"
        if schema.get("type") == "array":
            return self._list(tag, schema)
        inner = self._object(schema) if schema.get("type") == "object" else self._scalar(schema)
        return f"<{tag}>{inner}</{tag}>"

    def is_optional_object(self, schema: Mapping[str, Any]) -> bool:
        kinds = {self._resolved(part).get("type") for part in schema.get("anyOf", [])}
        return kinds == {"object", "null"}

    def _resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        while "$ref" in schema:
            schema = self.defs[str(schema["$ref"]).rsplit("/", 1)[-1]]
        return schema

    def _union(self, tag: str, options: Sequence[Mapping[str, Any]]) -> str:
        parts = [self._resolved(option) for option in options]
        solid = [part for part in parts if part.get("type") != "null"]
        # With several members the reader guesses which one is meant, by the first.
        if len(solid) > 1:
            raise NotRegular("a choice of types")
        return choice(self.element(tag, part) for part in parts)

    def _list(self, tag: str, schema: Mapping[str, Any]) -> str:
        if "prefixItems" in schema:
            raise NotRegular("a tuple inside")
        least, most = schema.get("minItems", 0), schema.get("maxItems", _MOST_ITEMS)
        full = f"<{tag}>{sequence(self.element('item', schema.get('items', {})), max(least, 1), most, '')}</{tag}>"
        return full if least else choice([full, f"<{tag} />"])

    def _object(self, schema: Mapping[str, Any]) -> str:
        if "properties" not in schema:
            # The same key twice would be read as a list.
            raise NotRegular("keys of its own")
        return "".join(self.element(name, part) for name, part in schema["properties"].items())

    def _scalar(self, schema: Mapping[str, Any]) -> str:
        if "enum" in schema or "const" in schema:
            return self._choices(schema.get("enum", [schema.get("const")]))
        kind = schema.get("type")
        if kind == "integer":
            return whole_numbers(schema)
        if kind == "number":
            return numbers(schema)
        if kind == "boolean":
            return "(?:True|False)"
        return self._text(schema)

    def _choices(self, values: Sequence[Any]) -> str:
        if not all(isinstance(value, str) and value == value.strip() for value in values):
            raise NotRegular("choices that are not plain text")
        return choice(escape(value.replace("&", "&amp;").replace("<", "&lt;")) for value in values)

    def _text(self, schema: Mapping[str, Any]) -> str:
        if "pattern" in schema or "minLength" in schema:
            raise NotRegular("a pattern or least length")
        if "format" in schema:
            return FORMATS[schema["format"]]
        return xml_text(0, schema.get("maxLength", self.most_text))

"""What is said about a spec that cannot be taken, and the reading of pydantic's errors into it."""

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

_PLAIN_WORDS = {
    "missing": "required key is missing",
    "string_type": "expected text",
    "int_type": "expected a whole number",
    "int_parsing": "expected a whole number",
    "float_type": "expected a number",
    "float_parsing": "expected a number",
    "list_type": "expected a list",
    "dict_type": "expected an object",
    "model_type": "expected an object",
    "model_attributes_type": "expected an object",
}
_TAGS = frozenset({"from", "value", "template", "str", "FromRef"})


class SpecError(ValueError):
    """A spec, metric or row setting that cannot be taken. `param` is the JSON path of the fault, as `predictors[0].lm`."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.param)


def json_path(parts: Iterable[str | int]) -> str:
    """Join keys and list positions: `("steps", 0, "args")` becomes `steps[0].args`."""
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def from_validation(error: ValidationError, raw: Any, *within: str) -> SpecError:
    """Turn the first of pydantic's errors into one of ours, in plain words and with the path of the JSON as it was sent, below `within`."""
    first = error.errors(include_url=False)[0]
    parts = _without_tags(list(first["loc"]), raw)
    kind, context = first["type"], first.get("ctx", {})
    if kind == "unknown_key":
        parts.append(context["key"])
    if kind == "missing" and len(parts) == 3 and parts[0] == "predictors" and parts[2] == "lm":
        return SpecError(f"predictor {_name_at(raw, parts)} has no LM", json_path(parts))
    message = _words(kind, context, first["msg"])
    path = json_path([*within, *parts])
    return SpecError(f"{path or 'the spec'}: {message}", path)


def _words(kind: str, context: dict[str, Any], message: str) -> str:
    if kind == "literal_error":
        return f"expected one of {context['expected']}"
    if kind == "string_pattern_mismatch":
        return f"does not match the pattern {context['pattern']}"
    return _PLAIN_WORDS.get(kind, message)


def _without_tags(loc: list[str | int], raw: Any) -> list[str | int]:
    """Drop the union tags that pydantic puts into a path: those that lead nowhere in the JSON."""
    parts: list[str | int] = []
    node = raw
    for part in loc:
        leads_on = (isinstance(part, int) and isinstance(node, list)) or (isinstance(node, dict) and part in node)
        if not leads_on and part in _TAGS:
            continue
        parts.append(part)
        node = node[part] if leads_on else None
    return parts


def _name_at(raw: Any, parts: list[str | int]) -> str:
    predictor = raw["predictors"][parts[1]]
    return str(predictor.get("name", parts[1])) if isinstance(predictor, dict) else str(parts[1])

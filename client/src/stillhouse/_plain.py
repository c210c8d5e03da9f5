"""Values as JSON: what people put into rows beside texts and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import to_jsonable_python


def plain_json(value: Any) -> Any:
    """Rows as JSON: dates as ISO 8601, enums as their values, pydantic objects as objects, dspy's examples and images as their fields.

    Keys keep their order, which is part of a prompt. Raises ValueError for what JSON cannot hold.
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value if type(value) in (str, bool, int, float, type(None)) else to_jsonable_python(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else to_jsonable_python(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain_json(item) for item in value]
    if type(value).__module__.startswith("dspy."):
        return _of_dspy(value)
    return to_jsonable_python(value)


def _of_dspy(value: Any) -> Any:
    """dspy itself writes an Example without its types, and an Image as a mark for a prompt."""
    if hasattr(value, "toDict"):
        return {key: plain_json(item) for key, item in value.items()}
    return {"url": value.url} if type(value).__name__ == "Image" else to_jsonable_python(value)

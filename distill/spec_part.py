"""What the parts of a spec are made of."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

Auto = Literal["auto"]
Positive = Annotated[int, Field(ge=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class SpecPart(BaseModel):
    """Base of a spec's parts: frozen; an unknown word is refused with the nearest one we know."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        for key in data if isinstance(data, Mapping) else ():
            if key not in cls.model_fields:
                raise PydanticCustomError(
                    "unknown_key", "unknown option `{key}`{hint}", {"key": str(key), "hint": did_you_mean(key, cls.model_fields)}
                )
        return data


def did_you_mean(word: object, known: Sequence[str] | Mapping[str, Any]) -> str:
    """`; did you mean "…"?` for the nearest known word, or an empty string."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f'; did you mean "{close[0]}"?' if close else ""

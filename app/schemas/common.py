"""What every noun shares: strict request bodies, open replies, lists, metadata, errors."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.schemas.rules import METADATA, declared
from distill.spec_part import did_you_mean

T = TypeVar("T")


class Body(BaseModel):
    """A request body: an unknown field is refused with the nearest known name."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name in value:
                if name not in cls.model_fields:
                    hint = did_you_mean(name, cls.model_fields)
                    raise PydanticCustomError("unknown_key", "unknown field `{key}`{hint}", {"key": str(name)[:64], "hint": hint})
        return value


class Reply(BaseModel):
    """A reply object. `created_at` and other times are Unix seconds."""

    model_config = ConfigDict(from_attributes=True)


def _check_metadata(value: dict[str, str]) -> dict[str, str]:
    if len(value) > 16:
        raise ValueError("at most 16 pairs")
    if any(len(key) > 64 or len(text) > 512 for key, text in value.items()):
        raise ValueError("keys have at most 64 characters, values at most 512")
    if any("\0" in text for pair in value.items() for text in pair):
        raise ValueError("the character NUL cannot be stored")
    return value


Metadata = Annotated[dict[str, str], AfterValidator(_check_metadata), declared(**METADATA)]
Name = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Page(Reply, Generic[T]):
    """One page of a list; ask again with `after=last_id` while `has_more`."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class ErrorDetail(Reply):
    row: int | None = Field(default=None, description="1-based row of a dataset or an inline trainset")
    field: str | None = None
    message: str


class ErrorInfo(Reply):
    message: str
    type: str
    code: str
    param: str | None = Field(default=None, description="JSON path into the request body, or a query parameter")
    request_id: str | None
    details: list[ErrorDetail] | None = None


class ErrorBody(Reply):
    """Every error of every route."""

    error: ErrorInfo


class Deleted(Reply):
    id: str
    object: str
    deleted: Literal[True] = True


class Deletion(Reply):
    """What deleting an object did, or with `dry_run` would do."""

    id: str
    object: str
    deleted: bool = Field(description="false with `dry_run`")
    removes: dict[str, int] | None = Field(
        description="With `dry_run`: what would be removed, by kind; `bytes` are those of its blobs. When it is done, the audit log says"
    )
    blocked_by: list[str] = Field(description="With `dry_run`: why it would be refused")
    notes: list[str] = Field(description="With `dry_run`: what stays, and what else to know")

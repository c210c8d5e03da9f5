"""Small conversions that every noun needs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar, overload

from pydantic import BaseModel

from app.schemas.common import Page
from distill.db import Listing

Row = TypeVar("Row")
Wire = TypeVar("Wire", bound=BaseModel)


@overload
def seconds(when: datetime) -> int: ...
@overload
def seconds(when: None) -> None: ...
@overload
def seconds(when: datetime | None) -> int | None: ...
def seconds(when: datetime | None) -> int | None:
    """Unix seconds."""
    return None if when is None else int(when.timestamp())


def page_of(listing: Listing[Row], convert: Callable[[Row], Wire], id_of: Callable[[Wire], object] | None = None) -> Page[Wire]:
    """One page of a list; the cursor is each object's `id`, unless `id_of` says otherwise."""
    data = [convert(row) for row in listing.data]
    ids = [str(id_of(one) if id_of else getattr(one, "id", "")) for one in data]
    return Page(data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=listing.has_more)

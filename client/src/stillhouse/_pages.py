"""A page of a list, which can be read on by its own iterator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel

from stillhouse._request import Call, metadata_filters

if TYPE_CHECKING:
    from stillhouse._client import AsyncStillhouse, Stillhouse

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Rows(Generic[M]):
    """One page as it came: its rows, and the call for the page after it (None on the last)."""

    data: list[M]
    after: Call[Rows[M]] | None


def list_call(path: str, model: type[M], params: dict[str, Any]) -> Call[Rows[M]]:
    """A GET of one page; `after` on its result asks for the next. `metadata` among `params` is a mapping."""

    def parse(body: Any) -> Rows[M]:
        data = [model.model_validate(row) for row in body["data"]]
        more = body.get("has_more") and body.get("last_id") is not None
        return Rows(data, replace(call, params={**call.params, "after": body["last_id"]}) if more else None)

    parser: Callable[[Any], Rows[M]] = parse
    plain = {key: value for key, value in params.items() if value is not None and key != "metadata"}
    call = Call("GET", path, parser, params={**plain, **metadata_filters(params.get("metadata"))})
    return call


class _Read(Generic[M]):
    """The page that has been read."""

    _rows: Rows[M]

    @property
    def data(self) -> list[M]:
        return self._rows.data

    @property
    def has_more(self) -> bool:
        return self._rows.after is not None


class Page(_Read[M]):
    """`data` is this page; iterating goes on through all pages after it."""

    def __init__(self, client: Stillhouse, rows: Rows[M]) -> None:
        self._client = client
        self._rows = rows

    def __iter__(self) -> Iterator[M]:
        rows = self._rows
        while True:
            yield from rows.data
            if rows.after is None:
                return
            rows = self._client.send(rows.after)


class AsyncPage(_Read[M]):
    """`data` is this page; `async for` goes on through all pages after it."""

    def __init__(self, client: AsyncStillhouse, rows: Rows[M]) -> None:
        self._client = client
        self._rows = rows

    async def __aiter__(self) -> AsyncIterator[M]:
        rows = self._rows
        while True:
            for row in rows.data:
                yield row
            if rows.after is None:
                return
            rows = await self._client.send(rows.after)

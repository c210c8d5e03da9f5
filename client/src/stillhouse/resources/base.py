"""What every noun has: the client that sends its calls, and `with_raw_response`."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from stillhouse._raw import AsyncRawMethods, RawMethods

if TYPE_CHECKING:
    from stillhouse._client import AsyncStillhouse, Stillhouse


class _Described:
    """A noun is what its module says that it is: shells show that beside it."""

    def __init_subclass__(cls) -> None:
        if cls.__module__ != __name__ and "__doc__" in vars(cls) and cls.__doc__ is None:
            cls.__doc__ = inspect.getdoc(inspect.getmodule(cls))


class Resource(_Described):
    def __init__(self, client: Stillhouse) -> None:
        self._client = client

    @property
    def with_raw_response(self) -> RawMethods:
        """The methods that send one request, each returning its status, headers and request id, and `parse()` for the rest."""
        return RawMethods(self)


class AsyncResource(_Described):
    def __init__(self, client: AsyncStillhouse) -> None:
        self._client = client

    @property
    def with_raw_response(self) -> AsyncRawMethods:
        """As `Resource.with_raw_response`, awaited."""
        return AsyncRawMethods(self)

"""A reply with what came around it: `client.compile_jobs.with_raw_response.create(…)`, as openai-python names it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import httpx

if TYPE_CHECKING:
    from stillhouse.resources.base import AsyncResource, Resource

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])
R = TypeVar("R", "Resource", "AsyncResource")


class RawResponse(Generic[T]):
    """A successful response; `parse()` gives what the method gives without `with_raw_response`."""

    def __init__(self, http_response: httpx.Response, parsed: T) -> None:
        self.http_response = http_response
        self._parsed = parsed

    @property
    def status_code(self) -> int:
        return self.http_response.status_code

    @property
    def headers(self) -> httpx.Headers:
        return self.http_response.headers

    @property
    def request_id(self) -> str | None:
        """What the server's log and its errors call the request."""
        known: str | None = self.headers.get("x-request-id")
        return known

    def parse(self) -> T:
        return self._parsed


def many_responses(method: F) -> F:
    """Marks a method that streams, or sends several requests: it has no one response to show."""
    method.many_responses = True  # type: ignore[attr-defined]
    return method


class _Methods(Generic[R]):
    """The methods of a resource that send one request, by their names."""

    def __init__(self, resource: R) -> None:
        self._resource: R = resource

    def __dir__(self) -> list[str]:
        names = (name for name in dir(self._resource) if name != "with_raw_response" and not name.startswith("_"))
        return [name for name in names if _has_one(getattr(self._resource, name))]

    def _method(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(self._resource, name)
        if not _has_one(method):
            raise AttributeError(f"{type(self._resource).__name__}.{name} has no raw response: {', '.join(dir(self))} have one")
        return method  # type: ignore[no-any-return]


def _has_one(method: Any) -> bool:
    return inspect.ismethod(method) and not hasattr(method, "many_responses")


class RawMethods(_Methods["Resource"]):
    """Each returns a RawResponse."""

    def __getattr__(self, name: str) -> Callable[..., RawResponse[Any]]:
        method = self._method(name)

        @wraps(method)
        def send(*args: Any, **kwargs: Any) -> RawResponse[Any]:
            with _listening(self._resource) as (resource, heard):
                parsed = getattr(resource, name)(*args, **kwargs)
            return RawResponse(heard[0], parsed)

        return send


class AsyncRawMethods(_Methods["AsyncResource"]):
    """Each returns a RawResponse when it is awaited."""

    def __getattr__(self, name: str) -> Callable[..., Awaitable[RawResponse[Any]]]:
        method = self._method(name)

        @wraps(method)
        async def send(*args: Any, **kwargs: Any) -> RawResponse[Any]:
            with _listening(self._resource) as (resource, heard):
                parsed = await getattr(resource, name)(*args, **kwargs)
            return RawResponse(heard[0], parsed)

        return send


@contextmanager
def _listening(resource: R) -> Iterator[tuple[R, list[httpx.Response]]]:
    """The resource with a client of its own, on the same connections, that tells what it hears until the block ends."""
    heard: list[httpx.Response] = []
    listener = copy.copy(resource)
    listener._client = copy.copy(resource._client)
    listener._client._on_response = heard.append
    yield listener, heard
    listener._client._on_response = None  # a page that was returned goes on with this client

"""The two clients. Both send the same `Call` values; only the waiting differs."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any, TypeVar

import httpx
from typing_extensions import Self

from stillhouse._config import find_credentials
from stillhouse._exceptions import APIConnectionError, APITimeoutError, UnexpectedReply, error_from
from stillhouse._request import Call, get
from stillhouse._retry import RetryPolicy
from stillhouse._version import __version__
from stillhouse.resources.aliases import Aliases, AsyncAliases
from stillhouse.resources.api_keys import ApiKeys, AsyncApiKeys
from stillhouse.resources.artifacts import Artifacts, AsyncArtifacts
from stillhouse.resources.audit_log import AsyncAuditLog, AuditLog
from stillhouse.resources.bundles import AsyncBundles, Bundles
from stillhouse.resources.chat import AsyncChat, Chat
from stillhouse.resources.compile_jobs import AsyncCompileJobs, CompileJobs
from stillhouse.resources.connections import AsyncConnections, Connections
from stillhouse.resources.datasets import AsyncDatasets, Datasets
from stillhouse.resources.files import AsyncFiles, Files
from stillhouse.resources.metrics import AsyncMetrics, Metrics
from stillhouse.resources.models import AsyncModels, Models
from stillhouse.resources.programs import AsyncPrograms, Programs
from stillhouse.resources.projects import AsyncProjects, Projects
from stillhouse.resources.usage import AsyncUsageOfMonths, UsageOfMonths
from stillhouse.resources.webhook_endpoints import AsyncWebhookEndpoints, WebhookEndpoints
from stillhouse.resources.work_items import AsyncWorkItems, WorkItems
from stillhouse.resources.workers import AsyncMaintenance, AsyncQueues, AsyncWorkers, Maintenance, Queues, Workers
from stillhouse.types import Me

T = TypeVar("T")

DEFAULT_TIMEOUT = httpx.Timeout(60.0, connect=5.0)


class _Core:
    """Address, key, retry policy, and how a `Call` becomes an httpx request."""

    def __init__(self, base_url: str | None, api_key: str | None, timeout: float | httpx.Timeout, max_retries: int) -> None:
        credentials = find_credentials(base_url, api_key)
        self.base_url = credentials.base_url
        self.api_key = credentials.api_key
        self._timeout = timeout if isinstance(timeout, httpx.Timeout) else httpx.Timeout(timeout, connect=min(timeout, 5.0))
        self._retry = RetryPolicy(retries=max_retries)
        self._on_response: Callable[[httpx.Response], None] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.base_url}>"

    @property
    def _headers(self) -> dict[str, str]:
        agent = f"stillhouse/{__version__} python/{platform.python_version()} httpx/{httpx.__version__}"
        return {"Authorization": f"Bearer {self.api_key}", "User-Agent": agent}

    def _request_arguments(self, call: Call[Any], content: Iterator[bytes] | AsyncIterator[bytes] | None) -> dict[str, Any]:
        timeout = self._timeout if call.timeout is None else httpx.Timeout(call.timeout, connect=self._timeout.connect)
        return {
            "method": call.method,
            "url": self.base_url + call.path,
            "params": call.params or None,
            "json": call.json,
            "content": content,
            "headers": dict(call.headers),
            "timeout": timeout,
        }

    def _unreached(self, error: httpx.TransportError) -> APIConnectionError:
        cls = APITimeoutError if isinstance(error, httpx.TimeoutException) else APIConnectionError
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        return cls(f"{self.base_url} was not reached: {reason}")

    def _take(self, call: Call[T], response: httpx.Response) -> T:
        if self._on_response:
            self._on_response(response)
        return _parsed(call, response)


class Stillhouse(_Core):
    """A client of one server, usable from several threads.

    `base_url` and `api_key` default to STILLHOUSE_BASE_URL and STILLHOUSE_API_KEY, else to the file that `stillhouse-server up` wrote.
    `timeout` in seconds. A request is tried `max_retries` more times after a broken connection, 408, 429 or 5xx.

    Raises:
        ConfigError: no API key was found.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float | httpx.Timeout = DEFAULT_TIMEOUT,
        max_retries: int = 2,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(base_url, api_key, timeout, max_retries)
        self._http = httpx.Client(headers=self._headers, transport=transport)
        self._sleep = sleep
        self.aliases = Aliases(self)
        self.api_keys = ApiKeys(self)
        self.webhook_endpoints = WebhookEndpoints(self)
        self.artifacts = Artifacts(self)
        self.bundles = Bundles(self)
        self.chat = Chat(self)
        self.audit_log = AuditLog(self)
        self.compile_jobs = CompileJobs(self)
        self.connections = Connections(self)
        self.datasets = Datasets(self)
        self.files = Files(self)
        self.models = Models(self)
        self.metrics = Metrics(self)
        self.programs = Programs(self)
        self.work_items = WorkItems(self)
        self.projects = Projects(self)
        self.usage = UsageOfMonths(self)
        self.workers = Workers(self)
        self.queues = Queues(self)
        self.maintenance = Maintenance(self)

    def me(self) -> Me:
        """The project, key and scopes that this client acts with."""
        return self.send(get("/v1/me", Me))

    def send(self, call: Call[T]) -> T:
        """Send a call and parse its reply.

        Raises:
            APIConnectionError: the server was not reached, also after retries.
            APIStatusError: the server refused; the class says which status.
            UnexpectedReply: what answered is no Stillhouse server.
        """
        return self._take(call, self._open(call, whole=True))

    def pause(self, seconds: float) -> None:
        """Wait as between two tries of a request."""
        self._sleep(seconds)

    @contextmanager
    def stream(self, call: Call[Any]) -> Iterator[httpx.Response]:
        """A successful response whose body is still to be read. Raises as `send` does."""
        response = self._open(call, whole=False)
        try:
            yield response
        except httpx.TransportError as error:
            raise self._unreached(error) from error
        finally:
            response.close()

    def _open(self, call: Call[Any], whole: bool) -> httpx.Response:
        """A successful response, read if `whole`: then also a connection that breaks in the body is tried again."""
        attempt = 0
        while True:
            response, broken = self._try(call, whole)
            if response is not None and response.is_success:
                return response
            seconds = self._retry.wait_after(attempt, response)
            if seconds is None:
                raise broken or error_from(_required(response))
            self._sleep(seconds)
            attempt += 1

    def _try(self, call: Call[Any], whole: bool) -> tuple[httpx.Response | None, APIConnectionError | None]:
        try:
            body = call.upload.chunks() if call.upload else None
            response = self._http.send(self._http.build_request(**self._request_arguments(call, body)), stream=True)
            if whole or not response.is_success:
                with closing(response):
                    response.read()
            return response, None
        except httpx.TransportError as error:
            return None, self._unreached(error)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncStillhouse(_Core):
    """`Stillhouse` for asyncio: the same names and arguments, awaited."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float | httpx.Timeout = DEFAULT_TIMEOUT,
        max_retries: int = 2,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(base_url, api_key, timeout, max_retries)
        self._http = httpx.AsyncClient(headers=self._headers, transport=transport)
        self.aliases = AsyncAliases(self)
        self.api_keys = AsyncApiKeys(self)
        self.webhook_endpoints = AsyncWebhookEndpoints(self)
        self.artifacts = AsyncArtifacts(self)
        self.bundles = AsyncBundles(self)
        self.chat = AsyncChat(self)
        self.audit_log = AsyncAuditLog(self)
        self.compile_jobs = AsyncCompileJobs(self)
        self.connections = AsyncConnections(self)
        self.datasets = AsyncDatasets(self)
        self.files = AsyncFiles(self)
        self.models = AsyncModels(self)
        self.metrics = AsyncMetrics(self)
        self.programs = AsyncPrograms(self)
        self.work_items = AsyncWorkItems(self)
        self.projects = AsyncProjects(self)
        self.usage = AsyncUsageOfMonths(self)
        self.workers = AsyncWorkers(self)
        self.queues = AsyncQueues(self)
        self.maintenance = AsyncMaintenance(self)

    async def me(self) -> Me:
        """The project, key and scopes that this client acts with."""
        return await self.send(get("/v1/me", Me))

    async def send(self, call: Call[T]) -> T:
        """Send a call and parse its reply; raises as `Stillhouse.send` does."""
        return self._take(call, await self._open(call, whole=True))

    @asynccontextmanager
    async def stream(self, call: Call[Any]) -> AsyncIterator[httpx.Response]:
        """A successful response whose body is still to be read."""
        response = await self._open(call, whole=False)
        try:
            yield response
        except httpx.TransportError as error:
            raise self._unreached(error) from error
        finally:
            await response.aclose()

    async def _open(self, call: Call[Any], whole: bool) -> httpx.Response:
        """As `Stillhouse._open`."""
        attempt = 0
        while True:
            response, broken = await self._try(call, whole)
            if response is not None and response.is_success:
                return response
            seconds = self._retry.wait_after(attempt, response)
            if seconds is None:
                raise broken or error_from(_required(response))
            await asyncio.sleep(seconds)
            attempt += 1

    async def _try(self, call: Call[Any], whole: bool) -> tuple[httpx.Response | None, APIConnectionError | None]:
        try:
            body = call.upload.achunks() if call.upload else None
            response = await self._http.send(self._http.build_request(**self._request_arguments(call, body)), stream=True)
            if whole or not response.is_success:
                try:
                    await response.aread()
                finally:
                    await response.aclose()
            return response, None
        except httpx.TransportError as error:
            return None, self._unreached(error)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _parsed(call: Call[T], response: httpx.Response) -> T:
    try:
        return call.parse(response.json() if response.content else None)
    except (ValueError, KeyError, TypeError):
        address = response.request.url.copy_with(query=None)
        text = f"{address} did not answer as a Stillhouse server does: look at the base URL"
        raise UnexpectedReply(text, request_id=response.headers.get("x-request-id")) from None


def _required(response: httpx.Response | None) -> httpx.Response:
    if response is None:
        raise APIConnectionError("no response")
    return response

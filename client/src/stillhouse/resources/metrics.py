"""Metrics: create, read, list, delete, try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import Unpack

from stillhouse import _request
from stillhouse._pages import AsyncPage, Page, Rows, list_call
from stillhouse._request import Call
from stillhouse.resources.base import AsyncResource, Resource
from stillhouse.types import Metric, MetricTried
from stillhouse.types.requests import TaggedListParams

PATH = "/v1/metrics"


def _create(spec: str | Mapping[str, Any], name: str | None, metadata: Mapping[str, str] | None, key: str | None) -> Call[Metric]:
    return _request.create(PATH, Metric, _request.given({"spec": spec, "name": name, "metadata": metadata}), key)


def _try(metric_id: str, examples: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]) -> Call[MetricTried]:
    body = {"examples": list(examples), "predictions": list(predictions)}
    return _request.post(_request.at(PATH, metric_id, "try"), MetricTried, body)


def _list(params: Mapping[str, Any]) -> Call[Rows[Metric]]:
    return list_call(PATH, Metric, dict(params))


class Metrics(Resource):
    def create(
        self,
        spec: str | Mapping[str, Any],
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Metric:
        """Store what a job's `metric` takes; a job takes the id in its place."""
        return self._client.send(_create(spec, name, metadata, idempotency_key))

    def retrieve(self, metric_id: str) -> Metric:
        """Raises NotFoundError."""
        return self._client.send(_request.get(_request.at(PATH, metric_id), Metric))

    def list(self, **params: Unpack[TaggedListParams]) -> Page[Metric]:
        """One page; iterating over it goes on through all pages after it."""
        return Page(self._client, self._client.send(_list(params)))

    def delete(self, metric_id: str) -> None:
        """Raises NotFoundError."""
        self._client.send(_request.delete(_request.at(PATH, metric_id)))

    def try_(self, metric_id: str, examples: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]) -> MetricTried:
        """What the metric says of rows and the outputs for each of them; no LM is called."""
        return self._client.send(_try(metric_id, examples, predictions))


class AsyncMetrics(AsyncResource):
    async def create(
        self,
        spec: str | Mapping[str, Any],
        *,
        name: str | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Metric:
        """Store what a job's `metric` takes; a job takes the id in its place."""
        return await self._client.send(_create(spec, name, metadata, idempotency_key))

    async def retrieve(self, metric_id: str) -> Metric:
        """Raises NotFoundError."""
        return await self._client.send(_request.get(_request.at(PATH, metric_id), Metric))

    async def list(self, **params: Unpack[TaggedListParams]) -> AsyncPage[Metric]:
        """One page; iterating over it goes on through all pages after it."""
        return AsyncPage(self._client, await self._client.send(_list(params)))

    async def delete(self, metric_id: str) -> None:
        """Raises NotFoundError."""
        await self._client.send(_request.delete(_request.at(PATH, metric_id)))

    async def try_(self, metric_id: str, examples: Sequence[Mapping[str, Any]], predictions: Sequence[Mapping[str, Any]]) -> MetricTried:
        """What the metric says of rows and the outputs for each of them; no LM is called."""
        return await self._client.send(_try(metric_id, examples, predictions))

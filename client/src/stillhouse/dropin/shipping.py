"""`ship_code=True`: programs and metric as one bundle, which is sent once and runs on the server."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dspy

from stillhouse._client import Stillhouse
from stillhouse._exceptions import APIStatusError, StillhouseError
from stillhouse.bundling.collect import Collected, collect
from stillhouse.bundling.document import size_of
from stillhouse.bundling.pickling import Makes, Pickled, bare, pickled
from stillhouse.bundling.sources import More
from stillhouse.dropin.identity import Untold
from stillhouse.dropin.programs import Metric, inputs_of
from stillhouse.dropin.sent_identity import describe_sent, identity_of

Json = dict[str, Any]
MODULE = "stillhouse_bundle"
"""Under this name the server has what was sent by value."""
_REFUSALS = frozenset({
    "bundles_not_accepted", "bundle_shadows", "bundles_clash", "bundle_too_large", "package_not_allowed", "package_not_installed",
    "python_not_served", "reference_failed", "sandbox_unavailable",
})  # fmt: skip
_NAMED = 6


class CodeRefused(StillhouseError):
    """The server does not run the code that was sent; `code` says why, such as `package_not_allowed`. Nothing was paid."""

    def __init__(self, error: APIStatusError) -> None:
        super().__init__(
            f"{error.message}. Ways out: ship_code=False runs the code here, in this process; or have it installed and allowed on the "
            "server, and name it in a job as `package.module:name`"
        )
        self.code = error.code


class Parcel:
    """What of a call is to be sent. Bodies that it gives out name the bundle as soon as that was sent."""

    def __init__(self) -> None:
        self._parts: dict[str, Pickled] = {}
        self._told: dict[str, str] = {}
        self._bodies: list[Json] = []

    def program(self, program: dspy.Module, examples: Sequence[Any], roles: Mapping[str, str]) -> Json:
        """A program's body. One that is another's equal, but for the LMs that it asks, is the same. Raises NotSendable."""
        bared = bare(program)
        name = self._put("program", lambda: pickled(bared, "program"), _told(bared, "program"))
        inputs = {"inputs": inputs_of(examples)} if _takes_any(program) else {}
        return self._named({"reference": f"{MODULE}:{name}", "kwargs": {}, "lms": dict(roles), **inputs})

    def metric(self, metric: Metric) -> Json:
        name = self._put("metric", lambda: pickled(metric, "metric"), _told(metric, "metric"))
        return self._named({"type": "reference", "reference": f"{MODULE}:{name}", "kwargs": {}})

    def send(self, client: Stillhouse, more: More) -> None:
        """Send what was taken, unless it was sent before; one line says what goes where. Raises NotSendable, CodeRefused."""
        if not self._parts:
            return
        found = collect(self._parts, more)
        identity = identity_of(found.document, self._told) if all(self._told.values()) else None
        with refusals():
            sent = next(iter(client.bundles.list(identity=identity, limit=1).data), None) if identity else None
            print(_line(found, client.base_url, None if sent is None else sent.id), file=sys.stderr)
            bundle = sent or client.bundles.create({**found.document, **({"identity": identity} if identity else {})})
        for body in self._bodies:
            body["bundle"] = bundle.id

    def _put(self, makes: Makes, make: Callable[[], Pickled], told: str) -> str:
        for name, known in self._told.items():
            if told and known == told and self._parts[name].makes == makes:
                return name
        number = sum(part.makes == makes for part in self._parts.values())
        name = f"{makes}_{number}" if number else makes
        self._parts[name], self._told[name] = make(), told
        return name

    def _named(self, body: Json) -> Json:
        self._bodies.append(body)
        return body


@contextmanager
def refusals() -> Iterator[None]:
    """A server that does not run sent code says why in one line, with the ways out."""
    try:
        yield
    except APIStatusError as error:
        if error.code in _REFUSALS:
            raise CodeRefused(error) from error
        raise


def _told(value: Any, what: str) -> str:
    """What tells it from other code; empty for what cannot be told."""
    try:
        return describe_sent(value)
    except Untold as held:
        warnings.warn(f"{what}: its {held} cannot be told from another: each call sends it anew and makes a job of its own", stacklevel=2)
        return ""


def _takes_any(program: dspy.Module) -> bool:
    """Whether nothing but its examples says which inputs a program has."""
    run = getattr(program, "forward", None) or getattr(program, "aforward", None)
    return run is None or any(each.kind is each.VAR_KEYWORD for each in inspect.signature(run).parameters.values())


def _line(found: Collected, url: str, sent: str | None) -> str:
    files = list(found.document.get("files", {}))
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    parts = [f"{', '.join(files[:_NAMED])}{more}"] if files else []
    parts += [f"{', '.join(found.by_value)} by value"] if found.by_value else []
    what = f"{'; '.join(parts)} ({size_of(found.document) / 1000:.1f} kB)"
    return f"your code {f'is at {url} as {sent}' if sent else f'goes to {url}'}, and runs there, in its sandbox: {what}"

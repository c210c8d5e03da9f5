"""`ship_code=True`: programs and metric go to the server as bundles, each once, and run there."""

from __future__ import annotations

import inspect
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from stillhouse_programs.spec import BUNDLE_MODULE

Json = dict[str, Any]
_REFUSALS = frozenset({
    "bundles_not_accepted", "bundle_shadows", "bundles_clash", "bundle_too_large", "package_not_allowed", "package_not_installed",
    "program_died", "python_not_served", "pythons_differ", "reference_failed", "sandbox_unavailable",
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


@dataclass
class _Part:
    """A program or a metric with a bundle of its own: another metric leaves the program's digest and traces as they are."""

    name: str
    pickled: Pickled
    told: str
    """What tells it from other code; empty for what cannot be told."""
    bodies: list[Json] = field(default_factory=list)

    def send(self, client: Stillhouse, found: Collected) -> str:
        """What is said of it. Of several that were sent at once, the first is it for ever."""
        identity = identity_of(found.document, self.told) if self.told else None
        known = client.bundles.list(identity=identity, limit=1, order="asc").data if identity else []
        bundle = known[0] if known else client.bundles.create({**found.document, **({"identity": identity} if identity else {})})
        for body in self.bodies:
            body["bundle"] = bundle.id
        there = f", there already as {bundle.id}" if known else ""
        return f"{self.name}: {_contents(found)} ({size_of(found.document) / 1000:.1f} kB{there})"


class Parcel:
    """What of a call is to be sent. Bodies that it gives out name their bundle as soon as that was sent."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []

    def program(self, program: dspy.Module, examples: Sequence[Any], roles: Mapping[str, str]) -> Json:
        """A program's body. One that is another's equal, but for the LMs that it asks, is the same. Raises NotSendable."""
        bared = bare(program)
        inputs = {"inputs": inputs_of(examples)} if _takes_any(program) else {}
        return self._named(bared, "program", {"reference": f"{BUNDLE_MODULE}:program", "kwargs": {}, "lms": dict(roles), **inputs})

    def metric(self, metric: Metric) -> Json:
        return self._named(metric, "metric", {"type": "reference", "reference": f"{BUNDLE_MODULE}:metric", "kwargs": {}})

    def send(self, client: Stillhouse, more: More) -> None:
        """Send what was not sent before, and say in one line what runs where. Raises NotSendable, CodeRefused."""
        collected = [(part, collect({part.pickled.makes: part.pickled}, more)) for part in self._parts]
        with refusals():
            said = [part.send(client, found) for part, found in collected]
        if said:
            print(f"your code runs at {client.base_url}, in its sandbox: {'; '.join(said)}", file=sys.stderr)

    def _named(self, value: Any, makes: Makes, body: Json) -> Json:
        told = _told(value, makes)
        part = next((each for each in self._parts if told and each.told == told and each.pickled.makes == makes), None)
        if part is None:
            part = _Part(makes if all(each.name != makes for each in self._parts) else "teacher", pickled(value, makes), told)
            self._parts.append(part)
        part.bodies.append(body)
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
    # dspy warns whoever reads `forward` as usual that it is not to be called.
    run = inspect.getattr_static(program, "forward", None) or inspect.getattr_static(program, "aforward", None)
    return run is None or any(each.kind is each.VAR_KEYWORD for each in inspect.signature(run).parameters.values())


def _contents(found: Collected) -> str:
    files = list(found.document.get("files", {}))
    more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
    parts = [f"{', '.join(files[:_NAMED])}{more}"] if files else []
    parts += [f"{', '.join(found.by_value)} by value"] if found.by_value else []
    return ", ".join(parts) or "what it holds"

"""Which connection of the server answers for each LM of a program. Only the names and options of LMs are read, never their keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy

from stillhouse._client import Stillhouse
from stillhouse._house import PREFIX
from stillhouse._pages import list_call
from stillhouse.types import Object

OPTIONS = ("temperature", "max_tokens", "top_p")
Names = Mapping[str, str]
"""`{predictor or model of an LM: "connection/model"}`."""


class NoConnection(ValueError):
    """An LM for which the server has no connection; the text is a table of predictors, their LMs, and what there is."""


@dataclass(frozen=True)
class Served:
    """What the server answers for: its connections with their models (None: any)."""

    connections: Mapping[str, Sequence[str] | None]

    @classmethod
    def by(cls, client: Stillhouse) -> Served:
        rows = client.send(list_call("/v1/connections", Object, {})).data
        return cls({str(row.name): row.models for row in rows})  # type: ignore[attr-defined]

    def find(self, model: str) -> tuple[str, str] | None:
        """(connection, model) of `connection/model`, of `house/connection/model`, or of a model that one connection alone lists."""
        prefix, _, rest = model.partition("/")
        listed = self.connections.get(prefix)
        if listed is not None and rest in listed:
            return prefix, rest
        if prefix == PREFIX and rest.partition("/")[0] in self.connections and (found := self.find(rest)):
            return found
        if prefix in self.connections and rest and listed is None:
            return prefix, rest
        for name in (model, rest):
            holders = [connection for connection, models in self.connections.items() if name and name in (models or ())]
            if len(holders) == 1:
                return holders[0], name
        return None

    def names(self) -> list[str]:
        return [f"{name}/{model}" for name, models in self.connections.items() for model in (models if models is not None else ["…"])]


@dataclass
class Roles:
    """The LM roles of one program: predictors whose LMs are alike share one."""

    of_predictor: dict[str, str] = field(default_factory=dict)
    lms: dict[str, dict[str, Any]] = field(default_factory=dict)


def resolve(program: dspy.Module, served: Served, names: Names, what: str) -> Roles:
    """The roles of a program. Raises NoConnection, before anything is paid for."""
    found = {name: _found(name, lm, served, names) for name, lm in asked_by(program).items()}
    if any(place is None for place, _ in found.values()):
        raise NoConnection(_table(program, found, served, what))
    roles = Roles()
    for name, (place, lm) in found.items():
        assert place is not None  # noqa: S101 - for the type checker; the table was raised
        body = {"connection": place[0], "model": place[1], **_options(lm)}
        role = next((role for role, known in roles.lms.items() if known == body), None)
        if role is None:
            role = "student" if not roles.lms else f"student{len(roles.lms) + 1}"
            roles.lms[role] = body
        roles.of_predictor[name] = role
    return roles


def asked_by(program: dspy.Module) -> dict[str, Any]:
    """The LM that each predictor asks, its own or the app's; None where there is none."""
    return {name: predictor.lm or dspy.settings.lm for name, predictor in program.named_predictors()}


def by_model(program: dspy.Module, given: Mapping[Any, Any], option: str) -> dict[str, Any]:
    """An option by LM, as one by model: a copied program has copies of its LMs. Raises ValueError for an LM that no predictor asks."""
    asked = {lm.model for lm in asked_by(program).values() if lm is not None}
    found = {lm.model: each for lm, each in given.items()}
    if strange := sorted(found.keys() - asked):
        raise ValueError(f"{option}: no predictor of the student asks {', '.join(strange)}; they ask {', '.join(sorted(asked))}")
    return found


def _found(name: str, lm: Any, served: Served, names: Names) -> tuple[tuple[str, str] | None, Any]:
    model = getattr(lm, "model", None)
    wanted = names.get(name) or (names.get(model) if model else None) or model
    return (served.find(wanted) if wanted else None), lm


def _options(lm: Any) -> dict[str, Any]:
    given = getattr(lm, "kwargs", {})
    return {name: given[name] for name in OPTIONS if given.get(name) is not None}


def _table(program: dspy.Module, found: Mapping[str, tuple[tuple[str, str] | None, Any]], served: Served, what: str) -> str:
    rows = [("predictor", "its LM", "connection/model")]
    for name, (place, lm) in found.items():
        model = getattr(lm, "model", None)
        rows.append((name, str(model) if model else "none is set", "/".join(place) if place else "-"))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    table = "\n".join(f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows)
    word = "lms" if what == "student" else "teacher_lms"
    return (
        f"The server has no connection for an LM of the {what}:\n{table}\nIt answers for {', '.join(served.names()) or 'nothing'}. "
        f'Say which is meant: {word}={{"predictor or model": "connection/model"}}.'
    )

"""Which connection of the server answers for each LM of a program. Only the names and options of LMs are read, never their keys."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy

from stillhouse._client import Stillhouse
from stillhouse._exceptions import APIStatusError
from stillhouse._house import PREFIX

OPTIONS = ("temperature", "max_tokens", "top_p")
Names = Mapping[str, str]
"""`{predictor or model of an LM: "connection/model"}`."""
_UNRESOLVED = frozenset({"connection_not_found", "ambiguous_lm", "unknown_model", "model_not_found"})
_NONE_SET = "none is set"
_REQUESTED = re.compile(r"^(?:teacher\[(\d+)\]\.)?lms\.(\w+)(?:\.(\w+))?: ")
"""How a refusal of the server names an LM of a request, or a field of it."""
_PROGRAM = re.compile(r"^(demos: )?(?:(teacher)(\[\d+\])\.program|(program|prompt_adapter))(?=[.:\[])")
"""How it names a program, its demos or the prompt adapter."""
_ARGUMENTS = {"program": "student", "prompt_adapter": "adapter"}


class NoConnection(ValueError):
    """An LM for which the server has no connection; the text is a table of predictors, their LMs, and what there is."""


@dataclass(frozen=True)
class Place:
    """Where an LM is asked: a connection and its model; with neither, `trouble` says why there is none."""

    connection: str = ""
    model: str = ""
    trouble: str = ""


class Places:
    """Asks the server, once for each name, so that every client is told the same."""

    def __init__(self, client: Stillhouse) -> None:
        self._client = client
        self._known: dict[str, Place] = {}

    def find(self, name: str) -> Place:
        if name not in self._known:
            self._known[name] = self._ask(name)
        return self._known[name]

    def _ask(self, name: str) -> Place:
        try:
            found = self._client.connections.resolve(name)
        except APIStatusError as fault:
            if fault.code not in _UNRESOLVED:
                raise
            return Place(trouble=fault.message)
        return Place(found.connection, found.model)


@dataclass
class Roles:
    """The LM roles of one program: predictors whose LMs are alike share one."""

    of_predictor: dict[str, str] = field(default_factory=dict)
    lms: dict[str, dict[str, Any]] = field(default_factory=dict)


def resolve(program: dspy.Module, places: Places, names: Names, what: str) -> Roles:
    """The roles of a program. Raises NoConnection, before anything is paid for."""
    asked = asked_by(program)
    found = {name: _place(name, lm, places, names) for name, lm in asked.items()}
    if any(place.trouble for place in found.values()):
        raise NoConnection(_table(asked, found, what))
    roles = Roles()
    for name, place in found.items():
        body = {"connection": place.connection, "model": place.model, **_options(asked[name])}
        role = next((role for role, known in roles.lms.items() if known == body), None)
        if role is None:
            role = "student" if not roles.lms else f"student{len(roles.lms) + 1}"
            roles.lms[role] = body
        roles.of_predictor[name] = role
    return roles


def asked_by(program: dspy.Module) -> dict[str, Any]:
    """The LM that each predictor asks, its own or the app's; None where there is none."""
    return {name: predictor.lm or dspy.settings.lm for name, predictor in program.named_predictors()}


def for_teacher(teacher: dspy.Module, student: dspy.Module, names: Names) -> Names:
    """Those of the student's `names` that hold for a teacher: by LM alone, since both may have predictors of one name."""
    if teacher is student:
        return names
    own = asked_by(teacher)
    return {name: said for name, said in names.items() if name not in own}


def check_names(names: Names, option: str, of: Sequence[dspy.Module], others: Sequence[dspy.Module] = ()) -> None:
    """Raises ValueError for a name that is neither a predictor of those programs nor the model of an LM, of the others' too."""
    models = {lm.model for program in (*of, *others) for lm in asked_by(program).values() if lm is not None}
    known = models | {name for program in of for name in asked_by(program)}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f"do you mean {near[0]!r}?" if near else f"there are {', '.join(sorted(known))}"
            raise ValueError(f"{option}: {name!r} is neither a predictor nor the model of an LM; {meant}")


def by_model(program: dspy.Module, given: Mapping[Any, Any], option: str) -> dict[str, Any]:
    """An option by LM, as one by model: a copied program has copies of its LMs. Raises ValueError for an LM that no predictor asks."""
    if strangers := [key for key in given if not isinstance(key, dspy.BaseLM)]:
        raise ValueError(f"{option}: either for all LMs or by LM; {strangers[0]!r} stands beside an LM")
    asked = {lm.model for lm in asked_by(program).values() if lm is not None}
    found = {lm.model: each for lm, each in given.items()}
    if strange := sorted(found.keys() - asked):
        raise ValueError(f"{option}: no predictor of the student asks {', '.join(strange)}; they ask {', '.join(sorted(asked))}")
    return found


def named_as_here(refusal: str, body: Mapping[str, Any]) -> str:
    """A refusal of the server that names an LM by its place in the request `body`, with the LM's own name instead; of another part of the
    program, with the argument that held it; any other as it is."""
    if (found := _REQUESTED.match(refusal)) is None:
        return _with_argument(refusal, several=len(body["teacher"]) > 1)
    teacher, role, name = found.groups()
    lm = (body if teacher is None else body["teacher"][int(teacher)])["lms"].get(role)
    if lm is None:
        return refusal
    option = f"{name} of " if name in OPTIONS else ""
    side = "student" if teacher is None else "teacher"
    return f"{option}the {side}'s LM {lm['connection']}/{lm['model']}: {refusal[found.end() :]}"


def _with_argument(refusal: str, *, several: bool) -> str:
    if (found := _PROGRAM.match(refusal)) is None:
        return refusal
    demos, teacher, number, other = found.groups()
    argument = f"{teacher}{number if several else ''}" if teacher else _ARGUMENTS[other]
    return f"{'exclude_demos: ' if demos else ''}{argument}{refusal[found.end() :]}"


def _place(predictor: str, lm: Any, places: Places, names: Names) -> Place:
    """What `names` say of the predictor or of its LM, in the server's own words; else what stands for the LM."""
    model = getattr(lm, "model", None)
    if said := names.get(predictor) or (names.get(model) if model else None):
        return places.find(f"{PREFIX}/{said}")
    return (
        places.find(model) if model else Place(trouble=f"{predictor} has no LM, and the app none for it: set_lm, or dspy.configure(lm=…)")
    )


def _options(lm: Any) -> dict[str, Any]:
    given = getattr(lm, "kwargs", {})
    return {name: given[name] for name in OPTIONS if given.get(name) is not None}


def _table(asked: Mapping[str, Any], found: Mapping[str, Place], what: str) -> str:
    lms = {name: str(getattr(lm, "model", None) or _NONE_SET) for name, lm in asked.items()}
    rows = [("predictor", "its LM", "connection/model")]
    rows += [(name, lms[name], "-" if place.trouble else f"{place.connection}/{place.model}") for name, place in found.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    table = "\n".join(f"  {row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}" for row in rows)
    troubles = "\n".join(dict.fromkeys(place.trouble for place in found.values() if place.trouble))
    first = next(name for name, place in found.items() if place.trouble)
    word = "lms" if what == "student" else "teacher_lms"
    return (
        f"The server has no connection for an LM of the {what}:\n{table}\n{troubles}\n"
        f'Say which is meant, by predictor or by LM: {word}={{"{first}": "connection/model"}}; '
        "or have the operator write the LM's name into `match` of a connection."
    )

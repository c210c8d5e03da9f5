"""From the name of an LM in a user's program to the connection that stands for it, and the model that is asked there.

A rule of a connection is a name, or a name with `*` for anything. Names that begin with `house/` are this server's own: no rule is asked.
Nor is one asked of the project's fine-tuned models: `sh-…`, in DSPy `tune/sh-…`, and `ft:…`, in DSPy `openai/ft:…`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from distill.catalog import connections, fine_tuned
from distill.catalog.models import Connection
from distill.db import Session
from distill.errors import Invalid, NotFound
from distill.spec import TUNED_PREFIX

OWN = "house/"
"""What the names of this server's own models begin with, in programs that ask them."""
_TUNED = "tune/"
"""What DSPy's names of fine-tuned models begin with, in programs that were compiled here."""
_PARAM = "lm"


@dataclass(frozen=True, slots=True)
class Match:
    """`rule` is the one that decided; None where the name itself says the connection."""

    connection: Connection
    model: str
    rule: str | None = None


def resolve(s: Session, project_id: str, name: str) -> Match:
    """Among the project's fine-tuned models; else among the connections that it sees, of two of one name its own; as `choose`."""
    if (model_id := _tuned(s, project_id, name)) is not None:
        served = fine_tuned.served(s, project_id, model_id)
        return Match(served.connection, fine_tuned.public_id(served.model.id))
    seen: dict[str, Connection] = {}
    for row in connections.list_connections(s, project_id):
        seen.setdefault(row.name, row)
    return choose(list(seen.values()), name)


def _tuned(s: Session, project_id: str, name: str) -> str | None:
    """The id of the project's fine-tuned model that a name means. DSPy's prefix says that it is one, also where there is none."""
    last = name.rpartition("/")[2]
    if name.startswith(_TUNED) and last.startswith(TUNED_PREFIX):
        return last
    every = (fine_tuned.own_id(s, project_id, each) for each in dict.fromkeys((name, name.removeprefix(OWN), last)))
    return next(filter(None, every), None)


def choose(rows: Sequence[Connection], name: str) -> Match:
    """The connection of the rule that fits best, else the one that the name says: `house/<model>`, `connection/model`, or a model that
    one connection alone lists.

    Of rules that fit as well as each other a project's own connection wins. Raises NotFound, and Invalid where two connections' rules fit
    equally all the same, or the rule leaves the model open.
    """
    found = (None if name.startswith(OWN) else _by_rule(rows, name)) or _by_name({row.name: row for row in rows}, name)
    if found is None:
        raise _unknown(rows, name)
    return found


def exactness(rule: str) -> tuple[bool, int]:
    """More for a name without `*`, then for more characters that have to be there."""
    return "*" not in rule, len(rule.replace("*", ""))


def _by_rule(rows: Sequence[Connection], name: str) -> Match | None:
    fitting = [(rule, row) for row in rows for rule in row.match if fnmatchcase(name, rule)]
    exact = [(rule, row) for rule, row in fitting if exactness(rule) == max(exactness(other) for other, _ in fitting)]
    best = [(rule, row) for rule, row in exact if row.project_id is not None] or exact
    if len({row.name for _, row in best}) > 1:
        said = " and ".join(f"{row.name} (`{rule}`)" for rule, row in best)
        message = f"the connections {said} stand for the LM `{name[:200]}` as well as each other; name one as house/connection/model"
        raise Invalid(message, code="ambiguous_lm", param=_PARAM)
    return _of_rule(*best[0], name) if best else None


def _of_rule(rule: str, row: Connection, name: str) -> Match:
    """The model of the LM's own name, with or without its provider, where the connection takes it; else the only one that there is."""
    bare = name.partition("/")[2] or name
    if row.models is None:
        return Match(row, bare, rule)
    model = next((each for each in (bare, name) if each in row.models), row.models[0] if len(row.models) == 1 else None)
    if model is None:
        message = (
            f"the connection {row.name} stands for the LM `{name[:200]}` (`{rule}`), and has none of its models under that name "
            f"(there are: {', '.join(row.models)}); name one as house/{row.name}/model"
        )
        raise Invalid(message, code="unknown_model", param=_PARAM)
    return Match(row, model, rule)


def _by_name(rows: dict[str, Connection], name: str) -> Match | None:
    prefix, _, rest = name.partition("/")
    named = rows.get(prefix)
    if named is not None and rest in (named.models or ()):
        return Match(named, rest)
    if name.startswith(OWN) and rest.partition("/")[0] in rows and (found := _by_name(rows, rest)):
        return found
    if named is not None and rest and named.models is None:
        return Match(named, rest)
    return _listed(rows, name) or _listed(rows, rest)


def _listed(rows: dict[str, Connection], model: str) -> Match | None:
    holders = [row for row in rows.values() if model in (row.models or ())]
    return Match(holders[0], model) if len(holders) == 1 else None


def _unknown(rows: Sequence[Connection], name: str) -> NotFound:
    there = [f"{row.name}/{model}" for row in rows for model in (row.models if row.models is not None else ["…"])]
    message = f"no connection stands for the LM `{name[:200]}`; there are {', '.join(there) or 'none'}"
    return NotFound(message, code="connection_not_found", param=_PARAM)

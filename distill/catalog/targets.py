"""From a name in a chat request to where it is served: a project's fine-tuned model, by id or by alias, or a connection's own model."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from typing import Literal

from distill.catalog import aliases, artifacts, connections, devices, fine_tuned
from distill.catalog.fine_tuned import ROUTING_PREFIX, Served
from distill.catalog.models import Connection
from distill.catalog.own_keys import own_target
from distill.db import Session
from distill.errors import NotFound
from distill.relay import Target
from distill.spec import TUNED_PREFIX

Readiness = Literal["ready", "loading", "failed"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where a model answers. `target` is meant to be used only when it is `ready`. `model_id` is the id that the list of models has for it.

    `system_prompts` are the digests of those that a compiled program's model is asked with, and `job_id` is that program's job; none where
    any prompt may be sent.
    """

    target: Target
    model_id: str
    readiness: Readiness
    reason: str | None = None
    system_prompts: frozenset[str] = frozenset()
    job_id: str | None = None


def target_of(connection: Connection, model: str) -> Target:
    """A model of a connection for the relay. An operator's key is read from this process's environment, a project's at each call."""
    if connection.project_id is not None:
        return own_target(connection, model)
    key = os.environ.get(connection.api_key_env) if connection.api_key_env else None
    return Target(connection.id, connection.base_url, model, key, connection.max_in_flight, revision=connection.revision)


def resolve(s: Session, project_id: str, name: str) -> Resolved:
    """What a chat request's `model` names: a fine-tuned model's id, alone or after its connection's name,
    `program_name.predictor@alias`, `connection/model`, or a model that one connection lists.

    Raises NotFound; a fine-tuned model's id or alias never falls back to another model.
    """
    found = find(s, project_id, name)
    if isinstance(found, Served):
        return _tuned(found, _why_lent(s, project_id, found.connection))
    connection, model = found
    reason = _why_lent(s, project_id, connection)
    return Resolved(target_of(connection, model), f"{connection.name}/{model}", "ready" if reason is None else "loading", reason)


def find(s: Session, project_id: str, name: str) -> Served | tuple[Connection, str]:
    """As `resolve`: the fine-tuned model, or the connection and its model."""
    bare = name.removeprefix(ROUTING_PREFIX)
    if (of_alias := _of_alias(s, project_id, bare)) is not None:
        return replace(fine_tuned.served(s, project_id, of_alias), alias=bare)
    own = fine_tuned.own_id(s, project_id, bare)
    if own is not None or bare.startswith(TUNED_PREFIX):
        return fine_tuned.served(s, project_id, own or bare)
    # A connection may itself be called `openai`: its name goes before the routing prefix of OpenAI's clients.
    named = _named(s, project_id, name) or _named(s, project_id, bare)
    if named is None:
        raise _unknown(s, project_id, bare)
    return named


def _why_lent(s: Session, project_id: str, connection: Connection) -> str | None:
    """Why the models of a connection do not answer while its LM host has lent its device to a training; None if it has not."""
    return None if connection.waiting_since is None else devices.lent(s, project_id).get(connection.id)


def _of_alias(s: Session, project_id: str, name: str) -> str | None:
    """The model that one predictor of an alias' artifact has now; None for what names no alias. Raises NotFound for no such predictor."""
    found = aliases.with_predictor(s, project_id, name)
    if found is None:
        return None
    alias, predictor = found
    predictors = json.loads(artifacts.get(s, project_id, alias.artifact_id).manifest).get("predictors", {})
    if predictor not in predictors:
        known = ", ".join(f"{alias.program_name}.{each}@{alias.alias}" for each in predictors)
        raise NotFound(f"no model {name[:200]}; there are {known}", code="model_not_found", param="model")
    model: str = predictors[predictor]["model"]
    return model


def _tuned(served: Served, why_lent: str | None) -> Resolved:
    target = target_of(served.connection, served.model.upstream_model or served.model.id)
    readiness, reason = _readiness(served, why_lent)
    prompts = frozenset(served.model.settings.get("system_prompts", ()))
    return Resolved(target, fine_tuned.public_id(served.model.id), readiness, reason, prompts, served.model.job_id)


def _readiness(served: Served, why_lent: str | None) -> tuple[Readiness, str | None]:
    if why_lent is not None:
        return "loading", why_lent
    if served.ready:
        return "ready", None
    if served.placement is not None and served.placement.status == "failed":
        return "failed", served.placement.error
    return "loading", f"{served.model.id} is being loaded"


def _named(s: Session, project_id: str, name: str) -> tuple[Connection, str] | None:
    """The connection and its name for the model; None for the name of a fine-tuned model, which may be another project's."""
    prefix, _, rest = name.partition("/")
    connection = connections.find(s, prefix, project_id) if rest else None
    if connection is not None and (connection.models is None or rest in connection.models):
        return None if fine_tuned.is_served_name(s, connection.id, rest) else (connection, rest)
    listing = _listing(s, project_id, name)
    if len(listing) != 1 or fine_tuned.is_served_name(s, listing[0].id, name):
        return None
    return listing[0], name


def _listing(s: Session, project_id: str, name: str) -> list[Connection]:
    return [row for row in connections.list_connections(s, project_id) if name in (row.models or ())]


def _unknown(s: Session, project_id: str, name: str) -> NotFound:
    hint = "; name it as connection/model" if _listing(s, project_id, name) else "; GET /v1/models lists what there is"
    return NotFound(f"no model {name[:200]}{hint}", code="model_not_found", param="model")

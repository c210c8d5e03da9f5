"""Fine-tuned models, and where they are loaded (placements)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Select, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from distill.catalog.copying import clean
from distill.catalog.models import Connection, Model, Placement
from distill.db import Listing, Page, Session, paginate
from distill.errors import NotFound
from distill.redaction import redacted
from distill.spec import TUNED_PREFIX

PlacementStatus = Literal["wanted", "loading", "ready", "failed", "unwanted", "gone"]

OPENAI_PREFIX = "ft:"
"""Of models that OpenAI's clients have trained here; a connection to OpenAI has models of such names too."""
ROUTING_PREFIX = "openai/"
"""By which DSPy and litellm route a name to an OpenAI-shaped API."""
_PREFIXES = (TUNED_PREFIX, OPENAI_PREFIX)

_SET = text("""
UPDATE placements
   SET status = :status, error = :error, agent = COALESCE(:agent, agent), updated_at = clock_timestamp(),
       attempts = CASE :status WHEN 'loading' THEN attempts + 1 WHEN 'ready' THEN 0 ELSE attempts END,
       ready_at = CASE WHEN :status = 'ready' THEN clock_timestamp() ELSE ready_at END
 WHERE id = :id AND CASE :status WHEN 'gone' THEN status = 'unwanted' ELSE status NOT IN ('unwanted', 'gone') END
RETURNING id
""")


@dataclass(frozen=True, slots=True)
class Served:
    """A fine-tuned model with the placement that answers for it, if it has one. `alias` is the one that named it, if one did."""

    model: Model
    placement: Placement | None
    connection: Connection
    alias: str | None = None

    @property
    def ready(self) -> bool:
        return self.placement is not None and self.placement.status == "ready"


def create(
    s: Session,
    *,
    model_id: str,
    project_id: str,
    job_id: str,
    fine_tune_job_id: str,
    connection_id: str,
    program_name: str,
    predictors: Sequence[str],
    base_model: str,
    base_model_digest: str | None,
    files: Mapping[str, Any],
    settings: Mapping[str, Any],
    upstream_model: str | None = None,
) -> Model:
    """Record a trained model; the same fine-tune job makes the same row. It is not loaded anywhere yet (see `want`)."""
    values = {
        "id": model_id, "project_id": project_id, "job_id": job_id, "fine_tune_job_id": fine_tune_job_id,
        "connection_id": connection_id, "program_name": program_name, "predictors": list(predictors), "base_model": base_model,
        "base_model_digest": base_model_digest, "files": dict(files), "settings": dict(settings), "upstream_model": upstream_model,
    }  # fmt: skip
    s.execute(insert(Model).values(values).on_conflict_do_nothing(index_elements=["id"]))
    return s.execute(select(Model).where(Model.id == model_id)).scalar_one()


def get(s: Session, project_id: str, model_id: str) -> Model:
    return _found(s.scalar(_own(project_id, model_id)), model_id)


def hold(s: Session, project_id: str, model_id: str) -> Model:
    """As `get`; until the transaction ends it is not deleted."""
    return _found(s.scalar(_own(project_id, model_id).with_for_update(read=True).execution_options(populate_existing=True)), model_id)


def lock(s: Session, project_id: str, model_id: str) -> Model:
    """As `get`; waits for all who hold it, and until the transaction ends nobody holds it anew."""
    own = _own(project_id, model_id).with_for_update(key_share=True)
    return _found(s.scalar(own.execution_options(populate_existing=True)), model_id)


def _own(project_id: str, model_id: str) -> Select[Model]:
    return select(Model).where(Model.id == model_id, Model.project_id == project_id, Model.deleted_at.is_(None))


def _found(row: Model | None, model_id: str) -> Model:
    if row is None:
        raise NotFound(f"no model {model_id}", code="model_not_found", param="model")
    return row


def public_id(model_id: str) -> str:
    """The one id by which users know a model: with the routing prefix where stock DSPy asks for it as a job names it, since DSPy sends no
    `ft:…` to any server."""
    return f"{ROUTING_PREFIX}{model_id}" if model_id.startswith(OPENAI_PREFIX) else model_id


def own_id(s: Session, project_id: str, name: str) -> str | None:
    """The id of the model that the project has, or had, under a name: its id, or `connection/id`, with or without the routing prefix."""
    name = name.removeprefix(ROUTING_PREFIX)
    prefix, _, rest = name.partition("/")
    if not (name.startswith(_PREFIXES) or rest.startswith(_PREFIXES)):
        return None
    on_connection = (Model.id == rest) & (Connection.name == prefix)
    query = select(Model.id).join(Connection, Connection.id == Model.connection_id).where(Model.project_id == project_id)
    return s.scalar(query.where((Model.id == name) | on_connection).limit(1))


def is_served_name(s: Session, connection_id: str, name: str) -> bool:
    """Whether an LM host may know a fine-tuned model of any project, deleted or not, by this name: it is asked by id or alias only, which
    are checked against the project. Ids count on every connection, since two may lead to one host."""
    upstream = (Model.connection_id == connection_id) & (Model.upstream_model == name)
    return s.scalar(select(Model.id).where((Model.id == name) | upstream).limit(1)) is not None


def served(s: Session, project_id: str, model_id: str) -> Served:
    """A model and where it is loaded, for the gateway. Raises NotFound."""
    model = get(s, project_id, model_id)
    placement = s.scalar(select(Placement).where(Placement.model_id == model.id, Placement.connection_id == model.connection_id))
    return Served(model, placement, s.get_one(Connection, model.connection_id))


def list_models(s: Session, project_id: str, page: Page) -> Listing[Model]:
    return paginate(s, select(Model).where(Model.project_id == project_id, Model.deleted_at.is_(None)), Model.id, page)


def delete(s: Session, project_id: str, model_id: str) -> None:
    """Hide a model and have it unloaded. Raises NotFound."""
    get(s, project_id, model_id)
    s.execute(update(Model).where(Model.id == model_id).values(deleted_at=func.clock_timestamp()))
    s.execute(update(Placement).where(Placement.model_id == model_id).values(status="unwanted", error=None))


# ------------------------------------------------------------------ placements


def want(s: Session, model_id: str, connection_id: str) -> None:
    """Ask for a model to be loaded on a connection's host; one that failed or is gone is asked for again."""
    again = {"status": "wanted", "error": None, "attempts": 0, "updated_at": func.clock_timestamp()}
    statement = insert(Placement).values(model_id=model_id, connection_id=connection_id)
    off = Placement.status.in_(["failed", "gone", "unwanted"])
    s.execute(statement.on_conflict_do_update(index_elements=["model_id", "connection_id"], set_=again, where=off))


def on_connection(s: Session, connection_id: str) -> list[tuple[Placement, Model]]:
    """Everything that is, or should be, loaded on one connection's host, oldest first."""
    query = select(Placement, Model).join(Model, Model.id == Placement.model_id).where(Placement.connection_id == connection_id)
    return [(row[0], row[1]) for row in s.execute(query.where(Placement.status != "gone").order_by(Placement.id))]


def of_models(s: Session, model_ids: Sequence[str]) -> dict[str, Placement]:
    """The placement of each of these models on its own connection."""
    own = (Placement.connection_id == Model.connection_id) & (Placement.model_id == Model.id)
    query = select(Placement).join(Model, own).where(Placement.model_id.in_(list(model_ids))).execution_options(populate_existing=True)
    return {row.model_id: row for row in s.scalars(query)}


def set_placement(s: Session, placement_id: int, status: PlacementStatus, *, error: str | None = None, agent: str | None = None) -> bool:
    """What the host's agent reports. `error` goes with `failed` and with nothing else.

    False, and nothing changed, where it is about what is not asked any more: the model was deleted while it was loaded, or is wanted again
    while it was unloaded.
    """
    return s.execute(_SET, {"id": placement_id, "status": status, "error": clean(redacted(error)), "agent": agent}).first() is not None

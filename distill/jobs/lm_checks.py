"""Which connection, model and trainer each LM of a job means, and whether they can do what is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from distill.catalog import connections, fine_tuned
from distill.catalog.models import Connection
from distill.db import Session
from distill.errors import Invalid, NotFound, Unsupported
from distill.jobs import repository
from distill.spec import CompileSpec, LmSpec, TeacherSpec
from distill.spec_part import did_you_mean
from distill.spec_training import TrainOptions

TRAINERS: Mapping[str, Mapping[str, str]] = {
    "local": {
        "use_dora": "no LM host that serves its models takes DoRA weights",
        "full_finetuning": "it trains LoRA adapters, and LM hosts share a base model among many of them",
    }
}
"""Train options that a trainer lacks, and why."""
Side = Literal["student", "teacher"]


class LmResolver:
    """Fills in the LMs of one spec, from the connections that its project sees."""

    def __init__(self, s: Session, project_id: str, spec: CompileSpec) -> None:
        self._s = s
        self._project_id = project_id
        self._spec = spec

    def student(self, role: str) -> LmSpec:
        """An LM that is asked and trained: from its base model, or, where it is a fine-tuned model, from that one's LoRA weights."""
        param = f"lms.{role}"
        lm, connection = self._resolve(self._spec.lms.get(role, LmSpec()), "student", param)
        trainer = lm.trainer or connection.trainer or ""
        check_trainer(connection, trainer, f"{param}.trainer" if lm.trainer else f"{param}.connection")
        if "baseline_constrained" in self._spec.evaluate.roles:
            _check_constrain(connection, "evaluate.roles")
        options = lm.train_options or self._spec.train_options
        check_train_options(trainer, options, f"{param}.train_options" if lm.train_options else "train_options")
        self._check_lora(lm, options, param)
        return lm.model_copy(
            update={
                "trainer": trainer,
                "base_model": _base_model(connection, lm, param),
                "train_options": options,
                "prompt_adapter": lm.prompt_adapter or self._spec.prompt_adapter,
                "prompt": lm.prompt or self._spec.prompt,
            }
        )

    def teacher(self, teacher: TeacherSpec, role: str, param: str) -> LmSpec:
        """An LM that is only asked; with one entry in the teacher's `lms`, roles without an entry of their own take it too.

        Where none is given and the server has no default teacher, the student's own LM teaches.
        """
        given = teacher.lms.get(role) or (next(iter(teacher.lms.values())) if len(teacher.lms) == 1 else LmSpec())
        if given.prompt is not None:
            message = f"{param}.prompt: only the student is tuned; `prompt_adapter` says how a teacher is asked"
            raise Invalid(message, code="prompt_of_a_teacher", param=f"{param}.prompt")
        own = given == LmSpec() and connections.default(self._s, "teacher", self._project_id) is None
        lm, _ = self._resolve(self._asked_only(role), "student", param) if own else self._resolve(given, "teacher", param)
        return lm.model_copy(update={"prompt_adapter": lm.prompt_adapter or self._spec.prompt_adapter})

    def _asked_only(self, role: str) -> LmSpec:
        """The student's LM without what it is trained with."""
        trained = {"base_model": "", "trainer": "", "train_options": None, "prompt": None}
        return self._spec.lms.get(role, LmSpec()).model_copy(update=trained)

    def _resolve(self, lm: LmSpec, side: Side, param: str) -> tuple[LmSpec, Connection]:
        own = fine_tuned.own_id(self._s, self._project_id, lm.model)
        lm = lm.model_copy(update={"model": own or lm.model, "fine_tuned": own is not None and own.startswith(fine_tuned.OPENAI_PREFIX)})
        if lm.starts_from:
            lm = self._tuned(lm, lm.starts_from, param)
        connection = self._connection(lm, side, param)
        connections.hold(self._s, connection)
        if lm.constrain:
            _check_constrain(connection, f"{param}.constrain")
        _check_native(connection, lm, f"{param}.native")
        found = {"connection": connection.name, "connection_id": connection.id, "connection_revision": connection.revision}
        model = lm.starts_from or _model(self._s, connection, lm.model, param)
        return lm.model_copy(update={**found, "model": model}), connection

    def _tuned(self, lm: LmSpec, model_id: str, param: str) -> LmSpec:
        """An LM that is one of the project's fine-tuned models: on its connection, with its base model. Until the transaction ends, nobody
        deletes the model."""
        try:
            model = fine_tuned.hold(self._s, self._project_id, model_id)
        except NotFound as error:
            raise NotFound(f"{param}.model: {error.message}", code=error.code, param=f"{param}.model") from None
        own = connections.by_id(self._s, model.connection_id)
        if lm.connection not in ("", own.name, own.id):
            message = f"{param}.connection: {model_id} is served by {own.name}"
            raise Invalid(message, code="unknown_model", param=f"{param}.connection")
        if lm.base_model not in ("", model.base_model):
            message = f"{param}.base_model: {model_id} was trained on {model.base_model}, and so is what starts from it"
            raise Invalid(message, code="unknown_base_model", param=f"{param}.base_model")
        return lm.model_copy(update={"connection": own.name, "base_model": model.base_model})

    def _check_lora(self, lm: LmSpec, options: TrainOptions, param: str) -> None:
        """LoRA weights that a training starts from keep their shape and scale. Raises Invalid."""
        if not lm.starts_from:
            return
        model = fine_tuned.get(self._s, self._project_id, lm.starts_from)
        used = _options_of(repository.training_of(self._s, model).result)
        for name in ("lora_r", "lora_alpha", "use_rslora"):
            asked, has = getattr(options, name), used.get(name)
            if isinstance(has, int | float) and asked not in ("auto", has):
                raise _lora_differs(lm, param, name, model.id, _plain(has))
        if _lacks_layers(options.target_modules, used.get("target_modules")):
            has = used["target_modules"]
            raise _lora_differs(lm, param, "target_modules", model.id, has if isinstance(has, str) else ", ".join(has))

    def _connection(self, lm: LmSpec, side: Side, param: str) -> Connection:
        if not lm.connection:
            connection = connections.default(self._s, side, self._project_id)
            if connection is None:
                message = f"{param}: this server has no default {side} connection; name one as {param}.connection"
                raise Invalid(message, code="no_default_connection", param=param)
            return connection
        found = connections.find(self._s, lm.connection, self._project_id)
        if found is None:
            known = [row.name for row in connections.list_connections(self._s, self._project_id)]
            message = (
                f"{param}.connection: no connection `{lm.connection}` (there are: {', '.join(known)}){did_you_mean(lm.connection, known)}"
            )
            raise NotFound(message, code="connection_not_found", param=f"{param}.connection")
        return found


def _lora_differs(lm: LmSpec, param: str, name: str, model_id: str, has: str) -> Invalid:
    where = f"{param}.train_options.{name}" if lm.train_options else f"train_options.{name}"
    return Invalid(f"{where}: {model_id} has {has}, which its training keeps", code="lora_differs", param=where)


def _lacks_layers(asked: str | Sequence[str], has: str | Sequence[str] | None) -> bool:
    """Whether layers with LoRA weights are not among those asked for; which layers all are, the trainer alone knows."""
    if isinstance(asked, str) or has is None:
        return False
    return isinstance(has, str) or not set(has) <= set(asked)


def _plain(value: float) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}"


def _options_of(result: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What a trainer says that it trained with."""
    return (result or {}).get("options") or {}


def _model(s: Session, connection: Connection, wanted: str, param: str) -> str:
    known = connection.models
    if wanted:
        if known is not None and wanted not in known:
            message = (
                f"{param}.model: {connection.name} has no model `{wanted}` (there are: {', '.join(known)}){did_you_mean(wanted, known)}"
            )
            raise Invalid(message, code="unknown_model", param=f"{param}.model")
        if fine_tuned.is_served_name(s, connection.id, wanted):
            raise Invalid(f"{param}.model: {connection.name} has no model `{wanted}`", code="unknown_model", param=f"{param}.model")
        return wanted
    if not known:
        raise Invalid(f"{param}.model: name the model that {connection.name} is to use", code="missing_model", param=f"{param}.model")
    return known[0]


def _base_model(connection: Connection, lm: LmSpec, param: str) -> str:
    """What the trainer starts from: a model of the LM host, or the LoRA adapter would be loaded on other weights than its own. A fine-tuned
    model's is known."""
    known = [lm.model, *(name for name in connection.models or () if name != lm.model)]
    if lm.base_model and lm.base_model not in known and not lm.starts_from:
        message = (
            f"{param}.base_model: {connection.name} does not serve `{lm.base_model}` (it serves: {', '.join(known)})"
            f"{did_you_mean(lm.base_model, known)}"
        )
        raise Invalid(message, code="unknown_base_model", param=f"{param}.base_model")
    base_model = lm.base_model or lm.model
    check_base_model(connection, base_model, f"{param}.base_model" if lm.base_model else f"{param}.model")
    return base_model


def check_base_model(connection: Connection, name: str, param: str) -> None:
    """A folder is what an operator may name: a program could have filled one. Raises Invalid."""
    if name.startswith("/") and name not in (connection.models or ()):
        message = f"{param}: a folder can be trained on where the operator lists it in `models` of {connection.name}; name a model"
        raise Invalid(message, code="unknown_base_model", param=param)


def check_train_options(trainer: str, options: TrainOptions, param: str) -> None:
    """Options that a trainer lacks are refused by name. Raises Invalid."""
    for name, why in TRAINERS[trainer].items():
        if name in options.given:
            message = f"{param}.{name}: trainer `{trainer}` has none: {why}"
            raise Invalid(message, code="train_option_unsupported", param=f"{param}.{name}")


def check_trainer(connection: Connection, trainer: str, param: str) -> None:
    """Raises Invalid, Unsupported."""
    if not trainer or "lora" not in connection.supports:
        message = f"{param}: nothing can be trained for connection {connection.name}; it needs a trainer and support for LoRA adapters"
        raise Invalid(message, code="not_trainable", param=param)
    if trainer not in TRAINERS:
        raise Unsupported(
            f"{param}: unknown trainer `{trainer}`{did_you_mean(trainer, sorted(TRAINERS))}", code="unknown_trainer", param=param
        )


def _check_constrain(connection: Connection, param: str) -> None:
    if "structured_outputs" not in connection.supports:
        message = f"{param}: connection {connection.name} cannot constrain answers (no `structured_outputs`)"
        raise Invalid(message, code="constrain_unsupported", param=param)


def _check_native(connection: Connection, lm: LmSpec, param: str) -> None:
    lacking = [feature for feature in lm.native if feature not in connection.supports]
    if lacking:
        message = f"{param}: connection {connection.name} does not take {lacking[0]} beside the text (`supports` lacks `{lacking[0]}`)"
        raise Invalid(message, code="native_unsupported", param=param)

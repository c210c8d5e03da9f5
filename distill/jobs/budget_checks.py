"""What can be said against a budget before it is spent: a deadline that has passed, a limit in money where a price is not known."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from distill.catalog import connections, programs
from distill.catalog.prices import price_of_lm
from distill.db import Session, now
from distill.errors import Detail, Invalid
from distill.spec import Budget, CompileSpec, LmSpec

EVERY = frozenset(Budget.model_fields)
_STUDENTS = frozenset({"baseline", "baseline_constrained", "compiled"})


def check(s: Session, spec: CompileSpec, budget: Budget, changed: Collection[str] = EVERY) -> None:
    """Of a spec with its LMs filled in; of the budget only what has `changed`. Raises Invalid."""
    if "deadline" in changed and budget.deadline is not None and budget.deadline <= now(s).timestamp():
        raise Invalid("budget.deadline: this time has passed", code="deadline_passed", param="budget.deadline")
    if "max_cost_usd" in changed and budget.max_cost_usd is not None:
        _check_prices(s, spec)


def _check_prices(s: Session, spec: CompileSpec) -> None:
    unpriced = [(place, lm) for place, lm in _asked(s, spec) if price_of_lm(connections.by_id(s, lm.connection_id), lm) is None]
    if not unpriced:
        return
    place, lm = unpriced[0]
    message = (
        f"budget.max_cost_usd: nobody has said what {lm.connection}/{lm.model} costs ({place}), so money cannot be counted. "
        f"{_where_prices_are(s, lm)} (0 where no bill comes), "
        "or limit max_calls or max_tokens instead"
    )
    details = tuple(Detail(f"the price of {lm.connection}/{lm.model} is not known", None, place) for place, lm in unpriced)
    raise Invalid(message, code="price_unknown", param="budget.max_cost_usd", details=details)


def _where_prices_are(s: Session, lm: LmSpec) -> str:
    if connections.by_id(s, lm.connection_id).project_id is None:
        return f"Set its price in the server's settings, [connections.{lm.connection}.prices]"
    return f"Say its price in the `prices` of {lm.connection}, PATCH /v1/connections/{lm.connection_id}"


def _asked(s: Session, spec: CompileSpec) -> Iterator[tuple[str, LmSpec]]:
    """The LMs that the job may call, each with its place in the request."""
    if not spec.rollouts.stored_only:
        for number, teacher in enumerate(spec.teachers):
            yield from ((f"teacher[{number}].lms.{name}", lm) for name, lm in teacher.lms.items())
    if _STUDENTS & set(spec.evaluate.roles) or (spec.demos == "auto" and _has_demos(s, spec)):
        yield from ((f"lms.{name}", lm) for name, lm in spec.lms.items())


def _has_demos(s: Session, spec: CompileSpec) -> bool:
    """Then they may be tried on the untrained student."""
    return any(predictor.demos for predictor in programs.load(s, spec.program_id).predictors)

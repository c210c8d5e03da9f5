"""What a call of the drop-in is about to do, in one line, before anything is paid for."""

from __future__ import annotations

from typing import Any

from stillhouse._client import Stillhouse
from stillhouse._exceptions import APIConnectionError, ServerError
from stillhouse.types import Estimate

Json = dict[str, Any]
_TIME = "time of "
_MINUTE, _HOUR = 60.0, 3600.0


def outlook(client: Stillhouse, body: Json) -> str:
    """`2 predictors → 2 LoRA; 640 examples, 600 already run; 50 held out; about $0.12, 6 min; taught by openai/big; …`.

    What nobody knows is said to be unknown. Raises as `create` does for a request that it would refuse.
    """
    return f"{_predictors(body)}{_estimated(client, body)}; taught by {_taught_by(body)}; {where(body)}"


def where(body: Json) -> str:
    """Where the rollouts are made, of which program, and whose metric judges them."""
    programs = [body["program"], *(teacher["program"] for teacher in body["teacher"])]
    metric = body["metric"] if isinstance(body["metric"], dict) else {}
    own_program, own_metric = any("client" in program for program in programs), metric.get("type") == "client"
    if own_program or own_metric:
        own = "the program and your metric run" if own_metric else "the program runs"
        return f"{own} here, in this process: keep it open, or send your code with ship_code=True"
    if "bundle" in metric:
        return "the program and your metric run on the server, in its sandbox"
    sent = any("bundle" in program for program in programs)
    return f"the program runs on the server{', in its sandbox' if sent else ''}"


def _estimated(client: Stillhouse, body: Json) -> str:
    try:
        found = client.compile_jobs.estimate(**body)
    except (ServerError, APIConnectionError):  # it is only told; the job asks again
        return f"; {_count(len(body['trainset']), 'example')}; cost and time unknown: the server gave no estimate"
    return f" → {_adapters(found)} LoRA; {_examples(found, 'valset' in body)}; {_money(found)}, {_time(found)}"


def _predictors(body: Json) -> str:
    program = body["program"]
    return _count(len(program["lms"] if "bundle" in program else program["predictors"]), "predictor")


def _taught_by(body: Json) -> str:
    lms = {f"{lm['connection']}/{lm['model']}" for teacher in body["teacher"] for lm in teacher["lms"].values()}
    return ", ".join(sorted(lms))


def _adapters(found: Estimate) -> int:
    return int(found.training.get("fine_tuning_jobs", 0)) + int(found.training.get("reused", 0))


def _examples(found: Estimate, has_valset: bool) -> str:
    """With several teachers, those that the one with the most to do has run. Without a valset some of the trainset is held out."""
    teachers = [role for role in found.roles if role.role.startswith("teacher:")]
    run = min((role.stored for role in teachers), default=0)
    train, held_out = found.rows.get("train", 0), found.rows.get("holdout", 0)
    examples = _count(train, "example") if has_valset or not held_out else f"{train} of {_count(train + held_out, 'example')}"
    return f"{examples}, {run} already run; {held_out or 'none'} held out"


def _money(found: Estimate) -> str:
    if found.total_usd is not None:
        return f"about ${found.total_usd:.2f}" if found.total_usd >= 0.005 or not found.total_usd else "less than $0.01"
    reasons = [part for part in found.unknown if not part.startswith(_TIME)]
    told = reasons if len(reasons) < 2 else _by_kind(reasons)
    return f"price unknown ({'; '.join(told)})" if told else "price unknown"


def _by_kind(reasons: list[str]) -> list[str]:
    """What is not known, each kind once: `price of a/1 and 2 more`."""
    kinds: dict[str, list[str]] = {}
    for reason in reasons:
        kind, _, of = reason.partition(" of ")
        kinds.setdefault(kind, []).append(of.partition(": ")[0])
    few = {kind: " and ".join(of) if len(of) < 3 else f"{of[0]} and {len(of) - 1} more" for kind, of in kinds.items()}
    return [f"{kind} of {of}" for kind, of in few.items()]


def _time(found: Estimate) -> str:
    if found.seconds is None:
        return "time unknown"
    if found.seconds < _MINUTE:
        return f"{found.seconds:.0f} s"
    return f"{found.seconds / _MINUTE:.0f} min" if found.seconds < _HOUR else f"{found.seconds / _HOUR:.1f} h"


def _count(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"

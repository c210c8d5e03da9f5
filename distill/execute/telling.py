"""What the events of a job say of its rollouts: why examples were left out, an answer to look at, and what LM calls have cost so far.

All are written with the job's row locked, by who publishes.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from distill.catalog import usage
from distill.catalog.copying import clean
from distill.catalog.row_facts import NewFact
from distill.db import Session
from distill.execute.rollout_slice import Slice
from distill.jobs import events
from distill.pipeline.bootstrap import has_passed

_SHOWN_FIELDS = 8
_SHOWN_CHARS = 200


def slice_is_over(s: Session, piece: Slice) -> None:
    """Of examples that were to be trained on: which gave no row and why, and the first answer that passed."""
    if not piece.is_bootstrap:
        return
    why = {}
    for item in piece.items:
        found = piece.outcome(item)
        if found is not None and found.kind != "passed":
            why[item.example.index] = next(iter(found.errors)) if found.kind == "undecided" else found.kind
    _rejected(s, piece.job.job_id, piece.role, why, len(piece.items))
    _sample(s, piece)


def labels_are_over(s: Session, job_id: str, role: str, facts: Sequence[NewFact]) -> None:
    """Of examples whose labels teach: a row that lacks one has no trace that answers."""
    _rejected(s, job_id, role, {fact.example_index: fact.status for fact in facts if fact.status != "ok"}, len(facts))


def _rejected(s: Session, job_id: str, role: str, why: Mapping[int, str], total: int) -> None:
    """`why` maps the 0-based row of an example to the word by which the rejections know it."""
    if not why:
        return
    reasons = Counter(why.values())
    first = {reason: min(index for index, said in why.items() if said == reason) + 1 for reason in reasons}
    causes = ", ".join(f"{count} {reason} (first: row {first[reason]})" for reason, count in reasons.most_common())
    data = {"role": role, "examples": total, "rejected": len(why), "reasons": dict(reasons), "first_rows": first}
    events.append(s, job_id, "bootstrap.rejected", f"{len(why)} of {total} examples gave no answer that passes: {causes}", data)


def _sample(s: Session, piece: Slice) -> None:
    passed = ((item, stored) for item, stored in piece.used() if stored.trace is not None and has_passed(stored.score))
    for item, stored in passed:
        outputs = _shown((stored.trace or {}).get("outputs") or {})
        row = item.example.index + 1
        data = {"role": piece.role, "row": row, "rollout": stored.n, "score": (stored.score or {}).get("value"), "outputs": outputs}
        text = ", ".join(f"{name} = {value}" for name, value in outputs.items())
        events.append(s, piece.job.job_id, "sample", f"Row {row}: {text}"[:_SHOWN_CHARS], data)
        return


def _shown(outputs: Mapping[str, Any]) -> dict[str, str]:
    """The first fields, as the beginnings of texts: the trace has them whole."""
    texts = {
        str(name): value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in list(outputs.items())[:_SHOWN_FIELDS]
    }
    return {str(clean(name)): str(clean(text[:_SHOWN_CHARS])) for name, text in texts.items()}


def cost_so_far(s: Session, job_id: str) -> None:
    """What the job's LM calls have cost, and what was saved; money is null where a price is not known."""
    known = usage.of_jobs(s, [job_id]).get(job_id, [])
    if not known:
        return
    paid, saved = ([cost for cost in known if cost.kind == kind] for kind in ("paid", "saved"))
    calls, saved_calls = (sum(cost.calls for cost in costs) for costs in (paid, saved))
    usd, saved_usd = (usage.sum_usd(cost.usd for cost in costs) for costs in (paid, saved))
    data = {
        "calls": calls,
        "prompt_tokens": sum(cost.prompt_tokens for cost in paid),
        "completion_tokens": sum(cost.completion_tokens for cost in paid),
        "usd": usd,
        "saved_calls": saved_calls,
        "saved_by_reuse_usd": saved_usd,
    }
    text = f"{calls} LM calls so far, {_money(usd)}; {saved_calls} were saved, {_money(saved_usd)}"
    events.append(s, job_id, "cost", text, data)


def _money(usd: float | None) -> str:
    return "price not known" if usd is None else f"${usd:.4f}"

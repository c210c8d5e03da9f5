"""What the workers and the dispatcher of a test do wrong on purpose, one thing for each invariant, while `World.broken` says so.

Loaded by `tests.chaos.worker` and `tests.chaos.dispatcher` alone: the server itself has no such switch.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import text

from distill import processes
from distill.catalog import artifacts
from distill.execute import buffer, steps
from distill.execute.work import Troubled
from distill.jobs import claims, events
from distill.jobs.claims import BeatReply
from distill.jobs.status import Step
from distill.relay.replies import Replies
from distill.relay.upstream import Upstream

WORKER = "x-chaos-worker"
_TELL = text("SELECT set_config('chaos.told', :told, true)")
Function = Callable[..., Any]


def is_broken(name: str) -> bool:
    return Path(os.environ["STILLHOUSE_HOME"], "broken", name).exists()


# ------------------------------------------------------------ no faults: what the checks need to hear


def tell_fences() -> None:
    """Whoever ends an item says by which fence, for the audit: no fault, but how a stale publish is known."""
    for name in ("publish", "fail"):
        setattr(claims, name, _telling(getattr(claims, name)))


def _telling(original: Function) -> Function:
    def told(s: Any, claim: Any, *values: Any, **named: Any) -> Any:
        s.execute(_TELL, {"told": f"{claim.item_id}:{claim.fence}"})
        return original(s, claim, *values, **named)

    return told


def tell_worker() -> None:
    """Every call of an LM says which worker made it: a fault of another one is no reason to make it again."""
    original = Upstream.__init__

    def begin(self: Upstream, *values: Any, **named: Any) -> None:
        original(self, *values, **named)
        self._session.headers[WORKER] = str(os.getpid())

    Upstream.__init__ = begin  # type: ignore[method-assign]


# ------------------------------------------------------------ faults


def install() -> None:
    """Put each fault in its place; it does nothing until its switch is on."""
    _break("I1", claims, "reap", _reap_nothing)
    _break("I2", claims, "publish", _publish_and_queue_again)
    _break("I3", claims, "beat", _hear_no_loss)
    _break("I3", claims, "hold", _hold_nothing)
    _break("I3", claims, "_end", _end_without_a_fence)
    _break("I4", events, "append", _skip_a_number)
    _break("I5", processes, "start", _leak_the_lifeline)
    _break("I6", events, "append", _say_the_key)
    _break("I7", claims, "fail", _try_for_ever)
    _break("I8", artifacts, "create", _lose_a_blob)
    _break("paid", buffer.Buffer, "__init__", _keep_nothing_until_the_end)
    _break("paid", Replies, "find", _find_no_reply)
    prepare = steps.STEPS[Step.PREPARE]
    steps.STEPS = {**steps.STEPS, Step.PREPARE: lambda work, ports: _trouble() if is_broken("I7") else prepare(work, ports)}


def _break(switch: str, where: Any, name: str, wrong: Callable[[Function], Function]) -> None:
    """`wrong(right)` runs in place of the right function while the switch is on."""
    right = getattr(where, name)
    faulty = wrong(right)

    def either(*values: Any, **named: Any) -> Any:
        return (faulty if is_broken(switch) else right)(*values, **named)

    setattr(where, name, either)


def _reap_nothing(_right: Function) -> Function:
    return lambda _s: None


def _find_no_reply(_right: Function) -> Function:
    async def nothing(*_: Any) -> None:
        return None

    return nothing


_QUEUE_AGAIN = text("UPDATE work_items SET status = 'queued', finished_at = NULL, result = NULL WHERE id = :id AND fence = 1")


def _publish_and_queue_again(right: Function) -> Function:
    def publish(s: Any, claim: Any, **named: Any) -> Any:
        closed = right(s, claim, **named)
        if closed is None:
            s.execute(_QUEUE_AGAIN, {"id": claim.item_id})
        return closed

    return publish


def _hear_no_loss(right: Function) -> Function:
    def beat(*values: Any, **named: Any) -> BeatReply:
        reply: BeatReply = right(*values, **named)
        return BeatReply(lost=False, cancel=reply.cancel, pause=reply.pause)

    return beat


def _hold_nothing(_right: Function) -> Function:
    return lambda _s, _claim: None


_END = text("""
UPDATE work_items SET status = :status, width = 0, lease_owner = NULL, lease_expires_at = NULL, finished_at = clock_timestamp(),
                      result = CAST(:result AS json), error = CAST(:error AS json) WHERE id = :id
""")


def _end_without_a_fence(_right: Function) -> Function:
    def end(s: Any, claim: Any, status: str, *, result: Any = None, error: Any = None) -> None:
        documents = {"result": json.dumps(result or {}), "error": json.dumps(error.as_json()) if error else None}
        s.execute(_END, {"id": claim.item_id, "status": status, **documents})

    return end


_SKIP = text("UPDATE jobs SET event_seq = event_seq + 1 WHERE id = :id")


def _skip_a_number(right: Function) -> Function:
    def append(s: Any, job_id: str, *values: Any, **named: Any) -> Any:
        s.execute(_SKIP, {"id": job_id})
        return right(s, job_id, *values, **named)

    return append


def _leak_the_lifeline(right: Function) -> Function:
    """Another child holds what tells a guard, and the guarded, that the worker is gone."""

    def start(*values: Any, **named: Any) -> processes.Tree:
        tree: processes.Tree = right(*values, **named)
        held = [tree._lifeline.fileno(), *([tree.stdin.fileno()] if tree.stdin else [])]
        subprocess.Popen(["sleep", "600"], pass_fds=held, start_new_session=True)
        return tree

    return start


_SAY = text("UPDATE job_events SET message = message || :key WHERE job_id = :job_id AND seq = :seq")


def _say_the_key(right: Function) -> Function:
    """Past what takes keys out of events."""

    def append(s: Any, job_id: str, *values: Any, **named: Any) -> Any:
        seq = right(s, job_id, *values, **named)
        s.execute(_SAY, {"key": os.environ["CHAOS_TEACHER_KEY"], "job_id": job_id, "seq": seq})
        return seq

    return append


_RETRY_AT_ONCE = text("""
UPDATE work_items SET status = 'queued', width = 0, lease_owner = NULL, lease_expires_at = NULL, attempts = attempts - 1
 WHERE id = :id AND fence = :fence
""")


def _try_for_ever(_right: Function) -> Function:
    def fail(s: Any, claim: Any, *_: Any) -> bool:
        """It forgets that it has tried: PostgreSQL itself refuses to count beyond the limit."""
        s.execute(_TELL, {"told": f"{claim.item_id}:{claim.fence}"})
        s.execute(_RETRY_AT_ONCE, {"id": claim.item_id, "fence": claim.fence})
        return True

    return fail


def _trouble() -> None:
    raise Troubled("chaos", "broken on purpose")


def _lose_a_blob(right: Function) -> Function:
    def create(s: Any, **named: Any) -> Any:
        name = str(named["digest"]).removeprefix("sha256:")
        Path(os.environ["STILLHOUSE_HOME"], "blobs", name[:2], name[2:]).unlink()
        return right(s, **named)

    return create


def _keep_nothing_until_the_end(right: Function) -> Function:
    def begin(self: Any, write: Function, **_: Any) -> None:
        right(self, write, batch=10_000, seconds=3600)

    return begin

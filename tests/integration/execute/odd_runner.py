"""A runner whose program and metric go wrong on certain messages. Run in place of `python -m stillhouse_programs.runner`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from stillhouse_programs import executor, ops, runner

RAISES, HANGS, METRIC_RAISES, METRIC_NAN = "raises", "hangs", "metric raises", "metric gives nan"
LIMIT_SECONDS = 0.2
"""For what hangs. All else has the time that the server gives, however slow the machine is."""

MENDED = "ODD_METRIC_MENDED"
"""The variable that names a file: while it is there the metric raises nothing."""


def odd_program(build: Any) -> Any:
    """`build_program`, with a `forward` that looks at the message first."""

    def build_odd(*args: Any, **kwargs: Any) -> Any:
        program = build(*args, **kwargs)
        base = type(program)

        async def aforward(self: Any, **inputs: Any) -> Any:
            how = inputs["message"].split(": ")[0]
            if how == RAISES:
                raise KeyError("no such customer")
            if how == HANGS:
                await asyncio.Event().wait()
            return await base.aforward(self, **inputs)

        program.__class__ = type(base.__name__, (base,), {"aforward": aforward})
        return program

    return build_odd


def odd_limit(run: Any) -> Any:
    """`run_rollout`, which waits less for what hangs."""

    async def run_odd(prepared: Any, inputs: Any, **more: Any) -> Any:
        less = {"time_limit_seconds": LIMIT_SECONDS} if inputs["message"].startswith(HANGS) else {}
        return await run(prepared, inputs, **{**more, **less})

    return run_odd


def odd_metric(example: Any, prediction: Any, trace: Any = None) -> float:
    how = example.message.split(": ")[0]
    if how == METRIC_RAISES and not Path(os.environ[MENDED]).exists():
        raise ZeroDivisionError("division by zero")
    return float("nan") if how == METRIC_NAN else float(example.category == prediction.category)


def the_odd_metric(spec: Any, allowed: Any = None) -> Any:
    """Whatever metric a job names."""
    return odd_metric


if __name__ == "__main__":
    ops.build_program = odd_program(ops.build_program)  # type: ignore[attr-defined]
    executor.run_rollout = odd_limit(executor.run_rollout)  # type: ignore[attr-defined]
    ops.make_metric = the_odd_metric  # type: ignore[attr-defined]
    runner.main()

"""What others have written of runs of a program: three runs of one with two predictors, the last of which ends unreadable.

`openinference.jsonl` and `otlp.json` are what `openinference-instrumentation-dspy` 0.1.48 wrote of dspy 3.4.1 against a scripted LM,
through `span.to_json()` and OpenTelemetry's OTLP encoder; whole prompts, resources and events are left out. `langfuse.jsonl` holds the
same spans as `ObservationV2` objects of the package `langfuse` 5.0.4, with tokens: no Langfuse server was asked.
"""

import json
from pathlib import Path
from typing import Any


def path(name: str) -> Path:
    """One of the files beside this one."""
    return Path(__file__).parent / name


def lines(name: str) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path(name).read_text(encoding="utf-8").splitlines()]

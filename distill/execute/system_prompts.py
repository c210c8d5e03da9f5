"""The system messages of the rows that a model is trained on: at the gateway it answers no others."""

from __future__ import annotations

import orjson

from distill.messages import system_prompt_digest
from distill.storage import BlobStore


def digests(store: BlobStore, rows: str, expected: int) -> list[str] | None:
    """Of a training file; None unless there are just as many as expected, one a predictor: else there are prompts that it does not show."""
    found: set[str] = set()
    with store.open(rows) as file:
        for line in file:
            first = orjson.loads(line)["prompt"][0]
            if first["role"] != "system":
                return None
            found.add(system_prompt_digest(first["content"]))
            if len(found) > expected:
                return None
    return sorted(found) if len(found) == expected else None

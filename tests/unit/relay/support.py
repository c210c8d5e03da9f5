"""A connection to a scripted LM host, and what it is asked."""

from typing import Any

from distill.relay import RelayLimits, Target
from tests.support.scripted_lm import ScriptedLM

LIMITS = RelayLimits(attempt_seconds=30, total_seconds=30, first_pause_seconds=0.01, longest_pause_seconds=0.5, max_body_bytes=100_000)
BODY = {"model": "student", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.5}


def target(lm: ScriptedLM, **changes: Any) -> Target:
    return Target(**{"connection": "house", "base_url": lm.url, "model": "upstream-model", "api_key": "sk-upstream", **changes})

"""What the description of the interface shows: one example for each operation. A test sends every one of them to a live server.

The ids are of one small project, so that examples read as one story; the bodies need nothing but ids and connections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict

JOB = "cjob-06s4k2v8qh3n5t7a9c1e0g2i4m"
FINE_TUNING_JOB = "ftjob-06s4k2v93b5d7f9h1j3l5n7p9r"
FILE = "file-06s4k1u7pg2m4s6v8b0d2f4h6j"
PROGRAM = "prog-06s4k0t6of1l3r5u7a9c1e3g5i"
BUNDLE = "bundle-06s4k0t5hc7m1p4s6u8w0y2a4c"
METRIC = "metric-06s4k0t6ie8n2q5t7v9b1d3f5h"
DATASET = "ds-06s4k0t7ne0k2q4t6v8b0d2f4h"
ARTIFACT = "art-06s4m5q3tk6n8p0r2t4v6b8d0f"
MODEL = "sh-support-router-self-8c1e0g2i"
CONNECTION = "conn-06s4jvs7lb7h9n1q3r5t7v9b1d"
KEY = "key-06s4jvs5nd9j1p3s5u7a9c1e3g"
ENDPOINT = "whk-06s4jvs6mc8i0o2r4t6v8b0d2f"
DELIVERY = "evt-06s4m5q4sj5m7o9q1s3u5a7c9e"
PYTHON = "3.11"
WORK_ITEM = "work-42"
ALIAS = "support-router@prod"
PROJECT = "support"
BASE_MODEL = "house/smollm2-135m-instruct"
TEACHER_MODEL = "teacher/large-model"

INPUTS: Mapping[str, Any] = {"message": "I was charged twice."}
ROWS: list[dict[str, Any]] = [
    {"message": "I was charged twice.", "team": "billing"},
    {"message": "The app crashes when I open it.", "team": "technical"},
    {"message": "Please change my email address.", "team": "account"},
]
SPEC: Mapping[str, Any] = {
    "predictors": [
        {
            "name": "self",
            "lm": "student",
            "signature": {
                "instructions": "Route a customer message to one team.",
                "fields": [
                    {"name": "message", "role": "input"},
                    {"name": "team", "role": "output", "schema": {"type": "string", "enum": ["billing", "technical", "account"]}},
                ],
            },
        }
    ]
}
BUNDLE_DOCUMENT: Mapping[str, Any] = {
    "bundle_version": 1,
    "python": PYTHON,
    "files": {
        "desk/__init__.py": "",
        "desk/scores.py": "def right(example, prediction, trace=None):\n    return prediction.team == example.team\n",
    },
}
METRIC_SPEC: Mapping[str, Any] = {"type": "exact_match", "fields": ["team"]}
COMPILE: Mapping[str, Any] = {
    "program_name": "support-router",
    "program": SPEC,
    "trainset": ROWS,
    "metric": METRIC_SPEC,
    "metadata": {"week": "47"},
}
UPLOAD: Mapping[str, Any] = {"name": "support-train", "rows": ROWS, "metadata": {"source": "desk"}}
JSONL = '{"message": "I was charged twice.", "team": "billing"}\n{"message": "Please change my email address.", "team": "account"}\n'
CSV = "message,team\nI was charged twice.,billing\nPlease change my email address.,account\n"
CHAT: Mapping[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "I was charged twice."}], "max_tokens": 16}
COMPLETION: Mapping[str, Any] = {"model": MODEL, "prompt": "I was charged twice.", "max_tokens": 16}
EMBEDDING_MODEL = "provider/embedding-model"
EMBEDDING: Mapping[str, Any] = {"model": EMBEDDING_MODEL, "input": "I was charged twice."}


def shown(**body: Any) -> ConfigDict:
    """A body's `model_config`: the example that its schema has."""
    return ConfigDict(json_schema_extra={"examples": [body]})

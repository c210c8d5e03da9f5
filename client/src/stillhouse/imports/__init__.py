"""Traces that exist already, as a job takes them: from JSON Lines, from OpenInference spans, from a Langfuse export.

read = stillhouse.imports.from_openinference(spans, program=spec)
found = stillhouse.imports.match(read.traces, rows)
client.compile_jobs.traces.create(job.id, found.traces, source="import")

What cannot be mapped is in `rejected` of either, with its place in the export and the reason.
"""

from stillhouse.imports.langfuse import from_langfuse
from stillhouse.imports.openinference import from_openinference
from stillhouse.imports.recorded import MESSAGE_CHARS, Matched, Read, Recorded, Rejected, from_jsonl, match

__all__ = [
    "MESSAGE_CHARS",
    "Matched",
    "Read",
    "Recorded",
    "Rejected",
    "from_jsonl",
    "from_langfuse",
    "from_openinference",
    "match",
]

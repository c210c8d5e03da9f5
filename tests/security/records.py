"""The records that this server is measured against: what happened to its peers, from their CVE records and advisories.

A test that shows one carries `@pytest.mark.record(ID)`; `mutants.py` has a switch for each that breaks the server in the same way, under
which a test of the record fails (`test_mutants.py`). What cannot happen here is left out, and says why. Rules of our own beside them are
shown and broken in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Record:
    """`also`: records of the same fault. `left_out`: why no test shows it."""

    what: str
    also: tuple[str, ...] = ()
    left_out: str | None = None


RECORDS: dict[str, Record] = {
    "CVE-2024-52803": Record("LLaMA-Factory: a field of a job reached a shell"),
    "CVE-2025-53002": Record("LLaMA-Factory: a checkpoint of a user was unpickled", ("CVE-2025-46567",)),
    "CVE-2025-32434": Record("PyTorch: `torch.load` runs code even with weights_only=True"),
    "CVE-2026-1839": Record("transformers: a swapped file of a checkpoint was unpickled on resume", ("CVE-2021-4118",)),
    "CVE-2026-4372": Record("transformers: a model's folder had code loaded from a hub"),
    "CVE-2025-12695": Record("DSPy: a file of the server that a row or an answer named was read", ("CVE-2026-72742",)),
    "CVE-2025-69872": Record("diskcache: who may write into the folder of a cache runs code"),
    "CVE-2024-6587": Record("litellm: the address that a client chose got the server's key"),
    "CVE-2026-42208": Record("litellm: SQL built from the Authorization header"),
    "GHSA-46cm-pfwv-cgf8": Record(
        "litellm: a chat template ran code", ("CVE-2024-34359", "CVE-2026-5760", "CVE-2026-35044", "CVE-2016-10745")
    ),
    "litellm-1.82.8": Record("litellm: a trojaned release ran by a .pth file", ("litellm-1.82.7",)),
    "CVE-2026-0545": Record("MLflow: new routes answered without a key", ("CVE-2026-2652",)),
    "CVE-2024-4263": Record("MLflow: who may edit could delete"),
    "CVE-2023-1177": Record(
        "MLflow: paths that lead out of the folder",
        (
            "CVE-2023-2356",
            "CVE-2023-2780",
            "CVE-2023-3765",
            "CVE-2023-6831",
            "CVE-2023-6909",
            "CVE-2024-1560",
            "CVE-2026-2614",
            "CVE-2023-29159",
        ),
    ),
    "CVE-2025-15031": Record("MLflow: archives that write outside", ("CVE-2025-15036",)),
    "CVE-2022-0736": Record("MLflow: files that others may read or swap", ("CVE-2026-4137",)),
    "CVE-2023-6568": Record("MLflow: a reply that a browser runs"),
    "CVE-2023-48022": Record("Ray: a job API for everybody"),
    "CVE-2025-62593": Record("Ray: DNS rebinding", ("CVE-2026-27482",)),
    "CVE-2021-32677": Record("FastAPI: JSON taken from text/plain, so that a form could send it"),
    "CVE-2025-27520": Record("BentoML: a pickle by its content type", ("CVE-2025-32375", "CVE-2024-2912")),
    "CVE-2025-54381": Record(
        "BentoML: an address in a request was asked by the server",
        ("CVE-2024-4325", "CVE-2024-47167", "CVE-2024-1183", "CVE-2022-36551", "CVE-2023-43654"),
    ),
    "CVE-2026-24779": Record("vLLM: who checked an address read it otherwise than who connected"),
    "CVE-2026-24123": Record("BentoML: a file or a variable of the server that a manifest named", ("CVE-2026-44346",)),
    "CVE-2024-1561": Record("Gradio: a method or a path that the client named", ("CVE-2021-43831",)),
    "CVE-2024-24762": Record("FastAPI: forms that cost the parser time", ("CVE-2024-9056", "CVE-2023-30798")),
    "CVE-2025-62727": Record(
        "Starlette: `Range` headers that cost quadratic time", ("CVE-2024-27454", "CVE-2019-10906", "CVE-2023-28858", "CVE-2023-28859")
    ),
    "CVE-2025-23319": Record("Triton: an internal name in an error", ("CVE-2025-23320", "CVE-2025-23334")),
    "CVE-2025-23310": Record("Triton: a body in many tiny chunks", ("CVE-2025-23311",)),
    "CVE-2021-23727": Record("Celery: the metadata of a result were executed"),
    "CVE-2022-30034": Record("Flower: control without a key"),
    "CVE-2025-49844": Record("Redis: a script takes the server over"),
    "CVE-2026-41523": Record("vLLM: a check by `assert`, gone under -O"),
    "GHSA-dspy-pickle": Record("DSPy: a saved program that is code, or names the address that gets the key"),
    "PYSEC-2026-2013": Record("vLLM: a template that loops"),
    "CVE-2026-28416": Record(
        "Gradio: an allow-list that a fetched file widened", left_out="allow-lists are settings; nothing that is fetched is one"
    ),
}

RULES: dict[str, str] = {
    "rule-templates-locked-in": "a chat template that runs code opens, sends and starts nothing",
    "rule-bundles": "what users send to be run is opened nowhere but in a runner",
    "rule-one-rollouts-calls": "one example of a program cannot spend what all were given",
    "rule-grants": "an example whose program asks for another LM than those of its work item costs itself alone",
    "rule-floods": "code of users that takes all connections to the relay that it can get harms no other job and no other caller",
    "rule-runners-words": "a program that speaks in the place of its runner costs its own example",
    "rule-runners-environment": "a program finds no secret around it",
    "rule-log-lines": "what is logged is one line of JSON, whatever it tells",
    "rule-redaction-by-value": "a secret that a process knows is in no log, event or error",
    "rule-redaction-by-pattern": "what has the form of a secret is in no log, event or error",
    "rule-redaction-of-artifacts": "a secret that a metric was given is in no text of an artifact",
    "rule-hostile-bodies": "what is no strict JSON object in UTF-8 is refused by every route, and leaves nothing",
    "rule-no-echo": "a refusal repeats nothing of a body but the short name of what is not there",
}

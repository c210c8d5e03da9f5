"""The server broken on purpose, as its peers were: one switch a record, thrown by the fixture `mutant` alone.

Nothing here is part of the server.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy import text
from starlette.requests import Request

from app import auth, body, browser, errors, main, middleware, row_files, serve, uploads
from app.gateway import relaying
from distill import egress, queue, redaction, scratch, strict_json
from distill.catalog import aliases, bundles, keys
from distill.errors import Unauthenticated
from distill.execute import rollouts
from distill.pipeline import package
from distill.relay import connections, relay
from distill.relay.allowance import Allowance
from distill.sandbox import cell
from distill.storage import checked, folder
from stack import server_checks
from stillhouse_programs import schema_values, spec_bundle
from tests.security import rendering, sources

Patch = pytest.MonkeyPatch


def _source(line: str) -> Callable[[Patch], None]:
    """A line somewhere in our code."""
    return lambda patch: patch.setitem(sources.EXTRA, "app/mutant.py", line + "\n")


def _unpickles(patch: Patch, *names: str, types: tuple[str, ...] = ()) -> None:
    patch.setitem(row_files.READERS, "pickle", lambda file: iter([pickle.loads(file.read())]))  # noqa: S301 - the fault itself
    for name in names:
        patch.setitem(uploads._BY_SUFFIX, name, "pickle")
    for kind in types:
        patch.setitem(uploads.FORMATS, kind, "pickle")


def _opens_bundles(patch: Patch) -> None:
    def read(document: dict[str, Any]) -> Any:
        for each in document["pickles"].values():
            pickle.loads(base64.b64decode(each["data"]))  # noqa: S301 - the fault itself
        return original(document)

    original = bundles.read_bundle
    patch.setattr(bundles, "read_bundle", read)


def _hub_code(patch: Patch) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    for kind in (AutoConfig, AutoModelForCausalLM):
        patch.setattr(kind, "from_pretrained", _trusting(kind.from_pretrained))


def _trusting(load: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values, **named: load(*values, **{**named, "trust_remote_code": True})


def _built_sql(patch: Patch) -> None:
    def verify(s: Any, token: str) -> Any:
        if s.execute(text(f"SELECT 1 FROM api_keys WHERE token_id = '{token.split('_')[1 if '_' in token else 0]}'")).first() is None:
            raise Unauthenticated("no such key")
        return original(s, token)

    original = keys.verify
    patch.setattr(auth, "verify", verify)


def _plain_templates(patch: Patch) -> None:
    _weaker_renderer(patch, rendering.WITHOUT_JINJAS_SANDBOX)


def _templates_without_end(patch: Patch) -> None:
    timer = 'signal.setitimer(signal.ITIMER_PROF, bounds["seconds"])'
    _weaker_renderer(
        patch,
        (timer, "pass"),
        ("resource.setrlimit(resource.RLIMIT_AS, (most, most))", "pass"),
        ('> bounds["characters"]', '> 10 * bounds["characters"]'),
    )


def _open_renderer(patch: Patch) -> None:
    _weaker_renderer(patch, rendering.WITHOUT_LOCK)


def _weaker_renderer(patch: Patch, *changes: tuple[str, str]) -> None:
    program = Path(tempfile.mkdtemp()) / "program.py"
    program.write_text(rendering.weaker(*changes), encoding="utf-8")
    patch.setattr(rendering, "PROGRAM", program)


def _startup_file(patch: Patch) -> None:
    folder_ = Path(tempfile.mkdtemp())
    (folder_ / "litellm_init.pth").write_text("import os; os.environ.get('OPENAI_API_KEY')\n")
    patch.setattr(sysconfig, "get_path", lambda name: str(folder_))


def _paths_of_clients(patch: Patch) -> None:
    class Files(dict[str, Any]):
        def get(self, path: str, default: Any = None) -> Any:
            return {"digest": path}

    original = aliases.artifact

    def artifact(*values: Any) -> Any:
        row = original(*values)
        row.files = Files(row.files)
        return row

    patch.setattr(aliases, "artifact", artifact)
    patch.setattr(folder.FolderStore, "path", lambda self, digest: Path("/", digest))


def _open_files(patch: Patch) -> None:
    real = os.open
    patch.setattr(os, "open", lambda path, flags, mode=0o777, **more: real(path, flags, 0o666, **more))
    os.umask(0)


def _asks_everybody(patch: Patch) -> None:
    patch.setattr(egress, "is_public", lambda address: True)


def _lenient_urls(patch: Patch) -> None:
    from urllib.parse import urlsplit

    patch.setattr(egress, "_split", lambda url, param: (parts := urlsplit(url), parts.hostname or "x"))


def _by_name(patch: Patch) -> None:
    """What is not known is looked up, and found."""
    patch.setattr(errors, "status_at", lambda status, path: 200 if status == 422 else status)


def _any_form(patch: Patch) -> None:
    original = Request.form
    patch.setattr(Request, "form", lambda self, **limits: original(self, max_files=10**6, max_fields=10**6))


def _old_parts(patch: Patch) -> None:
    original = metadata.version
    patch.setattr(metadata, "version", lambda name: "0.48.0" if name == "starlette" else original(name))


def _tells_all(patch: Patch) -> None:
    original = errors.error_response

    def telling(error: errors.ApiError, path: str) -> Any:
        error.message += f" ({errors.__file__})"
        return original(error, path)

    for module in (errors, auth, middleware):
        patch.setattr(module, "error_response", telling)


def _setting(name: str, value: Any) -> Callable[[Patch], None]:
    return lambda patch: patch.setitem(queue._SETTINGS, name, value)


def _calls_without_end(patch: Patch) -> None:
    patch.setattr(relay, "Allowance", lambda block, rollout_calls: Allowance(block))


def _refuses_the_job(patch: Patch) -> None:
    """As it was: what one example asks for ends all of them."""
    patch.setattr(rollouts, "HOPELESS", rollouts.HOPELESS - {"unknown_slot"})
    patch.setattr(rollouts, "REFUSED", rollouts.REFUSED | {"unknown_slot"})


def _open_handed(patch: Patch) -> None:
    """Programs get the environment of the server."""
    original = cell.Cell.environment
    patch.setattr(cell.Cell, "environment", lambda self: {**os.environ, **original(self)})


def _tells_of_metrics(patch: Patch) -> None:
    for name in ("redacted", "redact_text"):
        patch.setattr(package, name, lambda value: value)


def _shell(patch: Patch) -> None:
    def read_json(content: bytes, kind: str) -> Any:
        value = original(content, kind)
        if isinstance(value, dict) and "program_name" in value:
            subprocess.run(f"echo --output {value['program_name']}", shell=True, capture_output=True)  # noqa: S602 - the fault itself
        return value

    original = body.read_json
    patch.setattr(body, "read_json", read_json)


def _one_home(patch: Patch) -> None:
    shared = Path(tempfile.mkdtemp())
    patch.setattr(scratch, "make_folder", lambda name, owner=None: shared)


def _any_file_of_a_bundle(patch: Patch) -> None:
    patch.setattr(spec_bundle, "_PART", re.compile(r"(?s).*"))


MUTANTS: dict[str, Callable[[Patch], None]] = {
    "CVE-2024-52803": _shell,
    "CVE-2025-53002": lambda patch: _unpickles(patch, ".bin", ".pt", ".pth", ".ckpt", ".pkl"),
    "CVE-2025-32434": _source("import torch; torch.load('weights.pt', weights_only=True)"),
    "CVE-2026-1839": lambda patch: patch.setattr(checked.Checked, "ensure", lambda self, digest, file: None),
    "CVE-2026-4372": _hub_code,
    "CVE-2025-12695": lambda patch: patch.setattr(schema_values, "_IMAGES", ("",)),
    "CVE-2025-69872": _one_home,
    "CVE-2024-6587": lambda patch: patch.setattr(relaying, "_REDIRECTING", frozenset()),
    "CVE-2026-42208": _built_sql,
    "GHSA-46cm-pfwv-cgf8": _plain_templates,
    "PYSEC-2026-2013": _templates_without_end,
    "litellm-1.82.8": _startup_file,
    "CVE-2026-0545": lambda patch: patch.setattr(auth, "OPEN_PATHS", auth.OPEN_PATHS | {"/v1/compile_jobs"}),
    "CVE-2024-4263": lambda patch: patch.setattr(keys.Caller, "may", lambda self, scope: True),
    "CVE-2023-1177": _paths_of_clients,
    "CVE-2025-15031": _source("import tarfile; tarfile.open('bundle.tar').extractall('/srv')"),
    "CVE-2022-0736": _open_files,
    "CVE-2023-6568": lambda patch: patch.delitem(browser.HEADERS, "x-content-type-options"),
    "CVE-2023-48022": lambda patch: patch.setattr(serve, "_is_loopback", lambda host: True),
    "CVE-2025-62593": lambda patch: patch.setattr(main, "names_of", lambda hosts, bound_to: None),
    "CVE-2021-32677": lambda patch: patch.setattr(body, "read_json", lambda content, kind: body.parse_json(content)),
    "CVE-2025-27520": lambda patch: _unpickles(patch, types=("application/vnd.bentoml+pickle", "application/x-pickle")),
    "CVE-2025-54381": _asks_everybody,
    "CVE-2026-24779": _lenient_urls,
    "CVE-2026-24123": _any_file_of_a_bundle,
    "CVE-2024-1561": _by_name,
    "CVE-2024-24762": _any_form,
    "CVE-2025-62727": _old_parts,
    "CVE-2025-23319": _tells_all,
    "CVE-2025-23310": lambda patch: patch.setattr(middleware.BodyLimit, "_counted", lambda self, receive: receive),
    "CVE-2021-23727": _setting("result_backend", "cache+memory://"),
    "CVE-2022-30034": _setting("worker_enable_remote_control", True),
    "CVE-2025-49844": lambda patch: patch.setattr(server_checks, "_MENDED", {"redis": {(6, 2): 0, (7, 2): 0}, "valkey": {(8, 1): 0}}),
    "CVE-2026-41523": _source("assert allowed, 'may not'"),
    "GHSA-dspy-pickle": _source("program.load('program.pkl', allow_pickle=True)"),
    "rule-bundles": _opens_bundles,
    "rule-templates-locked-in": _open_renderer,
    "rule-one-rollouts-calls": _calls_without_end,
    "rule-grants": _refuses_the_job,
    "rule-floods": lambda patch: patch.setattr(connections.Total, "add", lambda self, runner: None),
    "rule-runners-words": lambda patch: patch.setattr(rollouts._Running, "is_asked", lambda self, event: True),
    "rule-runners-environment": _open_handed,
    "rule-log-lines": lambda patch: patch.setattr(structlog.processors, "JSONRenderer", structlog.processors.KeyValueRenderer),
    "rule-redaction-by-value": lambda patch: patch.setattr(redaction, "_secrets", cache(tuple)),
    "rule-redaction-by-pattern": lambda patch: patch.setattr(redaction, "_TOKEN", re.compile("(?!)")),
    "rule-redaction-of-artifacts": _tells_of_metrics,
    "rule-hostile-bodies": lambda patch: patch.setattr(strict_json, "loads", json.loads),
    "rule-no-echo": lambda patch: patch.setattr(errors, "_safe_message", lambda error: f"{error['msg']}: {error['input']}"),
}

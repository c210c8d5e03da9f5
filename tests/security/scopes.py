"""Who may ask which route: by rules, so that a new route either follows one or is said here."""

from __future__ import annotations

ANYBODY = frozenset({"operator", "jobs:read", "jobs:write", "aliases:write", "models:use", "admin"})
_READERS = frozenset({"jobs:read", "jobs:write", "admin"})
_WRITERS = frozenset({"jobs:write", "admin"})
_USERS = frozenset({"models:use", "admin"})
_MOVERS = frozenset({"aliases:write", "admin"})
_ADMINS = frozenset({"admin"})
#: Given in the operators' project alone.
_OPERATORS = frozenset({"operator"})

#: Without a project's data: the description of the interface, who one is, which LMs and projects there are.
_OPEN = ("/docs", "/livez", "/openapi.json", "/readyz", "/sign-in", "/v1/me", "/v1/session", "/v1/spec/schema.json")
_READ_BY_ALL = ("/v1/connections", "/v1/projects")
_OPERATED = ("/metrics", "/v1/workers", "/v1/queues", "/v1/maintenance")
_JOB = "/v1/compile_jobs/{job_id}"
#: What operators see and do in all projects; nothing of it shows rows or answers of LMs.
_OVERSEEN = frozenset(
    {
        *(("GET", path) for path in ("/v1/compile_jobs", "/v1/usage", "/v1/usage/keys", "/v1/usage/projects", "/v1/audit_log", _JOB)),
        *(("GET", f"{_JOB}/{part}") for part in ("events", "cost", "curves", "fine_tuning_jobs", "logs")),
        *(("POST", f"{_JOB}/{act}") for act in ("start", "cancel", "pause", "resume", "retry")),
        ("PATCH", _JOB),
        ("POST", "/v1/compile_jobs/cancel"),
        ("DELETE", "/v1/api_keys/{key_id}"),
    }
)
_ADMINISTERED = ("/v1/api_keys", "/v1/audit_log", "/v1/webhook_endpoints", "/v1/connections", "/v1/projects")
#: Whoever calls a model may look at it.
_MODELS = ("/v1/aliases", "/v1/artifacts/{artifact_id}", "/v1/models")
#: POST that changes nothing.
_ASKING = ("/v1/programs/{program_id}/render",)
_CALLS = ("/v1/chat", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/artifacts/{artifact_id}/call")


def _is_below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def who_may(verb: str, path: str) -> frozenset[str]:
    """The scopes of which each is enough."""
    return _usual(verb, path) | (_OPERATORS if (verb, path) in _OVERSEEN else frozenset())


def _usual(verb: str, path: str) -> frozenset[str]:
    if _is_below(path, _OPEN) or (verb == "GET" and _is_below(path, _READ_BY_ALL)):
        return ANYBODY
    if _is_below(path, _OPERATED) or (verb == "PATCH" and _is_below(path, ("/v1/projects",))):
        return _OPERATORS
    if _is_below(path, _ADMINISTERED):
        return _ADMINS
    if _is_below(path, _CALLS):
        return _USERS
    if verb == "GET":
        return _READERS | _USERS if _is_below(path, _MODELS) else _READERS
    if _is_below(path, ("/v1/aliases",)):
        return _MOVERS
    return _READERS if path in _ASKING else _WRITERS

"""Who may ask which route: by rules, so that a new route either follows one or is said here."""

from __future__ import annotations

ANYBODY = frozenset({"jobs:read", "jobs:write", "aliases:write", "models:use", "admin"})
_READERS = frozenset({"jobs:read", "jobs:write", "admin"})
_WRITERS = frozenset({"jobs:write", "admin"})
_USERS = frozenset({"models:use", "admin"})
_MOVERS = frozenset({"aliases:write", "admin"})
_ADMINS = frozenset({"admin"})
#: Of a project like any other, nobody; `metrics:read` is given in the operators' project alone.
_OPERATORS: frozenset[str] = frozenset()

#: Without a project's data: the description of the interface, who one is, which LMs and projects there are.
_OPEN = ("/docs", "/livez", "/openapi.json", "/readyz", "/sign-in", "/v1/me", "/v1/session", "/v1/spec/schema.json")
_READ_BY_ALL = ("/v1/connections", "/v1/projects")
_OPERATED = ("/metrics",)
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
    if _is_below(path, _OPEN) or (verb == "GET" and _is_below(path, _READ_BY_ALL)):
        return ANYBODY
    if _is_below(path, _OPERATED):
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

"""Connections: LM hosts that jobs name."""

from __future__ import annotations

from pydantic import Field

from stillhouse.types.base import Object


class Connection(Object):
    """`owner` is `operator` or `project`; `models` is `*` where it takes any; `match` are the names of LMs in
    programs that it stands for. Of an operator's, `base_url` and `prices` are None."""

    id: str
    name: str
    kind: str = "lm_host"
    owner: str = "operator"
    models: list[str] | str = "*"
    match: list[str] = Field(default_factory=list)
    supports: list[str] = Field(default_factory=list)
    trainer: str | None = None
    max_in_flight: int = 16
    default_student: bool = False
    default_teacher: bool = False
    revision: int = 1
    has_key: bool = False
    key_hint: str | None = None
    base_url: str | None = None
    prices: dict[str, dict[str, float]] | None = None


class ConnectionTest(Object):
    """What came of one tiny call: `code` is `ok`, or what failed, and `message` says it in words."""

    connection: str
    ok: bool
    code: str
    message: str
    model: str | None = None
    seconds: float = 0.0

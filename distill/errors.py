"""The errors of the house, as one tree. HTTP statuses are not here: the API maps classes to statuses in one table.

StillhouseError(code, message, param, details)
├── Invalid             what was asked breaks a rule (names the field, and the rows)
│   └── Unsupported     a known word that this server cannot do
├── NotFound            no such object in the caller's project
├── Conflict            the object's state forbids it
│   └── Stale           the object is not any more what the caller had read
├── PermissionDenied    the key lacks a scope
├── Unauthenticated     no key, or one that is unknown, revoked or expired
├── LimitExceeded       a rate, a size
│   └── QuotaExceeded       what the project may use at once, or in a month
├── Unavailable         cannot answer now, retry later
├── StartRefused        a process does not start as things are
├── CannotOpen          a stored secret was sealed under another key
│   └── KeyNotRead      the key is there, but this process cannot read or change it
├── StorageError        a blob is missing, damaged, or belongs to another database
│   └── StorageUnavailable  the store cannot be read or written now
└── LostLease           the holder's fence is stale, stop at once
    └── CancelRequested the lease holds, but the job publishes nothing any more: release the item
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from distill.redaction import redacted

Category = Literal["user", "system"]


@dataclass(frozen=True, slots=True)
class Detail:
    """One fault of many: `row` is 1-based, `field` a name inside that row."""

    message: str
    row: int | None = None
    field: str | None = None


class StillhouseError(Exception):
    """Base of every expected error. `param` is a JSON path into the request (`trainset[2].message`)."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None, details: tuple[Detail, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param
        self.details = details


class Invalid(StillhouseError):
    """What was asked breaks our schema or rules."""

    code = "invalid_value"


class Unsupported(Invalid):
    """A word we know but do not offer on this server."""

    code = "unsupported"


class NotFound(StillhouseError):
    """No such object in the caller's project; another project's object reads the same."""

    code = "not_found"


class Conflict(StillhouseError):
    """The object's present state forbids the request."""

    code = "conflict"


class Stale(Conflict):
    """The object was changed since the caller read it."""

    code = "stale"


class PermissionDenied(StillhouseError):
    """The key is known but lacks the scope."""

    code = "missing_scope"


class Unauthenticated(StillhouseError):
    """No key was sent, or it is unknown, revoked or expired."""

    code = "invalid_api_key"


class LimitExceeded(StillhouseError):
    """A quota, rate or size limit. `retry_after` is in seconds."""

    code = "limit_exceeded"

    def __init__(self, message: str, *, retry_after: int | None = None, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message, code=code, param=param)
        self.retry_after = retry_after


class QuotaExceeded(LimitExceeded):
    """A project has used what it may. The message says when it may go on."""

    code = "quota_exceeded"


class Unavailable(StillhouseError):
    """Cannot answer now. `retry_after` is in seconds."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after: int | None = None, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class StartRefused(StillhouseError):
    """This process does not start as things are: it would lose or harm something. The message says what to do."""

    code = "start_refused"


class CannotOpen(StillhouseError):
    """A stored secret cannot be read with the key that this process has."""

    code = "cannot_open"


class KeyNotRead(CannotOpen):
    """The key itself cannot be read or changed by this process: what it would open, nobody has tried."""


class StorageError(StillhouseError):
    """A blob is missing or damaged, or the store belongs to another database."""

    code = "storage"


class StorageUnavailable(StorageError):
    """No space, an I/O error, no connection: it may pass, so that what needs it is done again."""

    retry_after = 30


class StorageUnreachable(StorageUnavailable):
    """The store does not answer: whatever else is asked of it now takes as long, and fails too."""


class LostLease(StillhouseError):
    """The fence is stale: somebody else may hold this work item. Kill the child tree and publish nothing."""

    code = "lost_lease"


class CancelRequested(LostLease):
    """The lease holds, but its job was cancelled or has failed: publish nothing, release the item."""

    code = "cancel_requested"


def in_one_line(error: BaseException) -> str:
    """For an operator: what an error says first, or its kind when it says nothing."""
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return _DRIVER.sub("", first)


_DRIVER = re.compile(r"^\(psycopg\.[\w.]+\) ")
"""What SQLAlchemy puts before the words of the driver."""


@dataclass(frozen=True, slots=True)
class JobFault:
    """What a job's, step's or work item's `error` holds, as the interface shows it.

    `retryable` tells the user whether `retry` may help; `category` says whose fault it is; `data` holds the counts behind the message.
    """

    code: str
    message: str
    category: Category = "system"
    param: str | None = None
    step: str | None = None
    retryable: bool = False
    data: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Without `data` where there is none, and without secrets: a message may quote what an LM host or a program said."""
        return {name: redacted(value) for name, value in asdict(self).items() if name != "data" or value is not None}

"""The engine's state and its step: who joins, what is computed, who leaves. Synchronous; one thread calls it.

A row is answered from what is remembered as far as that goes: known hidden states need no pass, known beginnings need no
prefill. What remains is computed together: the new tokens of all running rows and of as many joining rows as fit one pass.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from engines.lmhost.ahead import Ahead
from engines.lmhost.chooser import Chooser
from engines.lmhost.drafts import Drafts
from engines.lmhost.errors import HostError
from engines.lmhost.kv import SlotPool
from engines.lmhost.memo import HiddenMemo
from engines.lmhost.model import Llama
from engines.lmhost.passes import rows_batch
from engines.lmhost.placement import PrefixJob, next_job, place
from engines.lmhost.prefix_tree import PrefixTree
from engines.lmhost.rows import AnswerText, Piece, Request, Row
from engines.lmhost.sampling import Chosen

logger = logging.getLogger(__name__)
# Of the alternatives that a grammar leaves open, computed with a prompt: about what one more pass takes on a processor.
AHEAD_TOKENS = 64


@dataclass(frozen=True)
class Limits:
    """Bounds of the engine: rows at a time and in the queue, new tokens a pass, bytes of the prefix cache, remembered hidden states,
    and the tokens that all running rows together may hold of their own."""

    max_rows: int = 32
    max_waiting: int = 4096
    pass_tokens: int = 1024
    cache_bytes: int = 1536 * 2**20
    memo_entries: int = 32768
    slot_tokens: int = 32768


@dataclass
class Stats:
    """Counts since the start; read by /metrics from another thread."""

    requests: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    passes: int = 0
    pass_tokens: int = 0
    remembered: int = 0
    guessed: int = 0
    running: int = 0
    waiting: int = 0


class Core:
    """Rows, caches and the model."""

    def __init__(
        self, model: Llama, answers: AnswerText, limits: Limits, *, cache: bool = True, drafts: bool = True, stats: Stats | None = None
    ) -> None:
        self.stats, self._limits, self._answers, self._use_cache = stats or Stats(), limits, answers, cache
        self._model = model
        self._chooser = Chooser(model)
        self._pool = SlotPool(model.shape, limits.max_rows, model.dtype, model.device)
        self._tree = PrefixTree(limits.cache_bytes if cache else 0)
        self._memo = HiddenMemo(limits.memo_entries if cache else 0)
        self._drafts, self._use_drafts = Drafts(answers.ends), drafts
        self._waiting: deque[Row] = deque()
        self._rows: list[Row] = []
        self._job: PrefixJob | None = None

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._rows or self._waiting)

    @property
    def is_urgent(self) -> bool:
        """Whether somebody waits for a row."""
        return not all(row.request.background for row in (*self._rows, *self._waiting))

    @property
    def oldest(self) -> float:
        """When the first of its rows arrived, by the monotonic clock; infinity without rows."""
        return min((row.since for row in (*self._rows, *self._waiting)), default=math.inf)

    def uses(self, adapter: int) -> bool:
        """Whether a row of this LoRA adapter waits or runs."""
        return any(row.adapter_uid == adapter for row in (*self._rows, *self._waiting))

    def submit(self, request: Request) -> Row:
        """Queue one sample. Raises HostError (503) where too many wait already."""
        if len(self._waiting) >= self._limits.max_waiting:
            raise HostError(503, "overloaded", f"{len(self._waiting)} samples wait already; try again later.", retry_after=1)
        row = Row(request)
        self.stats.requests += 1
        self.stats.prompt_tokens += len(request.prompt)
        self._waiting.append(row)
        return row

    def cancel(self, rows: list[Row]) -> None:
        """Drop rows whose caller has gone; nothing more is sent for them."""
        for row in rows:
            row.cancelled = True

    def forget(self, adapter: int) -> None:
        """Drop all that was computed with one LoRA adapter."""
        self._tree.forget(adapter)
        self._memo.forget(adapter)
        self._drafts.forget(adapter)

    @torch.inference_mode()
    def step(self) -> None:
        """One round: everything that is known already, or else one pass."""
        self._leave()
        self._join()
        try:
            if not self._recall():
                self._compute()
        except Exception as error:
            logger.exception("a pass failed")
            self._fail(self._rows, HostError(500, "engine_failed", f"The engine failed: {type(error).__name__}."))
            self._job = None
        self._leave()
        self.stats.running, self.stats.waiting = len(self._rows), len(self._waiting)

    def _join(self) -> None:
        while self._waiting and len(self._rows) < self._limits.max_rows:
            row = self._waiting.popleft()
            if row.cancelled:
                continue
            row.queue_seconds = time.monotonic() - row.since
            self._rows.append(row)
            self._guarded(row, partial(self._answers.begin, row))

    def _leave(self) -> None:
        for row in [row for row in self._rows if row.cancelled or row.finish]:
            self._rows.remove(row)
            if row.slot is not None:
                self._pool.give_back(row.slot)
                row.slot = None

    def _recall(self) -> bool:
        """Advance the rows whose next hidden state is remembered; False if there was none."""
        known = [(row, hidden) for row in self._rows if row.finish is None and (hidden := self._memo.get(row)) is not None]
        if not known:
            return False
        self.stats.remembered += len(known)
        for row, _ in known:
            self._credit(row, len(row.request.prompt))
        self._advance([row for row, _ in known], torch.stack([hidden for _, hidden in known]))
        return True

    def _compute(self) -> None:
        rows = [row for row in self._rows if row.finish is None]
        fresh = [row for row in rows if row.slot is None]
        fresh = _first_of_each(fresh, rows) if self._use_cache else fresh
        waiting = self._prepare(fresh)
        batch = [row for row in rows if row.slot is not None]
        ahead = {id(row): self._ahead(row) for row in batch}
        room = self._limits.pass_tokens - sum(1 + len(each.tokens) for each in ahead.values())
        for row in fresh:
            more = self._ahead(row)
            if id(row) not in waiting and self._fits(row, len(more.tokens), room, batch):
                self._credit(row, place(row, self._tree, self._pool))
                batch.append(row)
                ahead[id(row)] = more
                room -= row.length - row.computed + len(more.tokens)
        if batch:
            self._forward(batch, ahead)

    def _fits(self, row: Row, ahead: int, room: int, batch: list[Row]) -> bool:
        if not batch:
            return True
        needed = self._tree.missing(row.adapter_uid, row.tokens()[:-1]) + 1 + ahead
        held = sum(other.own for other in batch)
        return needed <= room and held + row.length <= self._limits.slot_tokens

    def _prepare(self, fresh: list[Row]) -> set[int]:
        """Compute one chunk of a beginning that joining rows share or that is long; the ids of rows that wait for one."""
        self._job, waiting = next_job(fresh, self._tree, self._model, self._job)
        if self._job is not None and self._job.run(self._model, self._limits.pass_tokens):
            self._tree.insert(self._job.adapter_uid, self._job.tokens, self._job.kv)
            self._job = None
        return waiting

    def _forward(self, rows: list[Row], ahead: dict[int, Ahead]) -> None:
        rows.sort(key=lambda row: row.group)
        more = [ahead[id(row)] for row in rows]
        new = [row.tokens(row.computed) for row in rows]
        counts = [len(tokens) + len(each.tokens) for tokens, each in zip(new, more, strict=True)]
        self._pool.reserve(max(row.own + count for row, count in zip(rows, counts, strict=True)))
        hidden = self._model.forward(rows_batch(self._model, self._pool, rows, new, more))
        self.stats.passes += 1
        self.stats.pass_tokens += sum(counts)
        for row in rows:
            row.own += row.length - row.computed
            self._keep(row)
        self._accept(rows, more, list(torch.split(hidden, [1 + len(each.wanted) for each in more])))

    def _ahead(self, row: Row) -> Ahead:
        """What to compute of a row together with what must be computed anyway."""
        if row.walk is None:
            return Ahead.chain(self._drafts.guess(row)) if self._use_drafts else Ahead()
        return row.walk.ahead(AHEAD_TOKENS, row.request.max_tokens - len(row.out) - 1) if self._use_cache else Ahead()

    def _accept(self, rows: list[Row], ahead: list[Ahead], hidden: list[Tensor]) -> None:
        """Choose a token at every place of a row's guess, and go along it as long as it was right; or after its last token, and remember
        what belongs to the ways that a grammar leaves open."""
        guesses = [list(each.tokens) if row.walk is None else [] for row, each in zip(rows, ahead, strict=True)]
        places = [(row, place) for row, guess in zip(rows, guesses, strict=True) for place in range(1 + len(guess))]
        states = [each[: 1 + len(guess)] for each, guess in zip(hidden, guesses, strict=True)]
        tokens = iter(self._chooser.choose(places, torch.cat(states)))
        for row, guess, each, known in zip(rows, guesses, ahead, hidden, strict=True):
            if row.walk is not None and self._use_cache:
                for place, state in zip(each.wanted, known[1:], strict=True):
                    self._memo.put(row, state, each.path(place))
            self._accept_row(row, guess, [next(tokens) for _ in range(1 + len(guess))], known)

    def _accept_row(self, row: Row, draft: list[int], tokens: list[Chosen], hidden: Tensor) -> None:
        for ahead in range(1 + len(draft)):
            if self._use_cache:
                self._memo.put(row, hidden[ahead])
            self._take(row, tokens[ahead])
            if row.finish or row.cancelled or ahead == len(draft) or draft[ahead] != tokens[ahead].token:
                return
            # The guessed token's keys and values are already there.
            row.own += 1
            self.stats.guessed += 1

    def _keep(self, row: Row) -> None:
        """Once a row's prompt is computed, put what the prefix cache lacks of it there."""
        if row.kept or row.slot is None or not self._use_cache:
            return
        row.kept = True
        tokens = row.tokens()
        missing = self._tree.missing(row.adapter_uid, tokens)
        if missing:
            self._tree.insert(row.adapter_uid, tokens, self._pool.read(row.slot, row.own - missing, row.own))

    def _credit(self, row: Row, known: int) -> None:
        """Note how much of a row's prompt was known when it was first needed."""
        if row.cached is None:
            row.cached = min(known, len(row.request.prompt))
            self.stats.cached_tokens += row.cached

    def _advance(self, rows: list[Row], hidden: Tensor) -> None:
        for row, token in zip(rows, self._chooser.choose([(row, 0) for row in rows], hidden), strict=True):
            self._take(row, token)

    def _take(self, row: Row, token: Chosen) -> None:
        self._guarded(row, partial(self._answers.take, row, token))

    def _guarded(self, row: Row, action: Callable[[], None]) -> None:
        """Run one row's bookkeeping; its failure is its own."""
        try:
            action()
        except HostError as error:
            self._fail([row], error)
        else:
            self._tell(row)

    def _tell(self, row: Row) -> None:
        request = row.request
        if row.finish:
            text, chosen = self._answers.news(row)
            self.stats.completion_tokens += len(row.out)
            self._drafts.learn(row)
            request.listener(Piece(request.sample, text, row.finish, None, len(row.out), row.cached or 0, chosen))
        elif request.stream:
            text, chosen = self._answers.news(row)
            if text or chosen:
                request.listener(Piece(request.sample, text, chosen=chosen))

    def _fail(self, rows: list[Row], error: HostError) -> None:
        for row in rows:
            if not row.cancelled and row.finish is None:
                self.stats.failed += 1
                row.request.listener(Piece(row.request.sample, "", error=error))
            row.cancelled = True


def _first_of_each(fresh: list[Row], rows: list[Row]) -> list[Row]:
    """Of rows with the same beginning only the first is computed: the others will find its hidden state remembered."""
    seen = {row.digest() for row in rows if row.slot is not None and not row.kept}
    picked = []
    for row in fresh:
        if row.digest() not in seen:
            seen.add(row.digest())
            picked.append(row)
    return picked

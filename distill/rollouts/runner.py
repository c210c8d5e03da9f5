"""One runner process seen from here: requests go in, checked events come out, several requests at a time."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, Full, Queue
from typing import IO, Any

import orjson

from distill.folders import DEEPEST
from distill.relay import Relay
from distill.rollouts.bundles import named_bundles, no_bundle_of
from distill.rollouts.errors import RunnerDied, RunnerError, RunnerSilent, ended
from distill.rollouts.events import REPLIES, Json, answers, read_event
from distill.rollouts.spawn import Child, spawn
from distill.sandbox import Choice, Limits, choose
from distill.sandbox.rungs import MEGABYTE

MAX_LINE_BYTES = 8 * 1024 * 1024
_VERSION = 1
_HELLO_SECONDS = 60.0
_UNPACK_SECONDS = 60.0
_WAITING_EVENTS = 256
_TAIL_LINES = 40
_KEPT_PROGRAMS = 32


class Runner:
    """Thread-safe. A runner that died stays dead: every later request raises the same RunnerDied."""

    def __init__(
        self,
        python: str,
        relay: Relay,
        limits: Limits | None = None,
        references: Sequence[str] = (),
        sandbox: Choice | None = None,
        bundle: Callable[[str], Json] | None = None,
        owner: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process and wait for its greeting. Without a sandbox it imports no `references`, and is sent no bundle.

        `bundle` gives the document of a digest, or raises RunnerError; `owner` says whose it is, for the log. Raises RunnerDied, OSError.
        """
        self._sandbox = sandbox or choose()
        self._bundle = bundle or partial(no_bundle_of, "")
        self._unpacked: set[str] = set()
        rung = self._sandbox.rung
        self._child: Child = spawn(python, relay.connections(), limits or Limits(), references if rung else (), rung, owner)
        self._ids = itertools.count(1)
        self._waiting: dict[int, Queue[Json | RunnerDied]] = {}
        self._opened: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._death: RunnerDied | None = None
        self._log = threading.Thread(target=self._read_log, name="runner-log", daemon=True)
        self._log.start()
        threading.Thread(target=self._read_events, name="runner-events", daemon=True).start()
        self._greeted = False
        self.greeting = self.ask("hello", silence_seconds=_HELLO_SECONDS)
        self._greeted = True

    @property
    def pid(self) -> int:
        return self._child.tree.pid

    @property
    def alive(self) -> bool:
        return self._death is None

    def request(self, op: str, *, silence_seconds: float | None = None, **body: Any) -> Iterator[Json]:
        """The events of one request as they come, `done` the last. Leaving the loop early cancels the request.

        Raises RunnerError (the runner refused it), RunnerDied, and RunnerSilent when no event came for `silence_seconds`; a silent
        runner is killed, since code that holds its event loop cannot be asked to stop. Bundles that the body names are sent before.
        """
        for digest in named_bundles(body):
            self._unpack(digest)
        number, events = self._begin(op, body)
        finished = False
        try:
            while not finished:
                event = self._next(events, silence_seconds)
                finished = event["event"] in ("done", "error")
                if event["event"] == "error":
                    raise self._refusal(event)
                yield event
        finally:
            with self._lock:
                self._waiting.pop(number, None)
            if not finished:
                self._cancel(number, events)

    def ask(self, op: str, *, silence_seconds: float | None = None, **body: Any) -> Json:
        """The one event that matters of a small op: what came before `done`, or else `done`. Raises as `request`.

        A runner that says another is killed, and so is one that says more, before that fills the memory.
        """
        events = self.request(op, silence_seconds=silence_seconds, **body)
        found = next(events)
        after = [] if found["event"] == "done" else [next(events)["event"]]
        if found["event"] != REPLIES.get(op, "done") or after not in ([], ["done"]) or not answers(op, body, found):
            raise self._die(RunnerDied("protocol", f"broke the protocol: it does not answer {op}"))
        return found

    def tell_each(
        self, op: str, awaited: Collection[Hashable], place: Callable[[Json], Hashable], *, silence_seconds: float, **body: Any
    ) -> Iterator[Json]:
        """The events before `done` of an op that tells of each of some things once; `place` is which of them an event tells of.

        A runner that tells of something else, of one twice or not of all is killed. Raises as `request`.
        """
        left = set(awaited)
        for event in self.request(op, silence_seconds=silence_seconds, **body):
            if event["event"] == "done":
                continue
            told = place(event)
            if told not in left:
                raise self.disbelieve()
            left.remove(told)
            yield event
        if left:
            raise self._die(RunnerDied("protocol", "did not tell of all that was asked"))

    def disbelieve(self) -> RunnerDied:
        """End it: its process runs users' code, which may speak in its place."""
        return self._die(RunnerDied("protocol", "told of something that was not asked"))

    def ensure_open(self, program_key: str, *, silence_seconds: float | None = 120.0, **body: Any) -> None:
        """`open`, unless this runner has the program already. It keeps the last few programs and closes older ones."""
        if program_key in self._opened:
            self._opened.move_to_end(program_key)
            return
        self.ask("open", silence_seconds=silence_seconds, program_key=program_key, **body)
        self._opened[program_key] = None
        if len(self._opened) > _KEPT_PROGRAMS:
            self.ask("close", silence_seconds=silence_seconds, program_key=self._opened.popitem(last=False)[0])

    def finish(self) -> None:
        """Ask that no further rollout begins; what is under way ends as always. Asked again, nothing changes."""
        with self._lock:
            targets = list(self._waiting)
        for target in targets:
            self._tell("finish", target)

    def check_disk(self) -> None:
        """End it when its files take more than they may; where the sandbox sees to that itself, they never do."""
        if self.alive and self._child.is_overfull:
            bound = f"{self._child.cell.place.limits.scratch_mb} MB of files, or folders more than {DEEPEST} deep"
            self._die(RunnerDied("disk", f"wrote more than {bound}, and was stopped"))

    def check_memory(self) -> None:
        """End it when all its processes together take more memory than they may: the limits of each bound no sum."""
        if self.alive and self._child.takes_too_much_memory:
            bound = f"{self._child.cell.memory_bytes // MEGABYTE} MB of memory in all its processes together"
            self._die(RunnerDied("out_of_memory", f"used more than {bound}, and was stopped"))

    def kill(self) -> None:
        """End the process and everything it started. Requests under way raise RunnerDied."""
        self._die(RunnerDied("stopped", "was stopped"))

    # ------------------------------------------------------------ inside

    def _unpack(self, digest: str) -> None:
        if digest in self._unpacked:
            return
        if self._sandbox.rung is None:
            raise RunnerError("sandbox_unavailable", self._sandbox.refusal, "bundle")
        self.ask("unpack", silence_seconds=_UNPACK_SECONDS, digest=digest, document=self._bundle(digest))
        self._unpacked.add(digest)

    def _refusal(self, event: Json) -> RunnerError:
        if event["code"] == "reference_not_allowed" and self._sandbox.rung is None:
            return RunnerError("sandbox_unavailable", self._sandbox.refusal, event["param"])
        return RunnerError(event["code"], event["message"], event["param"])

    def _begin(self, op: str, body: Json) -> tuple[int, Queue[Json | RunnerDied]]:
        number = next(self._ids)
        line = orjson.dumps({"v": _VERSION, "id": number, "op": op, **body}) + b"\n"
        if len(line) > MAX_LINE_BYTES:
            raise RunnerError("line_too_long", f"a request has at most {MAX_LINE_BYTES} bytes, this has {len(line)}")
        events: Queue[Json | RunnerDied] = Queue(_WAITING_EVENTS)
        with self._lock:
            if self._death is not None:
                raise self._death
            self._waiting[number] = events
        self._write(line)
        return number, events

    def _write(self, line: bytes) -> None:
        try:
            with self._writing:
                self._child.stdin.write(line)
                self._child.stdin.flush()
        except (OSError, ValueError):
            raise self._die(None) from None

    def _next(self, events: Queue[Json | RunnerDied], silence_seconds: float | None) -> Json:
        try:
            event = events.get(timeout=silence_seconds)
        except Empty:
            raise self._die(RunnerSilent("silent", f"said nothing for {silence_seconds:g} s and was stopped")) from None
        if isinstance(event, RunnerDied):
            raise event
        return event

    def _cancel(self, number: int, events: Queue[Json | RunnerDied]) -> None:
        """Ask the runner to stop; unblock the reader, which may wait for room in the queue of this request."""
        with suppress(Empty):
            while True:
                events.get_nowait()
        self._tell("cancel", number)

    def _tell(self, op: str, target: int) -> None:
        """A word about another request, whose answer nobody waits for."""
        if self.alive:
            line = orjson.dumps({"v": _VERSION, "id": next(self._ids), "op": op, "target": target}) + b"\n"
            with suppress(RunnerDied):
                self._write(line)

    def _read_events(self) -> None:
        with self._child.stdout as stdout:
            self._die(self._pass_on(stdout))

    def _pass_on(self, stdout: IO[bytes]) -> RunnerDied | None:
        """Hand over events until there are no more; returns why, None where the runner has ended by itself."""
        while line := stdout.readline(MAX_LINE_BYTES + 1):
            if not line.endswith(b"\n"):
                # Cut off in the middle: it died while it wrote.
                return RunnerDied("protocol", "sent a line that is too long") if len(line) > MAX_LINE_BYTES else None
            try:
                event = read_event(line)
            except ValueError as fault:
                return RunnerDied("protocol", f"broke the protocol: {fault}")
            self._hand_over(event)
        return None

    def _hand_over(self, event: Json) -> None:
        """To whoever waits for it. A full queue makes the runner wait, unless its reader has left."""
        while (events := self._waiting.get(event["id"] or 0)) is not None:
            with suppress(Full):
                events.put(event, timeout=0.5)
                return

    def _read_log(self) -> None:
        with self._child.stderr as stderr:
            while line := stderr.readline(64 * 1024):
                self._tail.append(line.decode("utf-8", "replace").rstrip())

    def _die(self, why: RunnerDied | None) -> RunnerDied:
        """The one place where a runner ends; the first reason stands. Without one it has ended by itself, and its end says how."""
        with self._lock:
            if self._death is not None:
                return self._death
            end = self._child.end(at_once=why is not None)
            self._log.join(1.0)
            self._death = why or ended(end, "", greeted=self._greeted)
            self._death.tail = "\n".join(self._tail)
            try:
                self._child.close()
            finally:
                for events in self._waiting.values():
                    _force(events, self._death)
        return self._death


def _force(events: Queue[Json | RunnerDied], death: RunnerDied) -> None:
    """The news of a death goes in even when the queue is full: what it pushes out is an event of a request that failed anyway."""
    while True:
        try:
            events.put_nowait(death)
        except Full:
            with suppress(Empty):
                events.get_nowait()
        else:
            return

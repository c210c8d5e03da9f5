"""`python -m stillhouse_programs.runner`: the process that runs users' programs and metrics. See `protocol` for what it speaks.

stdout carries the protocol alone; whatever a program prints goes to stderr. dspy is imported with the first op that needs it.
"""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sys
from importlib.metadata import version
from typing import Any

from stillhouse_programs import protocol
from stillhouse_programs.door import Door
from stillhouse_programs.protocol import InfrastructureError, Json, RequestError, field, read_request
from stillhouse_programs.spec_reference import REFERENCES_VARIABLE, read_prefixes

_PR_SET_PDEATHSIG = 1


class Runner:
    """Serves requests side by side, each a task, until stdin closes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, door: Door) -> None:
        self._reader = reader
        self._writer = writer
        self._door = door
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._ops: Any = None

    async def serve(self) -> None:
        while True:
            try:
                line = await self._reader.readline()
            except ValueError:
                await self._finish(None, RequestError("line_too_long", f"a line has at most {protocol.MAX_LINE_BYTES} bytes").event())
                continue
            if not line:
                break
            await self._accept(line)
        for task in self._tasks.values():
            task.cancel()

    async def _accept(self, line: bytes) -> None:
        try:
            request = read_request(line)
        except RequestError as error:
            await self._finish(protocol.request_id(line), error.event())
            return
        task = asyncio.create_task(self._serve_one(request))
        self._tasks[request["id"]] = task
        task.add_done_callback(lambda _: self._tasks.pop(request["id"], None))

    async def _serve_one(self, request: Json) -> None:
        try:
            last = await self._handle(request)
        except RequestError as error:
            last = error.event()
        except asyncio.CancelledError:
            last = RequestError("cancelled", "the request was cancelled").event()
        except BaseException as fault:  # a program's SystemExit must not end the runner either
            last = RequestError("runner_fault", f"{type(fault).__name__}: {protocol.message_of(fault)}").event()
        await self._finish(request["id"], last)

    async def _handle(self, request: Json) -> Json:
        """The last event of the reply. Raises RequestError."""
        if request["op"] == "hello":
            return {"event": "done", "protocol": protocol.VERSION, "python": platform.python_version(), "dspy": version("dspy")}
        if request["op"] == "cancel":
            return self._cancel(field(request, "target", int))
        if self._ops is None:
            from stillhouse_programs.ops import Ops

            self._ops = Ops(self._door, read_prefixes(os.environ.get(REFERENCES_VARIABLE, "")))
        done = await self._ops.handle(request, lambda event: self._emit(request["id"], event))
        return {"event": "done", **done}

    def _cancel(self, target: int) -> Json:
        task = self._tasks.get(target)
        return {"event": "done", "cancelled": task is not None and task.cancel()}

    async def _emit(self, request_id: int, event: Json) -> None:
        """One event before the last. Raises InfrastructureError for one that no line can hold, before anything is sent."""
        self._writer.write(_line(request_id, event))
        await self._writer.drain()

    async def _finish(self, request_id: int | None, event: Json) -> None:
        """The last event, whatever it takes."""
        try:
            line = _line(request_id, event)
        except InfrastructureError as fault:
            line = _line(request_id, RequestError(fault.code, fault.message).event())
        self._writer.write(line)
        await self._writer.drain()


def _line(request_id: int | None, event: Json) -> bytes:
    try:
        line = protocol.encode({"v": protocol.VERSION, "id": request_id, **event}) + b"\n"
    except ValueError as fault:
        raise InfrastructureError("not_json", f"{event['event']}: {fault}") from fault
    if len(line) > protocol.MAX_LINE_BYTES:
        raise InfrastructureError("too_large", f"the {event['event']} event is larger than {protocol.MAX_LINE_BYTES} bytes")
    return line


def _die_with_parent() -> None:
    """Linux: the kernel kills this process when the thread that started it ends. Elsewhere the closed stdin ends it."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def _take_stdio() -> tuple[int, int]:
    """Private copies of stdin and stdout; the public ones become nothing and stderr."""
    given, taken = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - lives as long as the process
    sys.stdout = sys.stderr
    return given, taken


async def _serve(stdin: int, stdout: int, door: Door) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=protocol.MAX_LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(stdin, "rb", 0))
    pipe = os.fdopen(stdout, "wb", 0)
    transport, flow = await loop.connect_write_pipe(lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), pipe)
    writer = asyncio.StreamWriter(transport, flow, None, loop)
    await Runner(reader, writer, door).serve()


def main() -> None:
    _die_with_parent()
    stdin, stdout = _take_stdio()
    door = Door.of_environment()
    try:
        import uvloop
    except ImportError:
        asyncio.run(_serve(stdin, stdout, door))
    else:
        uvloop.run(_serve(stdin, stdout, door))
    # Threads of a program that overran its time may still run, and nobody waits for them.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()

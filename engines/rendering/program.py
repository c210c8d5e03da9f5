"""``python -P program.py BOUNDS``: renders chat templates, and has given up everything else.

BOUNDS is JSON: `seconds` of processor time for one conversation, `megabytes` that it may take, `characters` that it may make. Once it is
locked in, it writes `{"ready": true}`. Each line on stdin is a batch: `templates`, the texts, and `conversations`, each with the number of
its `template`, the base model's `special` tokens, `messages`, `tools` and `asks`: whether the beginning of an answer follows. Each of them
is answered in turn by a line on stdout: its `text`, or `refused`, the error's type and message.

On Linux it opens no file and no socket, starts nothing, signals nobody, and ends with who started it: a filter lets it read stdin, write
stdout and get memory. One that takes too long is ended by the kernel. Standard library and Jinja only, so that it starts at once.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import resource
import signal
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

FAILED = 126
TOLD = 2000
"""Characters of an error's message: a template may raise what it likes."""
TEMPLATES_KEPT = 16
LARGE_BUFFER = 1 << 18
REASONING = ("reasoning_content", "thinking", "reasoning")
"""The names that a message's reasoning goes by. The first is the one that most chat templates read."""

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 1, 38, 22, 2  # <sys/prctl.h>
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # <linux/bpf_common.h>
ALLOW, KILL, REFUSE = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM  # <linux/seccomp.h>
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT = 0, 4, 16
PROCESSORS = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
READ, WRITE = (0, 63), (1, 64)
# Numbers on x86-64 and on 64-bit ARM: memory, time, and what an interpreter's end takes.
ALLOWED: dict[str, tuple[int, int | None]] = {
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "restart_syscall": (219, 128),
    "futex": (202, 98),
    "setitimer": (38, 103),
    "clock_gettime": (228, 113),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "getrandom": (318, 278),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
# Imported when it is first needed, by Jinja or the interpreter; no file can be opened then.
NEEDED_LATER = (
    "jinja2.debug",
    "jinja2.constants",
    "pprint",
    "textwrap",
    "encodings.unicode_escape",
    "encodings.ascii",
    "encodings.latin_1",
)


class Generation(Extension):
    """The tag around what the model says, of which only trainings of transformers' own take note."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja has it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_said"), [], [], body).set_lineno(line)

    def _said(self, caller: Macro) -> str:
        return caller()


class Dict:
    """`dict` without the attributes of a class."""

    def __call__(self, *values: Any, **named: Any) -> dict[Any, Any]:
        return dict(*values, **named)

    def fromkeys(self, *values: Any) -> dict[Any, Any]:
        return dict.fromkeys(*values)


class PlainNamespace(Namespace):
    """Takes no attribute that leads into the interpreter."""

    def __init__(*values: Any, **named: Any) -> None:  # as Jinja's, so that `self` may be a name in it
        self, given = values[0], dict(*values[1:], **named)
        for name in given:
            _check_name(name)
        Namespace.__init__(self, given)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(
            f"Chat templates cannot store underscore-prefixed attributes on a namespace, but got {name!r}. Please rename the attribute."
        )


def _raise(message: Any) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)


def _json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: tuple[str, str] | None = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment() -> ImmutableSandboxedEnvironment:
    """Jinja's immutable sandbox with what transformers adds to it, so that templates make the same text here as there."""
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    made.filters["tojson"] = _json
    made.globals |= {"raise_exception": _raise, "strftime_now": _now, "dict": Dict(), "namespace": PlainNamespace}
    return made


@lru_cache(maxsize=TEMPLATES_KEPT)
def compiled(template: str) -> Callable[..., str]:
    return environment().from_string(template).render


def render(template: str, conversation: dict[str, Any]) -> str:
    """What transformers' `apply_chat_template` makes of it. Raises what the template raises."""
    if not conversation["messages"]:
        raise ValueError("Cannot apply chat template to an empty conversation. Provide at least one message.")
    return compiled(template)(
        messages=[_plain(message) for message in conversation["messages"]],
        tools=conversation["tools"],
        documents=None,
        add_generation_prompt=conversation["asks"],
        **conversation["special"],
    )


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """Without what is null, and with its reasoning under the names that templates read."""
    said = {key: value for key, value in message.items() if value is not None}
    reasoning = next((said[key] for key in REASONING if key in said), None)
    return said if reasoning is None else {"thinking": reasoning, **said, "reasoning_content": reasoning}


def answer(bounds: dict[str, Any], template: str, conversation: dict[str, Any]) -> dict[str, Any]:
    """The text, or why there is none. One that takes too long is not answered: the timer ends this process."""
    try:
        signal.setitimer(signal.ITIMER_PROF, bounds["seconds"])
        text = str(render(template, conversation))
    except MemoryError:
        return {"refused": ["MemoryError", f"it takes more than {bounds['megabytes']} MB of memory"]}
    except Exception as error:  # a template raises what it likes
        return {"refused": [type(error).__name__, str(error)[:TOLD]]}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if len(text) > bounds["characters"]:
        return {"refused": ["TooLong", f"it makes {len(text):,} characters, and at most {bounds['characters']:,} are read"]}
    return {"text": text}


def call_filter(machine: str) -> bytes:
    """An array of `struct sock_filter`: what is not named is refused. Raises OSError for a processor whose numbers are not known."""
    if machine not in PROCESSORS:
        raise OSError(errno.ENOSYS, f"no filter of system calls is known for {machine}; x86_64 and aarch64 have one")
    architecture, column = PROCESSORS[machine]
    code = [(LOAD, 0, 0, ARCHITECTURE_AT), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER_AT)]
    for numbers, stream in ((READ, 0), (WRITE, 1)):
        code += [(EQUAL, 0, 4, numbers[column]), (LOAD, 0, 0, ARGUMENTS_AT), (EQUAL, 0, 1, stream), (RETURN, 0, 0, ALLOW)]
        code += [(RETURN, 0, 0, REFUSE)]
    for each in ALLOWED.values():
        number = each[column]
        code += [] if number is None else [(EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    return b"".join(struct.pack("=HBBI", *each) for each in [*code, (RETURN, 0, 0, REFUSE)])


def lock_in(megabytes: int) -> None:
    """Give up all but what the filter names, for good. Raises OSError."""
    with open("/proc/self/statm") as file:
        space = int(file.read().split()[0]) * resource.getpagesize() + (megabytes << 20)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    most = space if hard == resource.RLIM_INFINITY else min(space, hard)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    program = call_filter(os.uname().machine)
    text = ctypes.create_string_buffer(program, len(program))
    wanted = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(text))  # struct sock_fprog
    for what, arguments in (
        ("to end with its parent", (PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)),
        ("no_new_privs", (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)),
        ("seccomp", (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, wanted, 0, 0)),
    ):
        _control(what, *arguments)


def _control(what: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(*arguments) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def prepare() -> None:
    """Whatever would read a file when it is first used."""
    for name in NEEDED_LATER:
        importlib.import_module(name)
    warnings.simplefilter("ignore")  # to warn of a line, the interpreter reads it
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the timer's, whatever we inherited
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])
    _now("%c %Z")
    environment().from_string("{% for word in words %}{{ word | tojson(indent=1) }}{{ '\\n' }}{% endfor %}").render(words=["é"])


def batches() -> Iterator[dict[str, Any]]:
    """Until stdin ends."""
    with open(0, "rb", buffering=LARGE_BUFFER, closefd=False) as stream:
        yield {}  # the stream is open: what asks what it is was allowed until now
        while line := stream.readline():
            yield json.loads(line)


def tell(what: dict[str, Any]) -> None:
    line = memoryview(json.dumps(what).encode() + b"\n")
    while line:
        line = line[os.write(1, line) :]


def main(arguments: list[str]) -> None:
    """Answer until stdin ends."""
    bounds = json.loads(arguments[0])
    asked = batches()
    next(asked)
    try:
        prepare()
        if sys.platform.startswith("linux"):
            lock_in(bounds["megabytes"])
    except OSError as error:
        tell({"failed": f"it cannot lock itself in ({error.strerror})"})
        os._exit(FAILED)
    tell({"ready": True})
    for batch in asked:
        for each in batch["conversations"]:
            tell(answer(bounds, batch["templates"][each["template"]], each))
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])

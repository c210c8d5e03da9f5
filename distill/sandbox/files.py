"""Which files of this machine a sandboxed program may see: what an interpreter needs to run, and of the system what holds no secrets."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
"""Programs and libraries; where they are links, they stay links."""
SETTINGS = (
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/mime.types",
    "/etc/os-release",
)
"""Of /etc these alone: the rest may name hosts, people and passwords."""
MACHINE = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/sys/vm", "/proc/sys/kernel/osrelease", "/proc/self")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

_ASK_SECONDS = 60.0
# An editable install is either a line in sys.path or a finder with a mapping; see setuptools.
_ASK = """
import json, sys
finders = [module for name, module in sys.modules.items() if name.startswith("__editable__")]
mapped = [path for finder in finders for path in getattr(finder, "MAPPING", {}).values()]
print(json.dumps([sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *sys.path, *mapped]))
"""


@cache
def of_interpreter(python: str) -> tuple[str, ...]:
    """The folders and files from which an interpreter runs and imports, the outermost alone. One that does not run has itself only."""
    found = {os.path.abspath(path) for path in (*_links(python), *_asked(python)) if os.path.isabs(path) and os.path.exists(path)}
    found |= {os.path.realpath(path) for path in found}
    return tuple(sorted(path for path in found if not _is_covered(path, found)))


def _is_covered(path: str, among: set[str]) -> bool:
    return any(str(parent) in among or str(parent) in SYSTEM for parent in Path(path).parents) or path in SYSTEM


def _links(python: str) -> list[str]:
    """The interpreter's file, and each link on the way to it."""
    chain = [os.path.abspath(python)]
    while os.path.islink(chain[-1]):
        chain.append(os.path.join(os.path.dirname(chain[-1]), os.readlink(chain[-1])))
    return chain


def _asked(python: str) -> list[str]:
    try:
        done = subprocess.run(
            [python, "-I", "-c", _ASK], capture_output=True, check=True, timeout=_ASK_SECONDS, stdin=subprocess.DEVNULL, env={}
        )
        return [str(path) for path in json.loads(done.stdout)]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []

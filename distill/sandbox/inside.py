"""``python -I -S -c <this text> POLICY COMMAND…``: give up what POLICY says, for good, and become COMMAND.

The first code of a sandboxed process, run by the interpreter of the program's runtime. POLICY is JSON: `limits` by name of the resource,
`counts_others` where RLIMIT_NPROC counts processes that are not ours, `uid` to become or null, `landlock` with the files that may be `read`
(and run), used as `devices`, and `written`, or null, and `seccomp`, the filter in base64. Standard library only.
"""

import base64
import ctypes
import json
import os
import resource
import sys
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2  # <sys/prctl.h>
PR_CAPBSET_DROP, CAPABILITIES, CAPABILITY_VERSION = 24, 64, 0x20080522  # <sys/capability.h>
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls, the same on all processors
VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
PATH_BENEATH = 1
O_PATH = 0o10000000
OOM_SCORE = 500
FAILED = 126

# <linux/landlock.h>
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
MAKE_CHAR, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = 1 << 6, 1 << 9, 1 << 10, 1 << 11, 1 << 12
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
ALL_TCP, ALL_SCOPES = 3, 3  # bind and connect; abstract sockets and signals


class Rules(ctypes.Structure):
    """struct landlock_ruleset_attr"""

    _fields_ = [("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class Beneath(ctypes.Structure):
    """struct landlock_path_beneath_attr, whose last bytes nobody reads"""

    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


class Filter(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("program", ctypes.c_char_p)]


def checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def limit(limits: dict[str, int], counts_others: bool) -> None:
    others = threads_of(os.getuid()) if counts_others and "RLIMIT_NPROC" in limits else 0
    for name, wanted in limits.items():
        kind = getattr(resource, name)
        value = wanted + others if name == "RLIMIT_NPROC" else wanted
        hard = resource.getrlimit(kind)[1]
        allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (allowed, allowed))


def threads_of(uid: int) -> int:
    count = 0
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.stat(f"/proc/{entry}").st_uid == uid:
                count += len(os.listdir(f"/proc/{entry}/task"))
        except OSError:
            continue  # it has ended
    return count


def offer_to_the_oom_killer() -> None:
    """What the guard says of its command may come after this process was made."""
    with open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) < OOM_SCORE:
            file.write(str(OOM_SCORE))


def become(uid: int) -> None:
    """A user who has no capabilities and can be given none."""
    for capability in range(CAPABILITIES):
        LIBC.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails for those that this kernel does not know
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    checked(LIBC.capset((ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)()), "capset")


def landlock_version() -> int:
    return int(LIBC.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(VERSION)))


def landlock(rules: dict[str, list[str]]) -> None:
    """Raises OSError where this kernel has no Landlock, or one without scopes."""
    version = checked(landlock_version(), "Landlock is not there")
    if version < 6:
        raise OSError(0, f"Landlock has version {version}, and 6 is needed (Linux 6.12)")
    every = (1 << 16) - 1
    attributes = Rules(every, ALL_TCP, ALL_SCOPES)
    ruleset = checked(LIBC.syscall(CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0), "Landlock")
    for path in rules["read"]:
        allow(ruleset, path, EXECUTE | READ_FILE | READ_DIR)
    for path in rules["devices"]:
        allow(ruleset, path, WRITE_FILE | READ_FILE)
    for path in rules["written"]:
        allow(ruleset, path, every & ~(MAKE_CHAR | MAKE_SOCK | MAKE_FIFO | MAKE_BLOCK | MAKE_SYM | IOCTL_DEV))
    checked(LIBC.syscall(RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)


def allow(ruleset: int, path: str, rights: int) -> None:
    try:
        parent = os.open(path, O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        wanted = rights if os.path.isdir(path) else rights & OF_FILES
        beneath = Beneath(wanted, parent)
        checked(LIBC.syscall(ADD_RULE, ruleset, PATH_BENEATH, ctypes.byref(beneath), 0), f"Landlock, {path}")
    finally:
        os.close(parent)


def filter_calls(program: bytes) -> None:
    wanted = Filter(len(program) // 8, program)
    checked(LIBC.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(wanted), 0, 0), "seccomp")


def give_up(policy: dict[str, Any]) -> None:
    offer_to_the_oom_killer()
    limit(policy["limits"], policy["counts_others"])
    if policy["uid"] is not None:
        become(policy["uid"])
    checked(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    if policy["landlock"] is not None:
        landlock(policy["landlock"])
    filter_calls(base64.b64decode(policy["seccomp"]))


def main(arguments: list[str]) -> None:
    try:
        give_up(json.loads(arguments[0]))
        os.execv(arguments[1], arguments[1:])  # noqa: S606 - this process is to become it
    except OSError as error:
        print(f"the sandbox was not entered: {error.strerror} {error.filename or ''}".strip(), file=sys.stderr)
        os._exit(FAILED)


if __name__ == "__main__":
    main(sys.argv[1:])

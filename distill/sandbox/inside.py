"""``python -I -S -c <this text> POLICY COMMAND…``: give up what POLICY says, for good, and become COMMAND.

The first code of a sandboxed process, run by the interpreter of the program's runtime. POLICY is JSON: `limits` by name of the resource,
`counts_others` where RLIMIT_NPROC counts processes that are not ours, `uid` to become or null, `landlock` with the files that may be `read`
(and run), used as `devices`, and `written`, or null, the `newest` version of it to use, `signals`, the calls that send one by a number,
`of_files`, those by which a file may, and `seccomp`, the filter in base64. Standard library only.
"""

import base64
import ctypes
import json
import os
import resource
import struct
import sys
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2  # <sys/prctl.h>
PR_CAPBSET_DROP, CAPABILITIES, CAPABILITY_VERSION = 24, 64, 0x20080522  # <sys/capability.h>
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls, the same on all processors
PIDFD_SEND_SIGNAL = 424
OWNER_OF_A_FILE = (8, 10, 15), (0x8901, 0x8902)  # fcntl: F_SETOWN, F_SETSIG, F_SETOWN_EX; ioctl: FIOSETOWN, SIOCSPGRP
VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
PATH_BENEATH = 1
O_PATH = 0o10000000
OOM_SCORE = 500
FAILED = 126

# <linux/landlock.h>
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
MAKE_CHAR, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = 1 << 6, 1 << 9, 1 << 10, 1 << 11, 1 << 12
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
OLDEST, WITH_SCOPES, OF_VERSION_3 = 3, 6, (1 << 15) - 1
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


def landlock(rules: dict[str, list[str]], newest: int) -> int:
    """Returns the version that holds, at most `newest`. Raises OSError where this kernel has no Landlock, or one that lets files be cut."""
    version = min(checked(landlock_version(), "Landlock is not there"), newest)
    if version < OLDEST:
        raise OSError(0, f"Landlock has version {version}, and {OLDEST} is needed (Linux 6.2)")
    every = OF_VERSION_3 | (IOCTL_DEV if version >= 5 else 0)
    attributes = Rules(every, ALL_TCP, ALL_SCOPES)
    size = 8 + 8 * (version >= 4) + 8 * (version >= WITH_SCOPES)
    ruleset = checked(LIBC.syscall(CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), 0), "Landlock")
    for path in rules["read"]:
        allow(ruleset, path, EXECUTE | READ_FILE | READ_DIR)
    for path in rules["devices"]:
        allow(ruleset, path, WRITE_FILE | READ_FILE)
    for path in rules["written"]:
        allow(ruleset, path, every & ~(MAKE_CHAR | MAKE_SOCK | MAKE_FIFO | MAKE_BLOCK | MAKE_SYM | IOCTL_DEV))
    checked(LIBC.syscall(RESTRICT_SELF, ruleset, 0), "Landlock")
    os.close(ruleset)
    return version


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


def own_signals_alone(numbers: list[int], of_files: list[int]) -> bytes:
    """Where nothing else keeps signals from other processes of the same user, this one signals itself alone, and no children.

    `of_files`: the numbers of fcntl and ioctl, which would have the kernel send one when a file has something to tell.
    """
    code = [(0x20, 0, 0, 0)]  # the call's number; its processor is judged by the other filter
    code += [(0x15, 0, 1, PIDFD_SEND_SIGNAL), (0x06, 0, 0, 0x50001)]
    for number in numbers:
        code += [(0x15, 0, 4, number), (0x20, 0, 0, 16), (0x15, 1, 0, os.getpid()), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]
    for number, refused in zip(of_files, OWNER_OF_A_FILE, strict=True):
        code += [(0x15, 0, len(refused) + 3, number), (0x20, 0, 0, 24)]
        code += [(0x15, len(refused) - at, 0, value) for at, value in enumerate(refused)]
        code += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x50001)]
    return b"".join(struct.pack("=HBBI", *each) for each in [*code, (0x06, 0, 0, 0x7FFF0000)])


def give_up(policy: dict[str, Any]) -> None:
    offer_to_the_oom_killer()
    limit(policy["limits"], policy["counts_others"])
    if policy["uid"] is not None:
        become(policy["uid"])
    checked(LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    version = landlock(policy["landlock"], policy["newest"]) if policy["landlock"] is not None else WITH_SCOPES
    if version < WITH_SCOPES and policy["uid"] is None:
        filter_calls(own_signals_alone(policy["signals"], policy["of_files"]))
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

"""``python -m tests.security.contained USER COMMAND…``: COMMAND as Docker starts it in a container.

Docker is not needed: what it takes away is taken away here, in the order of its runtime. USER is "root" or "user", the user of our image,
where nothing is said of security, or "composed", that user with what docker-compose.yml says. Asked for by `whom.as_user`, as root and in
namespaces of its own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import subprocess
import sys
from pathlib import Path

from distill.sandbox import inside

UID = 10001
"""Of the Dockerfile's user."""
KEPT = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD, AUDIT_WRITE, and
SETFCAP."""
MASKED = (
    *("/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug"),
    *("/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware"),
)
READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys")

# What the profile does not let through without CAP_SYS_ADMIN and the like, of what there is on x86-64 and on 64-bit ARM.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440),
    "mbind": (237, 235),
    "get_mempolicy": (239, 236),
    "set_mempolicy": (238, 237),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "syslog": (103, 116),
    "acct": (163, 89),
    "reboot": (169, 142),
    "vhangup": (153, 58),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "lookup_dcookie": (212, 18),
    "iopl": (172, None),
    "ioperm": (173, None),
    "uselib": (134, None),
    "ustat": (136, None),
    "sysfs": (139, None),
    "_sysctl": (156, None),
}
CLONE, CLONE3, SOCKET, PERSONALITY = (56, 220), (435, 435), (41, 198), (135, 92)
FIRST_UNKNOWN = 450
"""To the profile of Docker 23, the oldest that lets Landlock through. What it does not know does not exist."""
NEW_NAMESPACES = 0x7E020000
PERSONALITIES = (0, 8, 0x20000, 0x20008, 0xFFFFFFFF)
FAMILIES = (*range(12), *range(13, 19), 21, 22, 24, *range(26, 34), 35, 36, 39, *range(41, 46))
"""Of sockets, as the newest profile has it."""

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # <linux/bpf_common.h>
ALLOWED, ABSENT, DENIED = ((RETURN, 0, 0, value) for value in (0x7FFF0000, 0x50000 | errno.ENOSYS, 0x50000 | errno.EPERM))
Instruction = tuple[int, int, int, int]


def profile(column: int) -> list[Instruction]:
    code: list[Instruction] = [(LOAD, 0, 0, 0), (AT_LEAST, 0, 1, FIRST_UNKNOWN), ABSENT, (EQUAL, 0, 1, CLONE3[column]), ABSENT]
    for numbers in REFUSED.values():
        number = numbers[column]
        code += [] if number is None else [(EQUAL, 0, 1, number), DENIED]
    first = (LOAD, 0, 0, 16)
    code += [(EQUAL, 0, 4, CLONE[column]), first, (ANY_BIT, 0, 1, NEW_NAMESPACES), DENIED, ALLOWED]
    for numbers, values in ((PERSONALITY, PERSONALITIES), (SOCKET, FAMILIES)):
        compared = [(EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
        code += [(EQUAL, 0, len(values) + 3, numbers[column]), first, *compared, DENIED, ALLOWED]
    return [*code, ALLOWED]


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def enter_image() -> None:
    """A root of its own: layers that are read, and one above them that is written, as an image's."""
    top = Path("/mnt")
    mount("-t", "tmpfs", "tmpfs", str(top))
    upper, work, root = (top / name for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        folder.mkdir()
    mount("-t", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", "overlay", str(root))
    for shared in ("dev", "sys"):
        mount("--rbind", f"/{shared}", str(root / shared))
    here = os.getcwd()
    os.chroot(root)
    os.chdir(here)


def hide() -> None:
    mount("-t", "proc", "proc", "/proc")
    for path in filter(os.path.exists, MASKED):
        arguments = ["-t", "tmpfs", "-o", "ro", "tmpfs"] if os.path.isdir(path) else ["--bind", "/dev/null"]
        mount(*arguments, path)
    for path in filter(os.path.exists, READ_ONLY):
        mount("--bind", path, path)
        mount("-o", "remount,bind,ro", path)


def open_interpreter() -> None:
    """One that lies under a folder of root alone is seen by all, and nothing else that is in there."""
    needed = Path(sys.base_prefix)
    closed = [folder for folder in (needed, *needed.parents) if not folder.stat().st_mode & 0o001]
    if closed:
        held = os.open(needed, os.O_PATH)
        mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(closed[-1]))
        needed.mkdir(parents=True)
        subprocess.run(["mount", "--no-canonicalize", "--bind", f"/proc/self/fd/{held}", str(needed)], check=True, pass_fds=[held])


def filter_calls() -> None:
    """Without no_new_privs, as Docker does it before it takes the powers away."""
    code = profile(("x86_64", "aarch64").index(os.uname().machine))
    inside.filter_calls(b"".join(struct.pack("=HBBI", *each) for each in code))


def drop(kept: tuple[int, ...]) -> None:
    for power in set(range(inside.CAPABILITIES)) - set(kept):
        inside.LIBC.prctl(inside.PR_CAPBSET_DROP, power, 0, 0, 0)  # fails for those that this kernel does not know
    mask = sum(1 << power for power in KEPT)  # what it takes to become another user
    header, powers = (ctypes.c_uint32 * 2)(inside.CAPABILITY_VERSION, 0), (ctypes.c_uint32 * 6)(mask, mask, 0, 0, 0, 0)
    inside.checked(inside.LIBC.capset(header, powers), "capset")


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def main(user: str, *command: str) -> None:
    enter_image()
    hide()
    open_interpreter()
    filter_calls()
    drop(() if user == "composed" else KEPT)
    if user != "root":
        become(UID)
    if user == "composed":
        inside.LIBC.prctl(inside.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.execvp(command[0], command)  # noqa: S606 - this process is to become it


if __name__ == "__main__":
    main(*sys.argv[1:])

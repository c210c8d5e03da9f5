"""The filter of system calls that user code lives under, as a BPF program for this machine's processor.

What is not named is allowed: an interpreter and its libraries need most of what there is. Named is what reaches out of the sandbox, what
widens the kernel that can be attacked, and what one process may do to another of the same user. No socket is made or connected: a runner
gets its connections to the relay handed in. Calls newer than this list do not exist, and neither does `clone3`, whose flags a
filter cannot see: the C library then takes the older call.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_LOAD, _AND, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16
_NEWEST = 469
"""The last number that this list knows; from 424 on they are the same for all processors."""
_NEW_NAMESPACES = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_TYPE_OF_SOCKET, _STREAM = 0xF, 1
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_OF_FILES = (0x40086602, 0x40087602, 0x401C5820, 0x40806685, 0x800C6613)
"""FS_IOC_SETFLAGS, SETVERSION, FSSETXATTR, ENABLE_VERITY, SET_ENCRYPTION_POLICY: the owner of a file needs no right to write for them."""

# Numbers on x86-64 and on 64-bit ARM; None where there is no such call. "absent" is answered with ENOSYS, all others with EPERM.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # the network, and sockets of other programs
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "mq_open": (240, 180),
    # namespaces, mounts, roots
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "open_tree_attr": (467, 467),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # files that are none
    "mknod": (133, None),
    "mknodat": (259, 33),
    "symlink": (88, None),
    "symlinkat": (266, 36),
    # the kernel itself
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "memfd_secret": (447, 447),
    "memfd_create": (319, 279),  # memory that no limit of a process counts
    "personality": (135, 92),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
}
_ABSENT: dict[str, tuple[int | None, int | None]] = {
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "clone3": (435, 435),
}
# For the caller alone: the number of another process, where 0 is expected, is refused.
_OWN: dict[str, tuple[int | None, int | None]] = {
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
# What is known of a file beside its content. Landlock has no rule for it, and the owner may change it through a descriptor for reading too.
# Answered as if it were done: what copies files goes on.
_METADATA: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
_SIGNALS: dict[str, tuple[int, int]] = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
}
_CLONE, _SOCKETPAIR, _IOCTL, _FCNTL = (56, 220), (53, 199), (16, 29), (72, 25)


@dataclass(frozen=True)
class _Processor:
    audit: int
    column: int


_PROCESSORS = {"x86_64": _Processor(0xC000003E, 0), "aarch64": _Processor(0xC00000B7, 1)}


class UnknownProcessor(Exception):
    """There is no table of system calls for this machine."""


def program(machine: str | None = None, *, keeps_metadata: bool = False) -> bytes:
    """The filter as an array of `struct sock_filter`. Raises UnknownProcessor.

    `keeps_metadata`: mode, owner, times and attributes of all files stay as they are, for where the files of others are in sight.
    """
    return b"".join(_instructions(_processor(machine or platform.machine()), _METADATA if keeps_metadata else {}))


def signals() -> list[int]:
    """The numbers of the calls that send signals, by the number of a process. Raises UnknownProcessor, as `program`."""
    column = _processor(platform.machine()).column
    return [numbers[column] for numbers in _SIGNALS.values()]


def of_files() -> list[int]:
    """The numbers of fcntl and ioctl. Raises UnknownProcessor, as `program`."""
    column = _processor(platform.machine()).column
    return [_FCNTL[column], _IOCTL[column]]


def _processor(machine: str) -> _Processor:
    if machine not in _PROCESSORS:
        raise UnknownProcessor(f"no filter of system calls is known for {machine}; x86_64 and aarch64 have one")
    return _PROCESSORS[machine]


def _instructions(processor: _Processor, ignored: Mapping[str, tuple[int | None, int | None]]) -> Iterator[bytes]:
    column = processor.column
    yield _load(_ARCH_AT)
    yield _jump(_EQUAL, processor.audit, yes=1)
    yield _answer(_KILL)
    yield _load(_NUMBER_AT)
    yield from (_jump(_AT_LEAST, _NEWEST + 1, no=1), _absent())
    for numbers in _ABSENT.values():
        yield from _when(numbers[column], [_absent()])
    for numbers in _DENIED.values():
        yield from _when(numbers[column], [_refused()])
    for numbers in ignored.values():
        yield from _when(numbers[column], [_answer(_ERRNO)])
    for numbers in _OWN.values():
        yield from _when(numbers[column], [_load(_argument(0)), _jump(_EQUAL, 0, yes=1), _refused(), _allowed()])
    yield from _when(_CLONE[column], [_load(_argument(0)), _jump(_ANY_BIT, _NEW_NAMESPACES, no=1), _refused(), _allowed()])
    yield from _when(_SOCKETPAIR[column], _only_streams())
    yield from _when(_IOCTL[column], _none_of(1, (_TIOCSTI, _TIOCLINUX, *_OF_FILES)))
    yield _allowed()


def _only_streams() -> list[bytes]:
    """A pair of datagram sockets could still send to any address; a pair of streams is connected for good."""
    return [_load(_argument(1)), _op(_AND, _TYPE_OF_SOCKET), _jump(_EQUAL, _STREAM, yes=1), _refused(), _allowed()]


def _none_of(index: int, values: Sequence[int]) -> list[bytes]:
    """Refused where the argument is one of the values."""
    compared = [_jump(_EQUAL, value, yes=len(values) - at) for at, value in enumerate(values)]
    return [_load(_argument(index)), *compared, _allowed(), _refused()]


def _when(number: int | None, then: list[bytes]) -> list[bytes]:
    return [] if number is None else [_jump(_EQUAL, number, no=len(then)), *then]


def _op(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)


def _load(offset: int) -> bytes:
    return _op(_LOAD, offset)


def _argument(index: int) -> int:
    """Of its lower half: both processors put that first."""
    return _ARGUMENTS_AT + 8 * index


def _jump(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """Skip so many instructions."""
    return _op(code, value, yes, no)


def _answer(value: int) -> bytes:
    return _op(_RETURN, value)


def _allowed() -> bytes:
    return _answer(_ALLOW)


def _refused() -> bytes:
    return _answer(_ERRNO | errno.EPERM)


def _absent() -> bytes:
    return _answer(_ERRNO | errno.ENOSYS)

"""``python -I -S -c <this text> WHAT ARGUMENT``: a program that does what none should, and prints what came of it. No packages."""

import ctypes
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

HELD: list[int] = []
LIBC = ctypes.CDLL(None, use_errno=True)
# Numbers of system calls by machine: x86-64, 64-bit ARM.
CALLS = {
    "unshare": ((272, 97), (0x10000000,)),
    "ptrace": ((101, 117), (16, os.getppid(), 0, 0)),
    "keyctl": ((250, 219), (0, -3, 0)),
    "io_uring_setup": ((425, 425), (1, None)),
    "bpf": ((321, 280), (0, None, 0)),
    "userfaultfd": ((323, 282), (1,)),
    "perf_event_open": ((298, 241), (None, 0, -1, -1, 0)),
    "mount": ((165, 40), (None, None, None, 0, None)),
    "setns": ((308, 268), (-1, 0)),
    "open_by_handle_at": ((304, 265), (-1, None, 0)),
    "process_vm_readv": ((310, 270), (os.getppid(), None, 0, None, 0, 0)),
    "memfd_create": ((319, 279), (b"", 0)),
    "kexec_load": ((246, 104), (0, 0, None, 0)),
    "newer than the filter": ((470, 470), (0, 0, 0, 0)),
}


def forks(most: str) -> int:
    """How many children could be started."""
    children = list[int]()
    with suppress(BlockingIOError):
        while len(children) < int(most):
            pid = os.fork()
            if pid == 0:
                signal.pause()
            children.append(pid)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(children)


def allocates(megabytes: str) -> bool:
    try:
        return len(bytearray(int(megabytes) << 20)) > 0
    except MemoryError:
        return False


def one_file(megabytes: str) -> int:
    """MB that fit into one file."""
    return fill(os.path.join(tempfile.gettempdir(), "one"), int(megabytes))


def fill(path: str, megabytes: int) -> int:
    written = 0
    with suppress(OSError), open(path, "wb", buffering=0) as file:
        while written < megabytes << 20:
            written += file.write(b"x" * min(65536, (megabytes << 20) - written))
    return written >> 20


def many_files(folders: str) -> int:
    """MB in 40 files of 1 MB each in the home, and as many in each of these other folders."""
    places = [tempfile.gettempdir(), *folders.split()]
    return sum(fill(os.path.join(place, f"many-{n}"), 1) for place in places for n in range(40))


def removed(megabytes: str) -> int:
    """MB in files of 1 MB each that have no name any more, and stay open."""
    path, written = os.path.join(tempfile.gettempdir(), "removed"), 0
    with suppress(OSError):
        for _ in range(int(megabytes)):
            HELD.append(os.open(path, os.O_CREAT | os.O_WRONLY))
            os.unlink(path)
            written += os.write(HELD[-1], b"x" * (1 << 20)) >> 20
    return written


def changes(_: str) -> list[str]:
    """Which ways change what is known of an own file beside its content, by its path and through a descriptor for reading."""
    path = os.path.join(tempfile.gettempdir(), "known")
    column = ("x86_64", "aarch64").index(os.uname().machine)
    with open(path, "w"):
        os.setxattr(path, "user.was", b"was")
    reading = os.open(path, os.O_RDONLY)
    ways: dict[str, Callable[[], object]] = {
        "mode": lambda: os.chmod(path, 0o604),
        "mode by descriptor": lambda: os.fchmod(reading, 0o640),
        "mode by the newest call": lambda: LIBC.syscall(452, -100, path.encode(), 0o660, 0),
        "owner": lambda: os.chown(path, os.getuid(), os.getgid()),
        "owner by descriptor": lambda: os.chown(reading, os.getuid(), os.getgid()),
        "times": lambda: os.utime(path, (1, 1)),
        "times by descriptor": lambda: os.utime(reading, (2, 2)),
        "times by an older call": lambda: LIBC.syscall((235, -1)[column], path.encode(), None),
        "attribute": lambda: os.setxattr(path, "user.out", b"out"),
        "attribute by descriptor": lambda: os.setxattr(reading, "user.out", b"again"),
        "no attribute": lambda: os.removexattr(path, "user.was"),
        "flags": lambda: fcntl.ioctl(reading, 0x40086602, (0x80).to_bytes(8, "little")),  # FS_IOC_SETFLAGS, FS_NOATIME_FL
    }
    done = list[str]()
    for name, way in ways.items():
        before = os.stat(path).st_ctime_ns
        time.sleep(0.02)  # the clock of a file system has steps
        with suppress(OSError):
            way()
        done += [name] if os.stat(path).st_ctime_ns != before else []
    return done


def done_of(ways: dict[str, Callable[[], object]]) -> list[str]:
    """The names of those that the kernel let through."""
    done = list[str]()
    for name, way in ways.items():
        with suppress(OSError):
            way()
            done.append(name)
    return done


def planted(outside: str) -> list[str]:
    """What is no file and no folder, left in the home."""
    home = tempfile.gettempdir()
    ways: dict[str, Callable[[], object]] = {
        "symlink": lambda: os.symlink(outside, os.path.join(home, "link")),
        "fifo": lambda: os.mkfifo(os.path.join(home, "fifo")),
        "socket": lambda: socket.socket(socket.AF_UNIX).bind(os.path.join(home, "socket")),
        "device": lambda: os.mknod(os.path.join(home, "device"), 0o666 | stat.S_IFBLK, os.makedev(254, 0)),
    }
    return done_of(ways)


SHELVES = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/run/lock", "/dev/mqueue", "/dev", "/")
KEY = 0x5711
KEYRING_OF_THE_USER = -4


def leaves(name: str) -> list[str]:
    """Write something for whoever comes next wherever that can be done; how it could."""
    column = ("x86_64", "aarch64").index(os.uname().machine)
    add_key = ((248, 217)[column], b"user", name.encode(), b"left", 4, KEYRING_OF_THE_USER)
    ways: dict[str, Callable[[], object]] = {
        "shared memory": lambda: checked(LIBC.shmget(KEY, 4096, 0o1666)),
        "messages": lambda: checked(LIBC.msgget(KEY, 0o1666)),
        "semaphores": lambda: checked(LIBC.semget(KEY, 1, 0o1666)),
        "queue": lambda: checked(LIBC.syscall((240, 180)[column], name.encode(), os.O_CREAT | os.O_RDWR, 0o666, None)),
        "key": lambda: checked(LIBC.syscall(*add_key)),
    }
    for place in {*SHELVES, tempfile.gettempdir(), os.path.dirname(tempfile.gettempdir())}:
        path = os.path.join(place, name)
        ways[f"file in {place}"] = partial(fill, path, 1)
        ways[f"pipe in {place}"] = partial(os.mkfifo, f"{path}-pipe")
    return [way for way in done_of(ways) if not way.startswith("file") or os.path.exists(os.path.join(way[8:], name))]


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def finds(name: str) -> list[str]:
    """What of that is seen; it is removed."""
    column = ("x86_64", "aarch64").index(os.uname().machine)
    keyctl, search, unlink = (250, 219)[column], 10, 9
    ways: dict[str, Callable[[], object]] = {
        "shared memory": lambda: LIBC.shmctl(checked(LIBC.shmget(KEY, 0, 0)), 0, None),
        "messages": lambda: LIBC.msgctl(checked(LIBC.msgget(KEY, 0)), 0, None),
        "semaphores": lambda: LIBC.semctl(checked(LIBC.semget(KEY, 0, 0)), 0, 0),
        "queue": lambda: checked(LIBC.syscall((241, 181)[column], name.encode())),
        "key": lambda: LIBC.syscall(
            keyctl, unlink, checked(LIBC.syscall(keyctl, search, KEYRING_OF_THE_USER, b"user", name.encode(), 0)), KEYRING_OF_THE_USER
        ),
    }
    for place in {*SHELVES, tempfile.gettempdir(), os.path.dirname(tempfile.gettempdir())}:
        path = os.path.join(place, name)
        ways[f"file in {place}"] = partial(os.unlink, path)
        ways[f"pipe in {place}"] = partial(os.unlink, f"{path}-pipe")
    return done_of(ways)


def outlives(_: str) -> int:
    """Leave a grandchild behind, in a session of its own, which holds stdout until its stdin ends."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            sys.stdin.read()
        os._exit(0)
    os.wait()
    return 1


def calls(_: str) -> dict[str, str]:
    """How the kernel answers: the name of the error, or "" where there was none."""
    column = ("x86_64", "aarch64").index(os.uname().machine)
    answers = {}
    for name, (numbers, arguments) in CALLS.items():
        ctypes.set_errno(0)
        failed = LIBC.syscall(numbers[column], *arguments) < 0
        answers[name] = errno.errorcode[ctypes.get_errno()] if failed else ""
    return answers


def sockets(_: str) -> list[str]:
    """Which kinds could be made. A pair of streams leads nowhere; one of datagrams could be pointed anywhere."""
    kinds: dict[str, Callable[[], object]] = {
        "inet": lambda: socket.socket(socket.AF_INET),
        "inet6": lambda: socket.socket(socket.AF_INET6),
        "unix": lambda: socket.socket(socket.AF_UNIX),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "vsock": lambda: socket.socket(socket.AF_VSOCK),
        "packet": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
        "pair of datagrams": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
        "pair of streams": lambda: socket.socketpair(),
    }
    return done_of(kinds)


def status(_: str) -> dict[str, str]:
    """What the kernel holds of this process."""
    with open("/proc/self/status") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)} | {"groups": str(os.getgroups())}


def others(pid: str) -> list[str]:
    """What could be done to another process of the same user beside killing it by its number."""
    import resource

    number = int(pid)
    ways: dict[str, Callable[[], object]] = {
        "signal": lambda: signal.pidfd_send_signal(os.pidfd_open(number), 0),
        "limits": lambda: resource.prlimit(number, resource.RLIMIT_CORE, (0, 0)),
        "priority": lambda: os.setpriority(os.PRIO_PROCESS, number, 19),
        "affinity": lambda: os.sched_setaffinity(number, os.sched_getaffinity(0)),
        "memory": lambda: open(f"/proc/{number}/mem", "rb").close(),
        "root": lambda: os.listdir(f"/proc/{number}/root/etc"),
        "cwd": lambda: os.listdir(f"/proc/{number}/cwd"),
        "files": lambda: os.listdir(f"/proc/{number}/fd"),
    }
    return done_of(ways)


def reads(paths: str) -> dict[str, str]:
    """What is in these files, for all that can be opened."""
    found = {}
    for path in paths.split():
        with suppress(OSError), open(path, "rb") as file:
            found[path] = file.read().decode(errors="replace")
    return found


def works(_: str) -> list[str]:
    """What a program may well do."""
    done = list[str]()
    found: list[int] = []
    thread = threading.Thread(target=found.append, args=(1,))
    thread.start()
    thread.join()
    done += ["thread"] if found else []
    done += ["process"] if subprocess.run([sys.executable, "-c", "print(7)"], capture_output=True).stdout == b"7\n" else []
    with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "a"), "w") as written:
        done += ["file"] if written.write("a") else []
        done += ["copy"] if shutil.copy2(written.name, os.path.join(folder, "b")) else []
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with suppress(PermissionError):
        child.kill()
    child.communicate()
    done += ["signal to a child"] if child.returncode == -signal.SIGKILL else []
    done += ["clock"] if time.time() > 0 else []
    with open("/dev/urandom", "rb") as file:
        done += ["random"] if file.read(1) else []
    return done


def main(what: str, argument: str) -> None:
    told = (
        *(forks, allocates, one_file, many_files, removed, changes, planted, leaves, finds, outlives),
        *(calls, sockets, status, others, reads, works),
    )
    doers: dict[str, Callable[[str], Any]] = {each.__name__: each for each in told}
    print(json.dumps(doers[what](argument)), flush=True)
    if HELD:
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])

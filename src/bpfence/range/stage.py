# SPDX-License-Identifier: Apache-2.0
"""This process in, a private world for the acts of the range out: namespaces of mounts and network, throw-away folders, a cgroup.

Called once, by `bpfence range run`, whose process is in that world until it ends. Nothing that an act reads is a secret, and nothing that
it writes outlives it: over /etc/shadow lies a made-up one, over /etc/profile.d and /srv lies memory, and the address that is attacked is of
the private loopback. What is on the disks, the host's network and other processes are not touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from bpfence.errors import KernelError, UsageError
from bpfence.host.cgroups import find_hierarchy
from bpfence.range.cases import CASES, PROFILES, SERVER, SERVER_PORTS, SHADOW, SHARE

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
SIOCSIFADDR, SIOCSIFFLAGS = 0x8916, 0x8914
IFF_UP: Final = 1
DOCUMENTS: Final = 8
LEAVE_SECONDS: Final = 10


class Stage(msgspec.Struct, frozen=True):
    """What the acts need to know of the world that they are in."""

    folder: Path
    drop: Path
    container: Path | None
    """The cgroup that is named as a container's; None where cgroup v2 is not mounted."""
    programs: bool
    """Copies of the shell may run under other names. A shell that is busybox does not let them."""
    over: frozenset[str] = frozenset()
    """The places of the host that something of the stage's own lies over."""

    def environment(self) -> dict[str, str]:
        """What a script finds in its environment, see `bpfence.range.cases`."""
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        told = {"RANGE": str(self.folder), "DROP": str(self.drop), "SERVER": SERVER, "PYTHON": sys.executable}
        return {"PATH": path, "LC_ALL": "C", "HOME": str(self.folder / "home")} | told


@contextlib.contextmanager
def staged() -> Iterator[Stage]:
    """Move this process into the private world; what it has made outside is taken away at the end. UsageError where it may not."""
    if os.geteuid() != 0:
        raise UsageError("the range needs root: it makes namespaces and a cgroup of its own, so that nothing that it does lasts")
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ending_in_order())
        folder = Path(tempfile.mkdtemp(prefix="bpfence-range-", dir="/run"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        drop = Path(tempfile.mkdtemp(prefix="bpfence-range-", dir="/tmp"))
        stack.callback(shutil.rmtree, drop, ignore_errors=True)
        container = stack.enter_context(_container(folder.name))
        _private(folder)
        # The mount on it would keep the folder.
        stack.callback(_system, "umount2", str(folder).encode(), 2)
        shell = Path(os.path.realpath("/bin/sh"))
        over = _furnish(folder, shell)
        stack.enter_context(_network())
        yield Stage(folder, drop, container, "busybox" not in shell.name, over)


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Signals that ask for an end raise KeyboardInterrupt, so that what was made is taken away."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _system(call: str, *arguments: object) -> None:
    """A function of the C library; KernelError where it refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, call)(*arguments):
        code = ctypes.get_errno()
        raise KernelError(f"the range cannot be made here: {call}: {os.strerror(code)}", missing=call)


def _private(folder: Path) -> None:
    """Namespaces of our own, and memory for what is written."""
    _system("unshare", CLONE_NEWNS | CLONE_NEWNET)
    _system("mount", None, b"/", None, MS_REC | MS_PRIVATE, None)
    _mount_memory(folder)


def _mount_memory(folder: Path) -> None:
    """A file system in memory, from which programs may be run whatever is below it."""
    _system("mount", b"bpfence-range", str(folder).encode(), b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=0755,size=256m")


def _furnish(folder: Path, shell: Path) -> frozenset[str]:
    """Programs, a home with a key, and what lies over files of the host: which."""
    (folder / "bin").mkdir()
    for name in sorted({act.program for case in CASES for act in (case.attack, case.ordinary) if act.program}):
        shutil.copy(shell, folder / "bin" / name)
    keys = folder / "home" / ".ssh"
    keys.mkdir(parents=True)
    (keys / "id_ed25519").write_text("not a key\n")
    (folder / "home" / "package.json").write_text("{}\n")
    (folder / "mnt").mkdir()
    over = set()
    (folder / "shadow").write_text("root:*:19000:0:99999:7:::\n")
    if Path(SHADOW).is_file():
        _system("mount", str(folder / "shadow").encode(), SHADOW.encode(), None, MS_BIND, None)
        over.add(SHADOW)
    if Path(PROFILES).is_dir():
        _mount_memory(Path(PROFILES))
        over.add(PROFILES)
    above = Path(SHARE).parent
    # Nothing that runs here may lie below what is put out of sight.
    if above.is_dir() and not any(Path(path).resolve().is_relative_to(above.resolve()) for path in (sys.executable, __file__, sys.prefix)):
        # Written elsewhere, since a policy may forbid it here.
        share = folder / "srv" / Path(SHARE).name
        share.mkdir(parents=True)
        for number in range(DOCUMENTS):
            (share / f"report-{number}.txt").write_text(f"report {number}\n")
        _system("mount", str(share.parent).encode(), str(above).encode(), None, MS_BIND, None)
        over.add(SHARE)
    return frozenset(over)


@contextlib.contextmanager
def _container(name: str) -> Iterator[Path | None]:
    """A cgroup with a name that Podman would give a container's."""
    try:
        above = find_hierarchy().root / name
    except KernelError:
        yield None
        return
    inside = above / f"libpod-{secrets.token_hex(32)}.scope"
    inside.mkdir(parents=True)
    try:
        yield inside
    finally:
        _remove(inside)
        _remove(above)


def _remove(cgroup: Path) -> None:
    """What still runs in it is ended; it can be removed once the last process is reaped."""
    for _ in range(LEAVE_SECONDS * 10):
        try:
            for pid in (cgroup / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            cgroup.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.1)
        else:
            return


@contextlib.contextmanager
def _network() -> Iterator[None]:
    """The address of the attacked server on our own loopback, with listeners that hang up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for name, address in ((b"lo", ""), (b"lo:0", SERVER)):
            if address:
                wanted = struct.pack("16sHH4s8x", name, socket.AF_INET, 0, socket.inet_aton(address))
                fcntl.ioctl(asked, SIOCSIFADDR, wanted)
            fcntl.ioctl(asked, SIOCSIFFLAGS, struct.pack("16sH14x", name, IFF_UP))
    with contextlib.ExitStack() as stack:
        for port in SERVER_PORTS:
            listener = stack.enter_context(socket.create_server((SERVER, port)))
            threading.Thread(target=_serve, args=(listener,), daemon=True).start()
        yield


def _serve(listener: socket.socket) -> None:
    """Accept and hang up, until it is closed."""
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


__all__ = ["Stage", "staged"]

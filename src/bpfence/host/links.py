# SPDX-License-Identifier: Apache-2.0
"""Paths in, what the symbolic links of a directory tree make of them out, in bounded time.

Called by `loading` at every start and reload, and by `check` and `explain`. The tree is this host's, or any other below a directory; its
absolute links stay inside it. Links are read by a thread: a file system that does not answer costs half a second, and the paths below the
directory that hangs. What cannot be read (an agent that has dropped its privileges may not read everything) keeps its value of the last
load, or stays as it is written. Everything below /proc is left alone, because it differs for every process that looks.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
import time
from collections.abc import Iterable
from typing import Final

from bpfence.conditions.links import Resolution
from bpfence.errors import Diagnostic, Location

SECONDS: Final = 0.5
"""Seconds for which no further path may be read before the thread counts as hanging."""
LOOKS: Final = 5
"""How often within that time it is looked at whether one was read."""
MAX_HANGING: Final = 4
"""How many threads may hang in a file system; with so many, nothing more is looked up."""
FIRST_LINE: Final = 256
"""BINPRM_BUF_SIZE of the kernel: how much of a script it looks at."""
MAX_LINKS: Final = 40
"""MAXSYMLINKS of the kernel."""
MANY_NAMES: Final = frozenset(("busybox", "busybox.static", "busybox-static", "toybox", "coreutils", "uutils", "systemctl"))
"""Programs that act by the name they are called by, and that no host can do without. To match them all because of one name would be too
much."""
_NOTHING: Final = Resolution()


class _MagicError(Exception):
    """The path leads to /proc."""


class _Reader:
    """One thread's work: reads paths in order until it is through, or hangs at `at`."""

    def __init__(self, root: str, paths: list[str]) -> None:
        self.paths = paths
        self.resolutions: dict[str, Resolution | None] = {}  # None: it could not be read
        self.at = ""
        self.ended = threading.Event()
        self._root = root.rstrip("/")
        self._known: dict[str, str | None] = {}
        self._missing: set[str] = set()
        self._directories: dict[str, tuple[str, dict[str, str]]] = {}

    def run(self) -> None:
        """Read everything."""
        for path in self.paths:
            try:
                self.resolutions[path] = self.resolve(path)
            except (OSError, ValueError):
                self.resolutions[path] = None
            except _MagicError:
                self.resolutions[path] = _NOTHING
        self.ended.set()

    def resolve(self, path: str) -> Resolution:
        """The other names of one path: what it leads to, and where it is a link itself, its own name with the links before it resolved."""
        directory, _, last = path.rstrip("/").rpartition("/")
        above, before = self.directory(directory)
        named = above.rstrip("/") + "/" + last
        if last in ("", ".", "..") or above == "/proc" or self.link(named) is not None:
            links: dict[str, str] = {}
            whole = self.followed(path, links)
            links |= before
        else:
            whole, links = named, before
        passed = tuple(links.items())
        name = whole.rpartition("/")[2]
        if name in MANY_NAMES and last != name:
            return Resolution(() if named == path else (named,), passed, whole)
        names = tuple(dict.fromkeys(name for name in (whole, named) if name != path))
        return Resolution(names, passed, "", *self.kind(whole))

    def directory(self, path: str) -> tuple[str, dict[str, str]]:
        """A directory without links, and the links on the way: looked at once for all paths below it. "" is that of paths at the top."""
        found = self._directories.get(path)
        if found is None:
            links: dict[str, str] = {}
            found = self._directories[path] = (self.followed(path, links) if path else "", links)
        return found

    def kind(self, path: str) -> tuple[bool, str]:
        """Whether a path (without links) is a directory, and the interpreter if it is a script; neither where that cannot be told."""
        if path in self._missing:
            return False, ""
        self.at = path
        try:
            status = os.lstat(self._root + path)
            if stat.S_ISDIR(status.st_mode):
                return True, ""
            if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111:
                return False, ""
            # O_NONBLOCK: something else may have taken its place meanwhile, and must not block us.
            descriptor = os.open(self._root + path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                first = os.read(descriptor, FIRST_LINE)
            finally:
                os.close(descriptor)
        except OSError:
            return False, ""
        written = re.match(rb"#![ \t]*(?:\S*/env[ \t]+(?![-=]))?([^ \t\n\0]+)", first)
        return False, os.fsdecode(written.group(1)) if written else ""

    def followed(self, path: str, links: dict[str, str]) -> str:
        """The path without links. What does not exist stands for itself."""
        done: list[str] = []
        waiting = path.split("/")[::-1]
        left = MAX_LINKS
        while waiting:
            part = waiting.pop()
            if part in ("", "."):
                continue
            if part == "..":
                del done[-1:]
                continue
            if done[:1] == ["proc"]:
                raise _MagicError
            name = "/" + "/".join((*done, part))
            target = self.link(name)
            if target is None:
                done.append(part)
                continue
            left -= 1
            if left < 0:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            links[name] = target
            if target.startswith("/"):
                done.clear()
            waiting += target.split("/")[::-1]
        return "/" + "/".join(done)

    def link(self, name: str) -> str | None:
        """The target of a link; None where the path is something else, or does not exist."""
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def _read(self, name: str) -> str | None:
        if name.rpartition("/")[0] in self._missing:
            self._missing.add(name)
            return None
        self.at = name
        try:
            return os.readlink(self._root + name)
        except OSError as error:
            if error.errno == errno.ENOENT:
                self._missing.add(name)
            elif error.errno not in (errno.EINVAL, errno.ENOTDIR):
                raise
        return None


class Links:
    """The links of one tree. Keep one object as long as its agent lives, so that a directory that hangs is not tried again while it
    does."""

    def __init__(self, root: str = "/", seconds: float = SECONDS) -> None:
        self.root = root
        self.late: tuple[str, ...] = ()
        self._seconds = seconds
        self._resolutions: dict[str, Resolution] = {}
        self._hanging: list[_Reader] = []

    @property
    def where(self) -> str:
        """The words for this tree."""
        return "on this host" if self.root == "/" else f"in {self.root}"

    def look_up(self, paths: Iterable[str]) -> None:
        """Read the links of all these paths anew, for `find`. `late`: those that did not answer in time."""
        before, self._resolutions = self._resolutions, {}
        late: list[str] = []
        self._hanging = [reader for reader in self._hanging if not reader.ended.is_set()]
        waiting = list(dict.fromkeys(paths))
        while waiting:
            waiting, skipped = self._answering(waiting)
            late += skipped
            if len(self._hanging) >= MAX_HANGING:
                late += waiting
                break
            reader = _Reader(self.root, waiting)
            self._wait(reader)
            read = dict(reader.resolutions)
            self._resolutions |= {
                path: before.get(path, _NOTHING) if resolution is None else resolution for path, resolution in read.items()
            }
            waiting = [path for path in waiting if path not in read]
            if waiting:
                self._hanging.append(reader)
                late.append(waiting.pop(0))
        self._resolutions |= {path: before[path] for path in late if path in before}
        self.late = tuple(late)

    def _answering(self, paths: list[str]) -> tuple[list[str], list[str]]:
        """The paths that do not lead to a directory that hangs now, and those that do."""
        stuck = tuple(reader.at for reader in self._hanging)
        if not stuck:
            return paths, []
        hangs = [any(path == name or path.startswith(name + "/") for name in stuck) for path in paths]
        return [p for p, h in zip(paths, hangs, strict=True) if not h], [p for p, h in zip(paths, hangs, strict=True) if h]

    def _wait(self, reader: _Reader) -> None:
        threading.Thread(target=reader.run, name="bpfence-links", daemon=True).start()
        read, since = 0, time.monotonic()
        while not reader.ended.wait(self._seconds / LOOKS):
            if len(reader.resolutions) > read:
                read, since = len(reader.resolutions), time.monotonic()
            elif time.monotonic() >= since + self._seconds:
                return

    def find(self, path: str) -> Resolution:
        """What `look_up` has read."""
        return self._resolutions.get(path, _NOTHING)

    def reported(self, path: str, *, itself: bool = False) -> str:
        """The name under which the kernel reports what a path leads to. `itself`: of a link, its own name, not that of its target."""
        resolution = self.find(path)
        if itself:
            return resolution.names[-1] if resolution.names else path
        return resolution.program or (resolution.names[0] if resolution.names else path)

    def findings(self, place: Location) -> list[Diagnostic]:
        """A warning where some paths did not answer."""
        if not self.late:
            return []
        shown = ", ".join(self.late[:3]) + (f" and {len(self.late) - 3} more" if len(self.late) > 3 else "")
        what = f"links could not be read in time, so these paths are matched as they were before, or as they are written: {shown}"
        return [Diagnostic(place, what, "a file system on the way does not answer: reload when it does", "warning", "link-unread")]

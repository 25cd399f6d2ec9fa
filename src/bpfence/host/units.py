# SPDX-License-Identifier: Apache-2.0
"""What is to run in, the unit that has systemd run it out; and what of it stands on this machine.

Called by `bpfence service` and by the build of packages, which thereby have the same unit. systemd.unit(5), systemd.exec(5).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bpfence.errors import UsageError

NAME: Final = "bpfence.service"
FOLDER: Final = Path("/etc/systemd/system")
PACKAGED: Final = Path("/usr/lib/systemd/system")
MAX_LINKS: Final = 40
MAX_FIRST_LINE: Final = 4096
MARK: Final = "# Written by `bpfence service install`; `systemctl edit bpfence` adds settings that stay."
NOTIFIES_RELOAD: Final = 253
"""The first version of systemd that has Type=notify-reload (NEWS of 253); one before takes it for a mistake."""
CONFIG: Final = """\
# What `bpfence run` works with: each setting is one of its options without the dashes (`bpfence run --help`).
# `bpfence config check` finds mistakes; docs/outputs.md says more of outputs. `systemctl reload bpfence` reads the policies again, and
# `systemctl restart bpfence` this file.
policy: /etc/bpfence/policies
output: jsonl:/var/log/bpfence/alerts.jsonl
control-socket: /run/bpfence/control.sock
# Report only, whatever policies say: take the mark away until you have seen what would be denied.
# mode: audit
"""
_UNIT: Final = """\
{mark}
[Unit]
Description=bpfence, runtime security
Documentation=man:bpfence(1) https://bpfence.io/docs/
# Containers and pods that start later are known before their first instruction.
Before=docker.service containerd.service crio.service kubelet.service

[Service]
{type}
NotifyAccess=main
ExecStart={start}
# Programs are checked by the kernel first, which takes its time on a slow machine.
TimeoutStartSec=10min
TimeoutStopSec=30s
WatchdogSec=2min
Restart=on-failure
RestartSec=2s

# What a killed agent leaves in force is found again by the next one, so it stays.
RuntimeDirectory=bpfence
RuntimeDirectoryMode=0711
RuntimeDirectoryPreserve=yes
CacheDirectory=bpfence
CacheDirectoryMode=0700
StateDirectory=bpfence
StateDirectoryMode=0700
LogsDirectory=bpfence
LogsDirectoryMode=0750
UMask=0077

# Until policies are in force. Then the agent gives up what it does not need any more, keeps five of these, and puts itself under a
# seccomp filter and Landlock rules of its own, which are narrower than a unit can say.
CapabilityBoundingSet=CAP_BPF CAP_PERFMON CAP_SYS_ADMIN CAP_SYS_RESOURCE CAP_SYS_PTRACE CAP_SYSLOG CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH
CapabilityBoundingSet=CAP_CHOWN CAP_FOWNER CAP_SETPCAP CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
SystemCallArchitectures=native
LimitMEMLOCK=infinity
OOMScoreAdjust=-500

# Nothing is hidden: policies name files wherever they lie, and the agent has to see the same ones (no PrivateTmp, PrivateDevices,
# ProtectProc, InaccessiblePaths). Outputs in other folders need a ReadWritePaths= of their own.
ProtectSystem=strict
ProtectHome=read-only
ProtectControlGroups=yes
ProtectKernelTunables=yes
ReadWritePaths=/sys/fs/bpf -/var/lib/kubelet/seccomp

[Install]
WantedBy=multi-user.target
"""


def unit(start: Sequence[str], *, notifies_reload: bool) -> str:
    """The text of the unit. `start`: the command; `notifies_reload`: whether systemd is new enough to wait for the end of a reload.

    UsageError where the program's path has letters that systemd takes for no path.
    """
    if odd := sorted({letter for letter in start[0] if letter in "\"'\\$;" or not letter.isprintable()}):
        raise UsageError(f"systemd runs no program with {' '.join(odd)!r} in its path: {start[0]!r}")
    kind = "Type=notify-reload" if notifies_reload else "Type=notify\nExecReload=/bin/kill -HUP $MAINPID"
    return _UNIT.format(mark=MARK, type=kind, start=" ".join(map(_quoted, start)))


def _quoted(word: str) -> str:
    """A word of a command line: systemd.service(5), "COMMAND LINES"."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if not word or any(letter.isspace() or letter in "\"';" for letter in word) else word


def is_ours(path: Path) -> bool:
    """Whether a file is a unit that was written here. False where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").startswith(MARK + "\n")
    except OSError:
        return False


def changeable(path: Path) -> Path | None:
    """What of a path, itself, a folder above it or a symbolic link on the way, somebody other than root can change, the innermost; None:
    nothing. Folders with the sticky bit count: they let everybody put something there first. OSError."""
    worst: Path | None = None
    links, left, real = MAX_LINKS, list(reversed(Path(os.path.abspath(path)).parts[1:])), Path("/")
    while True:
        found = os.lstat(real)
        if found.st_uid or (not stat.S_ISLNK(found.st_mode) and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
            worst = real
        if stat.S_ISLNK(found.st_mode):
            if not (links := links - 1):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            target = Path(os.readlink(real))
            left += reversed(target.parts[target.is_absolute() :])
            real = Path("/") if target.is_absolute() else real.parent
        if not left:
            return worst
        part = left.pop()
        real = real.parent if part == ".." else real / part


def interpreter(program: Path) -> Path | None:
    """What runs a script, by its first line; None of what is none, or cannot be read."""
    try:
        with program.open("rb") as opened:
            first = opened.readline(MAX_FIRST_LINE)
    except OSError:
        return None
    words = first[2:].split() if first.startswith(b"#!") else []
    return Path(os.fsdecode(words[0])) if words else None

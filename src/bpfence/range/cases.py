# SPDX-License-Identifier: Apache-2.0
"""The practical cases: what an attacker does, as a small script that harms nothing, and an ordinary act beside it.

Data only. `stage` makes the world that the scripts run in, `play` runs and judges them. A script is one of sh(1), and has done what its
author wanted where it ends with 0. In its environment:

RANGE   a folder of its own, with `bin` and `mnt`
HOME    a home directory with a key
DROP    a folder of its own below /tmp
SERVER  an address of documentation (RFC 5737), of the private network's own loopback; SERVER_PORTS answer there
PYTHON  the interpreter that runs bpfence

Techniques are those of MITRE ATT&CK for Enterprise and Containers, version 16.
"""

from __future__ import annotations

from typing import Final

import msgspec

SERVER: Final = "203.0.113.66"
SERVER_PORTS: Final = (22, 443, 3333, 4444)
SHARE: Final = "/srv/share"
SHADOW: Final = "/etc/shadow"
PROFILES: Final = "/etc/profile.d"
"""Documents, hashes of passwords, and what login shells run: those that the acts find there are the stage's own."""


class Act(msgspec.Struct, frozen=True):
    """One script."""

    title: str
    script: str
    program: str = ""
    """The name of the copy of sh(1) that runs the script; empty: sh itself."""
    container: bool = False
    """It runs in a cgroup that is named as a container's."""
    needs: tuple[str, ...] = ()
    """Programs that the script runs, other than those of coreutils; a path is one of a program."""
    over: str = ""
    """What of the host the script reads or writes: it is played only where the stage has laid something of its own over that."""


class Case(msgspec.Struct, frozen=True):
    """One threat: an attack, and ordinary work that is much like it."""

    name: str
    title: str
    techniques: tuple[str, ...]
    """`T1003.008 /etc/passwd and /etc/shadow`: id and name."""
    policy: str
    """The native policy that stops it, a file below `examples`; `examples/cases/falco/NAME.yaml` sees it."""
    attack: Act
    ordinary: Act


CONNECT: Final = '"$PYTHON" -ISc "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)" "$SERVER"'
_TO_WEB: Final = Act("a program connects to the same server's port 443", f"{CONNECT} 443")

CASES: Final = (
    Case(
        "web-shell",
        "a web server starts a shell",
        ("T1505.003 Web Shell", "T1059.004 Unix Shell"),
        "cases/web-shell.yaml",
        Act("nginx starts /bin/sh", "/bin/sh -c 'id -u'; exit $?", program="nginx"),
        Act("nginx starts a program that is no shell", "/usr/bin/id -u; exit $?", program="nginx", needs=("/usr/bin/id",)),
    ),
    Case(
        "crypto-miner",
        "a miner connects to its pool",
        ("T1496 Resource Hijacking",),
        "cases/crypto-miner.yaml",
        Act("a program connects to port 3333", f"{CONNECT} 3333"),
        _TO_WEB,
    ),
    Case(
        "reverse-shell",
        "a shell connects to its command server",
        ("T1059.004 Unix Shell", "T1095 Non-Application Layer Protocol"),
        "cases/reverse-shell.yaml",
        Act("bash opens /dev/tcp", "bash -c 'exec 3<>/dev/tcp/$SERVER/4444'", needs=("bash",)),
        _TO_WEB,
    ),
    Case(
        "credential-theft",
        "hashes of passwords are read",
        ("T1003.008 /etc/passwd and /etc/shadow",),
        "cases/credential-theft.yaml",
        Act("cat reads /etc/shadow", f"cat {SHADOW} >/dev/null", over=SHADOW),
        Act("cat reads /etc/passwd", "cat /etc/passwd >/dev/null"),
    ),
    Case(
        "drop-and-run",
        "a program is dropped in /tmp and run",
        ("T1204.002 Malicious File",),
        "policies/no-exec-from-world-writable.yaml",
        Act("a copy in /tmp is run", 'cp "$(command -v id)" "$DROP/update" && "$DROP/update" -u'),
        Act("the installed program is run", "id -u"),
    ),
    Case(
        "container-escape",
        "a privileged container mounts",
        ("T1611 Escape to Host",),
        "policies/container-escape-guard.yaml",
        Act("a file system is mounted", 'mount -t tmpfs none "$RANGE/mnt"', container=True, needs=("mount",)),
        Act("mounts are listed", "cat /proc/self/mountinfo >/dev/null", container=True),
    ),
    Case(
        "install-script",
        "a package's install script reads a key",
        ("T1195.002 Compromise Software Supply Chain", "T1552.004 Private Keys"),
        "cases/install-script.yaml",
        Act(
            "a script below npm reads ~/.ssh/id_ed25519",
            "/bin/sh -c 'cat ~/.ssh/id_ed25519; exit $?'; exit $?",
            program="npm",
        ),
        Act("a script below npm reads package.json", "/bin/sh -c 'cat ~/package.json; exit $?'; exit $?", program="npm"),
    ),
    Case(
        "rewriting",
        "documents are encrypted one after the other",
        ("T1486 Data Encrypted for Impact", "T1485 Data Destruction"),
        "cases/rewriting.yaml",
        Act(
            "each document is rewritten under another name and removed",
            f'for file in {SHARE}/*.txt; do tr a-z n-za-m <"$file" >"$file.locked" && rm "$file" || exit 1; done',
            over=SHARE,
        ),
        Act("each document is read", f"cat {SHARE}/* >/dev/null", over=SHARE),
    ),
    Case(
        "persistence",
        "a command is planted in every login shell",
        ("T1546.004 Unix Shell Configuration Modification",),
        "cases/persistence.yaml",
        Act("a file is written to /etc/profile.d", f"echo '/tmp/update &' >{PROFILES}/update.sh", over=PROFILES),
        Act("a user changes his own shell's", "echo 'alias ll=\"ls -l\"' >>~/.bash_aliases"),
    ),
    Case(
        "lateral-movement",
        "another host's ssh is reached by something else than ssh",
        ("T1021.004 SSH", "T1210 Exploitation of Remote Services"),
        "cases/lateral-movement.yaml",
        Act("a program connects to port 22", f"{CONNECT} 22"),
        _TO_WEB,
    ),
    Case(
        "kernel-module",
        "a rootkit is loaded as a kernel module",
        ("T1547.006 Kernel Modules and Extensions", "T1014 Rootkit"),
        "policies/kernel-guard.yaml",
        # What is loaded is no module, so the kernel refuses it in the end; an attack that gets as far as that has worked.
        Act(
            "a program of one's own loads a module",
            'cp -L "$(command -v insmod)" "$RANGE/bin/insmod" && head -c 4096 /dev/zero >"$RANGE/rootkit.ko"\n'
            'said=$("$RANGE/bin/insmod" "$RANGE/rootkit.ko" 2>&1)\necho "$said" >&2\n'
            'case "$said" in *ermitted*|*ermission*|"") exit 1 ;; esac',
            needs=("insmod",),
        ),
        Act("modules are listed", "cat /proc/modules >/dev/null"),
    ),
    Case(
        "container-shell",
        "somebody types into a container",
        ("T1609 Container Administration Command",),
        "cases/container-shell.yaml",
        Act(
            "a shell with a terminal is started in a container", "script -qec '/bin/sh -c id' /dev/null", container=True, needs=("script",)
        ),
        Act("a program without a terminal is started there", "id -u", container=True),
    ),
)
"""In the order in which they are listed and played."""

BY_NAME: Final = {case.name: case for case in CASES}

__all__ = ["BY_NAME", "CASES", "CONNECT", "PROFILES", "SERVER", "SERVER_PORTS", "SHADOW", "SHARE", "Act", "Case"]

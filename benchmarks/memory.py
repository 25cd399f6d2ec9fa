# SPDX-License-Identifier: Apache-2.0
"""Policies in, bytes of the kernel's memory and of a record out; in a guest with two processors, since much of it is by processor.

`make bench` calls it. Memory is what the kernel says of the maps and programs that are there with `bpfence run` and were not before it
(`bytes_memlock` of bpftool; Linux 6.4 and later say what is really allocated).
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks import results
from benchmarks.results import Figure
from bpfence.agent.agent import Agent, Settings
from bpfence.outputs.routes import open_outputs

KERNEL: Final = "6.12"
PROCESSORS: Final = 2
READY_SECONDS: Final = 900
PLAIN: Final = "/tmp/plain-file"
THREE: Final = (
    {"name": "secrets", "on": "open", "match": {"file.path": "/srv/secrets/**"}, "action": "deny"},
    {"name": "shells", "on": "process.exec", "match": {"file.path": "/usr/bin/*sh", "process.user": "www-data"}, "action": "audit"},
    {"name": "networks", "on": "connect", "match": {"net.peer.ip": "10.9.0.0/16"}, "action": "deny"},
)  # fmt: skip


def document(name: str, *rules: Mapping[str, Any]) -> str:
    """A policy that enforces."""
    spec = {"mode": "enforce", "rules": [dict(rule) for rule in rules]}
    return yaml.safe_dump({"apiVersion": "bpfence.io/v1alpha1", "kind": "SecurityPolicy", "metadata": {"name": name}, "spec": spec})


def objects() -> dict[tuple[str, int], tuple[str, int]]:
    """Kind and id of every map and program in the kernel, to its name and bytes."""
    found: dict[tuple[str, int], tuple[str, int]] = {}
    for kind in ("map", "prog"):
        listed = json.loads(subprocess.run(["bpftool", kind, "show", "-j"], check=True, capture_output=True).stdout)
        found |= {(kind, each["id"]): (each.get("name", ""), each.get("bytes_memlock", 0)) for each in listed}
    return found


def memory(name: str, policies: Path) -> Iterator[tuple[str, Figure]]:
    """MiB with `bpfence run` in force."""
    before, ready = objects(), policies.with_suffix(".ready")
    command = [sys.executable, "-m", "bpfence", "run", "-p", str(policies), "--output", "jsonl:/tmp/alerts", "--ready-file", str(ready)]
    with subprocess.Popen(command, cwd=results.ROOT, stdin=subprocess.DEVNULL) as agent:
        deadline = time.monotonic() + READY_SECONDS
        while not ready.exists():
            if agent.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"bpfence run did not start with {name}")
            time.sleep(0.2)
        added = {key: value for key, value in objects().items() if key not in before}
        agent.send_signal(signal.SIGTERM)
    for (kind, _), (what, size) in sorted(added.items(), key=lambda item: -item[1][1])[:8]:
        print(f"  {size / 1024:10,.0f} KiB {kind} {what}")
    subprocess.run([sys.executable, "-m", "bpfence", "unload"], cwd=results.ROOT, check=True, capture_output=True)
    for part, kinds in (("", ("map", "prog")), (", maps", ("map",))):
        yield (
            f"kernel memory, {name}{part}",
            Figure(sum(size for (kind, _), (_, size) in added.items() if kind in kinds) / (1 << 20), "MiB"),
        )


def record_bytes(folder: Path) -> int:
    """How long the record of an open is that a native rule reports."""
    policy = folder / "plain.yaml"
    policy.write_text(document("plain", {"name": "plain", "on": "open", "match": {"file.path": PLAIN}, "action": "audit"}))
    Path(PLAIN).write_text("")
    outputs = open_outputs((f"jsonl:{folder / 'lines'}",), print)
    agent = Agent(Settings(policies=(str(policy),), drop_privileges=False), outputs, report=print)
    agent.start()
    Path(PLAIN).read_text()
    records: list[tuple[str, bytes]] = []
    while not records:
        records = agent.life.engine.drain(1000)
    agent.stop()
    return len(records[0][1])


def measure() -> None:
    """Inside the guest."""
    figures: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        three, many = folder / "three", folder / "many"
        three.mkdir()
        many.mkdir()
        (three / "p.yaml").write_text(document("three", *THREE))
        for n in range(1000):
            rule = {"name": "data", "on": "open", "match": {"file.path": f"/srv/tenant-{n:04}/data/**"}, "action": "deny"}
            unless = {"unless": {"process.exe": f"/opt/tenant-{n:04}/bin/*"}}
            (many / f"p{n}.yaml").write_text(document(f"tenant-{n:04}", {**rule, **unless}))
        figures |= memory("three rules", three)
        figures |= memory("1,000 policies", many)
        figures["record of a plain open"] = Figure(record_bytes(folder), "bytes")
    for name, figure in figures.items():
        print(f"{name:36}{figure.value:10,.2f} {figure.unit}")
    results.keep("memory", figures)


def main() -> int:
    """Boot the guest; or, inside it, measure."""
    parser = argparse.ArgumentParser(description="The kernel's memory, and the length of a record.")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().inside:
        measure()
        return 0
    results.FOLDER.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "vmtest",
        "run",
        KERNEL,
        "--cpus",
        str(PROCESSORS),
        "--rwdir",
        str(results.FOLDER),
        "--timeout",
        "1800",
    ]
    command += ["--", "env", f"PYTHONPATH={results.ROOT / 'src'}:{results.ROOT}"]
    command += [sys.executable, str(Path(__file__).resolve()), "--inside"]
    return subprocess.run(command, cwd=results.ROOT, stdin=subprocess.DEVNULL, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

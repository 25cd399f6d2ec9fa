# SPDX-License-Identifier: Apache-2.0
"""The wheel in the guest: installed in an environment of its own, it denies, with every library and tool of the machine out of its reach.

`make installed` has made the environment before the guest boots; `make test` does that where no ARGS choose tests.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import yaml

from tests.kernel.cases import PLAYGROUND, ROOT, TRIGGER
from tests.kernel.harness import Playground

COMMAND = ROOT / ".build" / "installed" / "bin" / "bpfence"
FOLDER = PLAYGROUND / "installed"
SCRIPT = f"{TRIGGER} open {FOLDER}/secret; {TRIGGER} open {FOLDER}/public"
HIDDEN = ("libbpf.so.*", "libelf*", "libseccomp.so.*")
HIDE = "for path; do mount --bind /dev/null $path; done"
"""The machine's own libraries, each an empty file now. zlib stays: the machine's Python is linked with it."""


def hidden() -> list[str]:
    return [str(path) for pattern in HIDDEN for path in Path("/usr/lib/x86_64-linux-gnu").glob(pattern) if not path.is_symlink()]


def test_the_installed_wheel_denies(playground: Playground) -> None:
    """`playground` mounts what a guest needs. The command starts with an empty environment, in a mount namespace of its own."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in ("secret", "public"):
        (FOLDER / name).write_text(name)
    rule = {"name": "secret", "on": "open", "match": {"file.path": str(FOLDER / "secret")}, "action": "deny"}
    policy = {
        "apiVersion": "bpfence.io/v1alpha1", "kind": "SecurityPolicy", "metadata": {"name": "installed"},
        "spec": {"mode": "enforce", "rules": [rule]},
    }  # fmt: skip
    alerts = FOLDER / "alerts.jsonl"
    (FOLDER / "policy.yaml").write_text(yaml.safe_dump(policy))
    assert COMMAND.exists(), "run `make installed` first; `make test` without ARGS does"
    run = f"{COMMAND} exec -p {FOLDER}/policy.yaml --output jsonl:{alerts} -- /bin/sh -c {SCRIPT!r}"
    command = ["unshare", "--mount", "sh", "-ec", f"{HIDE}; exec env -i PATH=/usr/bin:/bin {run}", "hide", *hidden()]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["EPERM", "OK"], done.stderr
    records = [json.loads(line) for line in alerts.read_text().splitlines()]
    assert [(record["rule"], record["file"]["path"]) for record in records if record["kind"] == "alert"] == [
        ("secret", str(FOLDER / "secret"))
    ]

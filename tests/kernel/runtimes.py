# SPDX-License-Identifier: Apache-2.0
"""Docker with its containerd, images of a few programs, and bundles for bare runtimes in, what containers did out.

Used by tests/e2e/test_docker.py and test_containers.py. dockerd is that of the machine, or of the folder beside the guests' kernels, where
`.ci/run` unpacks it.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import json
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.kernel.harness import TRIGGER, outcome
from vmtest.kernels import cache_folder

GUARDED, PLAIN, PAUSE = (f"docker.io/library/{name}:1" for name in ("guarded", "plain", "pause"))
SECRET, PUBLIC = "/secret", "/public"
WAIT: Final = ("/bin/sleep", "100000")
CONTAINERD: Final = "/run/containerd/containerd.sock"
SECONDS: Final = 240.0


def dockerd() -> str | None:
    """Where Docker's daemon is."""
    cached = cache_folder().parent / "docker" / "dockerd"
    return shutil.which("dockerd") or (str(cached) if cached.exists() else None)


def missing(engine: str) -> str:
    """The first program that an engine needs and that is not here; "" where all are."""
    needed = {"containerd": ("containerd", "ctr", "runc"), "docker": ("containerd", "runc", "crun"), "podman": ("podman", "conmon", "crun")}
    gone = [name for name in needed[engine] if shutil.which(name) is None]
    return gone[0] if gone else "dockerd" if engine == "docker" and dockerd() is None else ""


# ---- images ----


def _tar(files: Mapping[str, bytes | str]) -> bytes:
    """An archive: of a name the bytes of a program, or where a link leads."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, held in files.items():
            entry = tarfile.TarInfo(name)
            if isinstance(held, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, held
                archive.addfile(entry)
            elif name.endswith("/"):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(entry)
            else:
                entry.size, entry.mode = len(held), 0o755
                archive.addfile(entry, io.BytesIO(held))
    return made.getvalue()


def images(path: Path, program: Path = TRIGGER) -> None:
    """Write the images, as `docker save` does, which every engine here reads. `program`: what is called /trigger in them."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
    applets = ("sh", "sleep", "mkdir", "ln", "cat", "kill", "mknod")
    folders = dict.fromkeys(("bin/", "tmp/", "mnt/", "run/", "etc/"), b"")
    layer = _tar(
        {**folders, "bin/busybox": busybox, "trigger": program.read_bytes(), "secret": b"secret", "public": b"public"}
        | {f"bin/{name}": "busybox" for name in applets}
    )
    config: dict[str, Any] = {
        "architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"], "Cmd": list(WAIT)},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }  # fmt: skip
    files: dict[str, bytes | str] = {"layer.tar": layer}
    listed = []
    for name in (GUARDED, PLAIN, PAUSE):
        config["config"]["Labels"] = {"of": name}  # each an image of its own
        file = f"{hashlib.sha256(json.dumps(config).encode()).hexdigest()}.json"
        files[file] = json.dumps(config).encode()
        listed.append({"Config": file, "RepoTags": [name], "Layers": ["layer.tar"]})
    path.write_bytes(_tar({**files, "manifest.json": json.dumps(listed).encode()}))


# ---- engines ----


class Wanted(NamedTuple):
    """A container. `mounts`: host path → its path; `hook`: False: by a runtime that knows of no hook; `pids`, `memory` (bytes), `cpu`
    (processors): limits, 0: none; `pid_host`: it has the host's process ids. By the CRI mounts, `privileged` and `pid_host` mean nothing,
    by Podman the last.
    """

    image: str
    command: Sequence[str]
    name: str = "one"
    privileged: bool = False
    mounts: Mapping[str, str] = {}
    hook: bool = True
    pids: int = 0
    memory: int = 0
    cpu: float = 0
    pid_host: bool = False


class Done(NamedTuple):
    """What became of a program in a container: its exit code and what it said, where the engine tells. 255 and more: it was not started."""

    code: int
    said: str


NOT_STARTED: Final = 255


class Daemon:
    """A process with a log, whose socket shows that it is ready."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-25:])

    def wait(self, path: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not answers(path):
            assert self.process.poll() is None, self.tail()
            assert time.monotonic() < deadline, self.tail()
            time.sleep(0.1)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def answers(path: str) -> bool:
    """Whether somebody listens at a unix socket."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def start_containerd(folder: Path, *options: str) -> Daemon:
    """containerd, ready."""
    made = Daemon(["containerd", *options], folder / "containerd.log")
    made.wait(CONTAINERD)
    return made


def start_docker(folder: Path, *options: str) -> Daemon:
    """Docker's daemon beside the containerd that runs, ready."""
    alone = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false", *options]
    command = [str(dockerd()), "--containerd", CONTAINERD, *alone]
    made = Daemon(command, folder / "dockerd.log")
    made.wait(Docker.SOCKET)
    return made


# ---- Docker ----


class _Http(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(Docker.SOCKET)


class Docker:
    """Containers by Docker's API."""

    SOCKET: Final = "/run/docker.sock"

    def __init__(self, archive: Path, without: str = "runc") -> None:
        """`without`: the name of a runtime that knows of no hook."""
        self._without = without
        assert self._ask("POST", "/images/load", archive.read_bytes())[0] == 200

    def _ask(self, method: str, path: str, given: object = None) -> tuple[int, bytes]:
        body = given if isinstance(given, bytes) else json.dumps(given).encode() if given is not None else None
        kind = "application/x-tar" if isinstance(given, bytes) else "application/json"
        with closing(_Http("localhost")) as connection:
            connection.request(method, path, body, {"Content-Type": kind} if body is not None else {})
            with connection.getresponse() as answer:
                return answer.status, answer.read()

    def _get(self, method: str, path: str, given: object = None) -> Any:
        status, body = self._ask(method, path, given)
        assert status < 300, (path, status, body)
        return json.loads(body) if body else None

    def _create(self, wanted: Wanted) -> str:
        host: dict[str, Any] = {"NetworkMode": "none", "LogConfig": {"Type": "none"}, "Privileged": wanted.privileged}
        host["Binds"] = [f"{outside}:{inside}" for outside, inside in wanted.mounts.items()]
        host |= {"PidsLimit": wanted.pids or None, "Memory": wanted.memory, "NanoCpus": int(wanted.cpu * 1e9)}
        if not wanted.hook:
            host["Runtime"] = self._without
        if wanted.pid_host:
            host["PidMode"] = "host"
        asked = {"Image": wanted.image, "Cmd": list(wanted.command), "HostConfig": host, "Labels": {"tier": "front"}}
        return str(self._get("POST", f"/containers/create?name={wanted.name}", asked)["Id"])

    def start(self, wanted: Wanted) -> str:
        identity = self._create(wanted)
        self._get("POST", f"/containers/{identity}/start")
        return identity

    def run(self, wanted: Wanted) -> Done:
        identity = self._create(wanted)
        try:
            status, body = self._ask("POST", f"/containers/{identity}/start")
            if status >= 300:
                return Done(NOT_STARTED, body.decode())
            return Done(self._get("POST", f"/containers/{identity}/wait")["StatusCode"], "")
        finally:
            self.remove(identity)

    def execute(self, identity: str, command: Sequence[str]) -> Done:
        asked = {"Cmd": list(command), "AttachStdout": True, "AttachStderr": True, "Tty": True}
        one = self._get("POST", f"/containers/{identity}/exec", asked)["Id"]
        status, said = self._ask("POST", f"/exec/{one}/start", {"Detach": False, "Tty": True})
        if status >= 300:
            return Done(NOT_STARTED, said.decode())
        return Done(self._get("GET", f"/exec/{one}/json")["ExitCode"], said.decode(errors="replace").replace("\r", ""))

    def remove(self, identity: str) -> None:
        self._get("DELETE", f"/containers/{identity}?force=true")

    def close(self) -> None:
        """Nothing is shared."""


# ---- without an engine ----


class Bundle:
    """A container whose first act is to open a file, or another `act` of the trigger, which may then write to /proc/sys."""

    def __init__(self, folder: Path, runtime: str, file: Path, identity: str, act: Sequence[str] = (), **annotations: str) -> None:
        self._folder, self._identity = folder, identity
        root = folder / "root"
        (root / file.parent.relative_to("/")).mkdir(parents=True)
        (root / file.relative_to("/")).write_text("x")
        shutil.copy(TRIGGER, root / "trigger")
        spec = subprocess.run([runtime, "spec", "--bundle", str(folder)], capture_output=True, text=True, check=False)
        assert spec.returncode == 0, spec.stderr
        config = json.loads((folder / "config.json").read_text())
        config["root"] = {"path": str(root), "readonly": True}
        config["process"]["terminal"] = False
        config["process"]["args"] = ["/trigger", *(act or ("open", str(file)))]
        if act:
            config["linux"].pop("readonlyPaths", None)
        config["linux"].pop("resources", None)
        config["linux"].pop("seccomp", None)
        config["annotations"] = annotations
        self._config = config
        self._write()

    def _write(self) -> None:
        self.path.mkdir(parents=True)
        self._config["linux"]["cgroupsPath"] = f"/docker/{self._identity}"
        (self.path / "config.json").write_text(json.dumps(self._config))

    @property
    def path(self) -> Path:
        """Where containerd's shims have it."""
        return self._folder / "io.containerd.runtime.v2.task/k8s.io" / self._identity

    def become(self, identity: str) -> None:
        """Be another container of the same kind; nothing of the one before is left."""
        shutil.rmtree(self.path)
        self._identity = identity
        self._write()

    def start(self, runtime: str) -> str:
        """What became of the act."""
        ran = subprocess.run(
            [runtime, "--root", str(self._folder / "state"), "run", "--bundle", str(self.path), self._identity],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode in (0, errno.EPERM), ran.stderr
        assert not ran.stderr, ran.stderr  # the runtime says nothing: it is the act that ended so
        return outcome(ran.returncode, ran.stdout, ran.stderr).result

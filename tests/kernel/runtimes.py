# SPDX-License-Identifier: Apache-2.0
"""Real container engines in a guest and images of a few programs in, what containers did out.

Used by test_runtimes.py: containerd by its CRI, another one with NRI, Docker, Podman. Everything is where the engines have it by default,
but for the second containerd, and on memory. CRI is spoken by hand, one call a connection: to import grpc and protobuf takes an emulated
machine longer than ten containers. dockerd is that of the machine, or of the folder beside the guests' kernels, where `.ci/run` unpacks it.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Final, NamedTuple, Protocol

from bpfence.workloads.install import FOLDER, NRI_PLUGIN
from tests.kernel.harness import TRIGGER, outcome
from tools.fetch_containerd import with_nri
from vmtest.kernels import cache_folder

GUARDED, PLAIN, PAUSE = (f"docker.io/library/{name}:1" for name in ("guarded", "plain", "pause"))
SECRET, PUBLIC, LABELLED = "/secret", "/public", "/labelled"
WAIT: Final = ("/bin/sleep", "100000")
NO_HOOKS: Final = "/run/no-hooks"
WRAPPER: Final = FOLDER / "containerd-runtime"
CONTAINERD: Final = "/run/containerd/containerd.sock"
NRI: Final = "/run/nri/nri.sock"
WITH_NRI: Final = "/run/with-nri"
"""What a containerd that has NRI keeps beside the other one, and where it listens."""
CONTAINERD_TOML, CONTAINERS_CONF = Path("/etc/containerd/config.toml"), Path("/etc/containers/containers.conf")
ROOTS: Final = ("/var/lib/containerd", "/var/lib/docker", "/var/lib/containers", WITH_NRI)
SECONDS: Final = 240.0

CONTAINERD_BEGINS: Final = f"""
version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp"]
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
disable_apparmor = true
restrict_oom_score_adj = true
"""
CONTAINERD_CONFIG: Final = f"""
{CONTAINERD_BEGINS}
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{WRAPPER}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.without]
runtime_type = "io.containerd.runc.v2"
"""
NRI_CONFIG: Final = f"""
{CONTAINERD_BEGINS}
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.nri.v1.nri"]
disable = false
socket_path = "{NRI}"
plugin_registration_timeout = "200s"
plugin_request_timeout = "200s"
"""
BESIDE: Final = f"""
root = "{WITH_NRI}/root"
state = "{WITH_NRI}/state"
grpc.address = "{WITH_NRI}/containerd.sock"
"""
PODMAN_CONFIG: Final = """
[containers]
netns = "none"
log_driver = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
"""


def dockerd() -> str | None:
    """Where Docker's daemon is."""
    cached = cache_folder().parent / "docker" / "dockerd"
    return shutil.which("dockerd") or (str(cached) if cached.exists() else None)


def missing(engine: str) -> str:
    """The first program that an engine needs and that is not here; "" where all are."""
    needed = {
        "containerd": ("containerd", "ctr", "runc"),
        "docker": ("containerd", "runc", "crun"),
        "podman": ("podman", "conmon", "crun"),
        "nri": ("runc",),
    }
    gone = [name for name in needed[engine] if shutil.which(name) is None]
    if engine == "nri" and not with_nri():
        gone.append("a containerd with NRI")
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
        {**folders, "bin/busybox": busybox, "trigger": program.read_bytes(), "secret": b"", "public": b"", "labelled": b""}
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


class Engine(Protocol):
    """Starts containers."""

    def run(self, wanted: Wanted) -> Done:
        """A container until its program ends; nothing is left of it."""

    def start(self, wanted: Wanted) -> str:
        """A container that stays; its id."""

    def execute(self, identity: str, command: Sequence[str]) -> Done:
        """Another program in one."""

    def remove(self, identity: str) -> None:
        """It and all that it was."""

    def close(self) -> None:
        """What containers share, too; there are none any more."""


NOT_STARTED: Final = 255


class Daemon:
    """A process with a log, whose socket shows that it is ready."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment)

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


def prepare(folder: Path) -> Path:
    """What the engines need of a guest: modules, folders on memory, settings. The archive of the images."""
    subprocess.run(["modprobe", "-a", "overlay"], check=False)
    for root in ROOTS:
        Path(root).mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", root], check=True)
    Path(NO_HOOKS).mkdir()
    archive = folder / "images.tar"
    images(archive)
    for path, text in ((CONTAINERD_TOML, CONTAINERD_CONFIG), (CONTAINERS_CONF, PODMAN_CONFIG)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return archive


def clean() -> None:
    """What `prepare` and the engines have put where they have it is gone again; none of them runs any more."""
    for root in ROOTS:
        subprocess.run(["umount", "--lazy", root], check=False)
    for path in (CONTAINERD_TOML, CONTAINERS_CONF):
        path.unlink(missing_ok=True)
    Path(NO_HOOKS).rmdir()


def start_containerd(folder: Path, *options: str) -> Daemon:
    """containerd, ready."""
    made = Daemon(["containerd", *options], folder / "containerd.log")
    made.wait(CONTAINERD)
    return made


def start_with_nri(folder: Path, *, beside: bool = False) -> Daemon:
    """A containerd with NRI, ready. It starts the plugins that are installed. `beside`: where it does not meet another containerd."""
    programs, settings = with_nri(), folder / "with-nri.toml"
    settings.write_text((BESIDE if beside else "") + NRI_CONFIG)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"}  # the shim beside it
    made = Daemon([f"{programs}/containerd", "--config", str(settings)], folder / "with-nri.log", environment)
    made.wait(Nri.SOCKET if beside else CONTAINERD)
    return made


def start_docker(folder: Path, *options: str) -> Daemon:
    """Docker's daemon beside the containerd that runs, ready."""
    alone = ["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-masq=false", *options]
    command = [str(dockerd()), "--containerd", CONTAINERD, *alone]
    made = Daemon(command, folder / "dockerd.log")
    made.wait(Docker.SOCKET)
    return made


# ---- containerd ----


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def encoded(message: Mapping[int, Any]) -> bytes:
    """A protobuf message: of a field's number a number, a text, a message; or a list of these."""
    out = b""
    for number, value in message.items():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(one, int):
                out += _varint(number << 3) + _varint(one)
            else:
                data = one.encode() if isinstance(one, str) else encoded(one)
                out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def decoded(data: bytes) -> dict[int, list[Any]]:
    """The fields of a message by their numbers: numbers and bytes."""
    found: dict[int, list[Any]] = {}
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = number()
        value: int | bytes = number()
        if key & 7 == 2:
            value, at = data[at : at + value], at + value
        found.setdefault(key >> 3, []).append(value)
    return found


class CriError(AssertionError):
    """A call that was refused."""


class Cri:
    """Containers by the CRI, those of each of containerd's runtimes in a pod; its runtime `without` knows of no hook."""

    SOCKET: ClassVar = CONTAINERD
    PODS: ClassVar = 0
    """Where the numbers of pods begin."""

    def __init__(self, archive: Path, daemon: Daemon) -> None:
        self._pods: dict[str, tuple[str, Mapping[int, Any]]] = {}
        self._count = 0
        self._daemon = daemon
        self.uid = ""
        """Of the pods that are made from now on; "": each has one of its own."""
        command = ["ctr", "-a", self.SOCKET, "-n", "k8s.io", "images", "import", str(archive)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def call(self, method: str, message: Mapping[int, Any]) -> dict[int, list[Any]]:
        """One call (RFC 9113; gRPC over HTTP/2). CriError where there is no answer, with the log's end."""
        body = encoded(message)
        headers = b"\x83\x86"  # POST, http
        for name, value in (
            (":path", f"/runtime.v1.RuntimeService/{method}"),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ):
            headers += b"\0" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))
        framed = b"\0" + len(body).to_bytes(4, "big") + body
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(SECONDS)
            connection.connect(self.SOCKET)
            connection.sendall(
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"") + _frame(1, 4, 1, headers) + _frame(0, 1, 1, framed)
            )
            answer = _answered(connection)
        if len(answer) < 5:
            raise CriError(f"{method}: {self._daemon.tail()}")
        return decoded(answer[5:])

    def _runtime(self, wanted: Wanted) -> str:
        """As containerd's settings call it; "" for the usual one."""
        return "" if wanted.hook else "without"

    def _pod(self, runtime: str) -> tuple[str, Mapping[int, Any]]:
        if runtime not in self._pods:
            number = self.PODS + len(self._pods)
            uid = self.uid or f"{number:08x}-0000-4000-8000-000000000000"
            config: dict[int, Any] = {
                1: {1: f"pod{number}", 2: uid, 3: "shop"},
                6: [{1: "tier", 2: "front"}],
                8: {1: f"/kubepods/besteffort/pod{uid}", 2: {1: {1: 2}}},  # the host's network
            }
            answer = self.call("RunPodSandbox", {1: config, **({2: runtime} if runtime else {})})
            self._pods[runtime] = answer[1][0].decode(), config
        return self._pods[runtime]

    def start(self, wanted: Wanted) -> str:
        pod, config = self._pod(self._runtime(wanted))
        self._count += 1
        resources: dict[int, Any] = {4: wanted.memory} if wanted.memory else {}
        if wanted.cpu:
            resources |= {1: 100_000, 2: int(wanted.cpu * 100_000)}
        if wanted.pids:
            resources[9] = [{1: "pids.max", 2: str(wanted.pids)}]
        asked = {1: {1: wanted.name, 2: self._count}, 2: {1: wanted.image}, 3: list(wanted.command), 15: {1: resources}}
        identity = str(self.call("CreateContainer", {1: pod, 2: asked, 3: config})[1][0].decode())
        try:
            self.call("StartContainer", {1: identity})
        except CriError:
            self.remove(identity)
            raise
        return identity

    def run(self, wanted: Wanted) -> Done:
        try:
            identity = self.start(wanted)
        except CriError as error:
            return Done(NOT_STARTED, str(error))
        deadline = time.monotonic() + SECONDS
        while True:
            status = decoded(self.call("ContainerStatus", {1: identity})[1][0])
            if status[3][0] == 2:  # exited
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        self.remove(identity)
        return Done(status.get(7, [0])[0], "")

    def execute(self, identity: str, command: Sequence[str]) -> Done:
        try:
            answer = self.call("ExecSync", {1: identity, 2: list(command), 3: int(SECONDS)})
        except CriError as error:
            return Done(NOT_STARTED, str(error))
        return Done(answer.get(3, [0])[0], b"".join(answer.get(1, []) + answer.get(2, [])).decode(errors="replace"))

    def remove(self, identity: str) -> None:
        self.call("RemoveContainer", {1: identity})

    def close(self) -> None:
        for pod, _ in self._pods.values():
            self.call("StopPodSandbox", {1: pod})  # and its containers
            self.call("RemovePodSandbox", {1: pod})
        self._pods = {}


class Nri(Cri):
    """Containers of a containerd that asks plugins of NRI. It asks them of every container: those without the hook are made while the
    plugin's file is away, as after `bpfence hook uninstall`."""

    SOCKET: ClassVar = f"{WITH_NRI}/containerd.sock"
    PODS: ClassVar = 100

    def _runtime(self, _: Wanted) -> str:
        return ""

    def start(self, wanted: Wanted) -> str:
        if wanted.hook:
            return super().start(wanted)
        away = NRI_PLUGIN.rename(NRI_PLUGIN.with_suffix(".away"))
        try:
            return super().start(wanted)
        finally:
            away.rename(NRI_PLUGIN)


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def _frames(connection: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    """Kind, flags and body of each frame that comes."""
    with connection.makefile("rb") as file:
        while head := file.read(9):
            yield head[3], head[4], file.read(int.from_bytes(head[:3], "big"))


def _answered(connection: socket.socket) -> bytes:
    """The data of the only stream."""
    answer = b""
    for kind, flags, body in _frames(connection):
        if kind == 0:
            answer += body
        elif kind in (4, 6) and not flags & 1:  # settings and pings are acknowledged
            connection.sendall(_frame(kind, 1, 0, body if kind == 6 else b""))
        if kind in (3, 7) or (kind in (0, 1) and flags & 1):  # the stream is reset, the connection taken away, all was said
            break
    return answer


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


# ---- Podman ----


class Podman:
    """Containers by the podman command, of the runtime that `runtime` names just then."""

    def __init__(self, archive: Path) -> None:
        self.runtime = "crun"
        assert self._podman("load", "-q", "-i", str(archive)).code == 0

    def _podman(self, *words: str) -> Done:
        ran = subprocess.run(
            ["podman", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False, timeout=SECONDS
        )
        return Done(ran.returncode, ran.stdout + ran.stderr)

    def _words(self, wanted: Wanted) -> list[str]:
        words = [f"--name={wanted.name}", "--label=tier=front", *(["--privileged"] if wanted.privileged else [])]
        words += [f"--volume={outside}:{inside}" for outside, inside in wanted.mounts.items()]
        limits = {"pids-limit": wanted.pids, "memory": wanted.memory, "cpus": wanted.cpu}
        return [*words, *(f"--{name}={most}" for name, most in limits.items() if most), wanted.image, *wanted.command]

    def _global(self, wanted: Wanted) -> list[str]:
        return [f"--runtime={self.runtime}", *([] if wanted.hook else [f"--hooks-dir={NO_HOOKS}"])]

    def run(self, wanted: Wanted) -> Done:
        done = self._podman(*self._global(wanted), "run", "--rm", *self._words(wanted))
        return Done(NOT_STARTED, done.said) if done.code in (125, 126, 127) else done

    def start(self, wanted: Wanted) -> str:
        done = self._podman(*self._global(wanted), "run", "--detach", *self._words(wanted))
        assert done.code == 0, done.said
        return done.said.strip().splitlines()[-1]

    def execute(self, identity: str, command: Sequence[str]) -> Done:
        return self._podman("exec", identity, *command)

    def remove(self, identity: str) -> None:
        done = self._podman("rm", "--force", "--time=0", identity)
        assert done.code == 0, done.said

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

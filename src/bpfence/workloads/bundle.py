# SPDX-License-Identifier: Apache-2.0
"""OCI bundles and the state that runtimes keep of containers in, containers out.

Called by `sources` for the containers that run, and by `hook` for one that is about to. Formats: config.json and the state of the OCI
runtime specification 1.0; state.json of runc; status of crun; bundles of containerd's shims. A folder of state is the runtime's own
(root's), a bundle may be anybody's: its values are texts, not facts. The cgroup comes from the kernel (`cgroups`).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final, TypeVar

import msgspec

from bpfence import names
from bpfence.patience import Patience
from bpfence.workloads.cgroups import MAX_ID, Tree
from bpfence.workloads.model import Container, Mount, Pod
from bpfence.workloads.texts import BadAnswerError, decode, digest, first, labels, moment, short

MAX_CONFIG: Final = 64 << 20  # what execve takes of an environment, each byte written as six
MAX_STATE: Final = 4 << 20
MAX_STORE: Final = 16 << 20
MAX_CONTAINERS: Final = 4096
SECONDS: Final = 1.0
"""How long one file may take: a bundle may lie on a file system of anybody's."""

STATES: Final = ("/run/runc", "/run/crun", "/run/containerd/runc/*", "/run/docker/runtime-runc/*", "/run/docker/runtime-crun/*")
"""Folders with a folder of state for each container, as runc and crun keep it."""
TASKS: Final = (
    "/run/containerd/io.containerd.runtime.v2.task/*",
    "/run/docker/containerd/daemon/io.containerd.runtime.v2.task/*",
)
"""Folders with a bundle for each container, as containerd's shims keep them; the last part is the namespace."""
_OF_RUNTIMES: Final = ("io.kubernetes.", "io.container.", "io.podman.", "nerdctl/")
"""Beginnings of annotations that are looked at: whoever makes a pod may give it any number of others."""
_CRI: Final = "io.kubernetes.cri."
_CRIO: Final = "io.kubernetes.cri-o."
_KUBERNETES: Final = "io.kubernetes."
_PODMAN_PRIVILEGED: Final = "io.podman.annotations.privileged"
_MANAGER: Final = "io.container.manager"
_CAPABILITIES: Final = names.TABLES["capability"].numbers
_PARTS: Final = frozenset({"bind", "rbind"})
_PROPAGATION: Final = ("rprivate", "private", "rslave", "slave", "rshared", "shared", "runbindable", "unbindable")
T = TypeVar("T")


class _Capabilities(msgspec.Struct):
    bounding: list[str] | None = None


class _Process(msgspec.Struct):
    capabilities: _Capabilities | None = None


class _Mount(msgspec.Struct):
    destination: str = ""
    source: str | None = None
    type: str | None = None
    options: list[str] | None = None


class _Linux(msgspec.Struct):
    cgroups_path: str | None = msgspec.field(name="cgroupsPath", default=None)
    masked: list[str] | None = msgspec.field(name="maskedPaths", default=None)


class Config(msgspec.Struct):
    """What is read of a bundle's config.json."""

    process: _Process | None = None
    mounts: list[_Mount] | None = None
    linux: _Linux | None = None
    annotations: dict[str, str] | None = None


class _Inner(msgspec.Struct):
    labels: list[str] | None = None


class _Runc(msgspec.Struct):
    """state.json of runc."""

    id: str
    pid: int = msgspec.field(name="init_process_pid", default=0)
    started: int = msgspec.field(name="init_process_start", default=0)
    created: str | None = None
    cgroups: dict[str, str] | None = msgspec.field(name="cgroup_paths", default=None)
    config: _Inner | None = None


class _Crun(msgspec.Struct):
    """status of crun."""

    pid: int = 0
    started: int = msgspec.field(name="process-start-time", default=0)
    created: str | None = None
    cgroup: str | None = msgspec.field(name="cgroup-path", default=None)
    bundle: str | None = None


class _Stored(msgspec.Struct):
    """An entry of the containers.json of containers/storage. `metadata` is JSON of what made it."""

    id: str = ""
    image: str | None = None
    metadata: str | None = None


class _Metadata(msgspec.Struct):
    name: str | None = None
    image: str | None = msgspec.field(name="image-name", default=None)
    image_id: str | None = msgspec.field(name="image-id", default=None)


class _DockerConfig(msgspec.Struct):
    image: str | None = msgspec.field(name="Image", default=None)
    labels: dict[str, str] | None = msgspec.field(name="Labels", default=None)


class _Docker(msgspec.Struct):
    """config.v2.json of Docker, which is written before the container starts."""

    name: str | None = msgspec.field(name="Name", default=None)
    image_id: str | None = msgspec.field(name="Image", default=None)
    config: _DockerConfig | None = msgspec.field(name="Config", default=None)


class Running(msgspec.Struct, frozen=True):
    """What a runtime's own state says of a container. `started` of the process, in clock ticks since boot."""

    id: str
    pid: int
    bundle: str
    runtime: str = ""
    started: int = 0
    created: int = 0
    cgroup: str = ""


class Bundles:
    """Reads bundles and state. What cannot be read, or not in time, is left out.

    `states` and `tasks`: globs of folders as STATES and TASKS. `owner`: whose the files of state must be.
    """

    def __init__(
        self,
        tree: Tree,
        *,
        states: tuple[str, ...] = STATES,
        tasks: tuple[str, ...] = TASKS,
        owner: int = 0,
        patience: Patience | None = None,
    ) -> None:
        self._tree = tree
        self._states = states
        self._tasks = tasks
        self._owner = owner
        self._patience = patience or Patience(SECONDS)

    def snapshot(self) -> list[Container]:
        """The containers that run, by the state of their runtimes."""
        found: dict[str, Container] = {}
        for running in islice(self._running(), MAX_CONTAINERS):
            made = self.container(running)
            if made is not None:
                found.setdefault(made.cgroup, made)
        return list(found.values())

    def container(self, running: Running) -> Container | None:
        """The container of a state, as far as its bundle tells; None where its process is gone or has no cgroup of its own."""
        path = self._tree.path_of(running.pid, running.started)
        if path is None:
            return None
        config = self.config(running.bundle)
        told = running.cgroup or asked_cgroup(config)
        cgroup = self._tree.own(path, running.id, told)
        return None if cgroup is None else self.described(running, config, cgroup)

    def config(self, bundle: str) -> Config | None:
        """A bundle's config.json; None where it cannot be read."""
        data = self._read(f"{bundle}/config.json", MAX_CONFIG, bundle) if bundle.startswith("/") else None
        return _decoded(data, Config)

    def described(self, running: Running, config: Config | None, cgroup: str) -> Container:
        """What a bundle and what its runtime keeps beside it say of the container in a cgroup."""
        said = (config and config.annotations) or {}
        annotations = labels({name: value for name, value in said.items() if name.startswith(_OF_RUNTIMES)})
        made = Container(
            id=running.id[:MAX_ID],
            cgroup=cgroup,
            cgroup_id=self._tree.number(cgroup),
            runtime=runtime_of(running, annotations),
            privileged=is_privileged(config),
            mounts=config_mounts(config),
            started=running.created,
            pid=running.pid,
        )
        if made.runtime in ("containerd", "cri-o"):
            return annotated(made, annotations)
        if made.runtime == "podman":
            return self._by_podman(made, running.bundle, annotations)
        if made.runtime == "docker":
            return self._by_docker(made)
        return made

    def _by_podman(self, made: Container, bundle: str, annotations: Mapping[str, str]) -> Container:
        if annotations.get(_PODMAN_PRIVILEGED) == "TRUE":  # it has as many capabilities as Podman had, which may be fewer than there are
            made = msgspec.structs.replace(made, privileged=True)
        store = bundle.removesuffix("/userdata").rpartition("/")[0]
        data = self._read(f"{store}/containers.json", MAX_STORE, store)
        try:
            entries = decode(data or b"[]", list[_Stored])
            entry = next((entry for entry in entries if entry.id == made.id), _Stored())
            known = decode((entry.metadata or "{}").encode("utf-8", "replace"), _Metadata)
        except BadAnswerError:
            return made
        image_id = known.image_id or entry.image
        return msgspec.structs.replace(
            made, name=short(known.name), image=short(known.image), image_id=short(image_id), image_digest=digest(known.image)
        )

    def _by_docker(self, made: Container) -> Container:
        """By Docker's own file on it, which lies beside the file that it mounts as /etc/hostname."""
        name = f"/containers/{made.id}/"
        sources = (mount.source for mount in made.mounts if mount.destination in ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf"))
        folder = next((source.rpartition("/")[0] for source in sources if f"{source.rpartition('/')[0]}/".endswith(name)), None)
        known = _decoded(self._read(f"{folder}/config.v2.json", MAX_CONFIG, folder, self._owner), _Docker) if folder else None
        if known is None:
            return made
        config = known.config or _DockerConfig()
        return msgspec.structs.replace(
            made,
            name=short(known.name).removeprefix("/"),
            image=short(config.image),
            image_id=short(known.image_id),
            image_digest=digest(config.image),
            labels=None if known.config is None else labels(config.labels),
        )

    # ---- what runs ----

    def _running(self) -> Iterator[Running]:
        for pattern in self._states:
            for folder in self._folders(pattern):
                if running := self._state(folder):
                    yield running
        for pattern in self._tasks:
            for folder in self._folders(pattern):
                if running := self._task(folder):
                    yield running

    def _folders(self, pattern: str) -> list[str]:
        """The folders in the folders that a pattern names: `*` at its end stands for each of them."""
        return self._patience.call(lambda: _listed(pattern), pattern) or []

    def _state(self, folder: str) -> Running | None:
        identity = folder.rpartition("/")[2]
        data = self._read(f"{folder}/state.json", MAX_STATE, folder, self._owner)
        if data is not None and (runc := _decoded(data, _Runc)):
            told = [label.partition("=")[2] for label in (runc.config and runc.config.labels) or () if label.startswith("bundle=")]
            cgroup = (runc.cgroups or {}).get("", "")
            inner = cgroup.removeprefix(self._tree.root) if cgroup.startswith(f"{self._tree.root}/") else ""
            return Running(identity, runc.pid, (told or [""])[0], "runc", runc.started, moment(runc.created), inner)
        crun = _decoded(self._read(f"{folder}/status", MAX_STATE, folder, self._owner), _Crun)
        if crun is None:
            return None
        return Running(identity, crun.pid, crun.bundle or "", "crun", crun.started, moment(crun.created), crun.cgroup or "")

    def _task(self, folder: str) -> Running | None:
        word = (self._read(f"{folder}/init.pid", 16, folder, self._owner) or b"").strip()
        return Running(folder.rpartition("/")[2], int(word), folder) if word.isdigit() else None

    def _read(self, path: str, limit: int, whose: str, owner: int | None = None) -> bytes | None:
        return self._patience.call(lambda: read_regular(path, limit, owner), whose)


def read_regular(path: str, limit: int, owner: int | None = None) -> bytes:
    """The whole of a regular file that is no link. OSError where it is something else, longer, or not the owner's."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise OSError(None, f"{path}: not a regular file of at most {limit} bytes")
        if owner is not None and (status.st_uid != owner or status.st_mode & 0o002):
            raise OSError(None, f"{path}: not a file that user {owner} alone writes")
        parts, left = [], limit + 1
        while left > 0 and (part := os.read(descriptor, min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(descriptor)
    if left <= 0:
        raise OSError(None, f"{path}: longer than {limit} bytes")
    return b"".join(parts)


def _listed(pattern: str) -> list[str]:
    """Folders in a folder, or, of a pattern that ends in `/*`, in each of its folders."""
    folders = [pattern]
    if pattern.endswith("/*"):
        folders = _inner(pattern.removesuffix("/*"))
    return [path for folder in folders[:MAX_CONTAINERS] for path in _inner(folder)][:MAX_CONTAINERS]


def _inner(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in islice(entries, MAX_CONTAINERS) if entry.is_dir(follow_symlinks=False))
    except OSError:
        return []


def _decoded(data: bytes | None, kind: type[T]) -> T | None:
    try:
        return None if data is None else decode(data, kind)
    except BadAnswerError:
        return None


def asked_cgroup(config: Config | None) -> str:
    """Where the bundle asks for its cgroup; what is in systemd's form (slice:prefix:name) says no path."""
    told = (config and config.linux and config.linux.cgroups_path) or ""
    return told if told.startswith("/") else ""


def runtime_of(running: Running, annotations: Mapping[str, str]) -> str:
    """Who has asked for the container: by the folder of its bundle, which they choose, and the annotations that they alone set."""
    path = running.bundle
    if "/io.containerd.runtime.v2.task/" in path:
        return "docker" if path.rpartition("/")[0].endswith("/moby") else "containerd"
    if path.endswith("/userdata") and f"-containers/{running.id}/" in path:
        return "cri-o" if annotations.get(_MANAGER) != "libpod" and f"{_CRIO}ContainerType" in annotations else "podman"
    return running.runtime


def is_privileged(config: Config | None) -> bool | None:
    """Whether the container has every capability, and none of /proc and /sys is hidden from it: what `--privileged` does."""
    capabilities = config and config.process and config.process.capabilities
    if config is None or not capabilities:
        return None
    has = {name.upper() for name in islice(capabilities.bounding or (), len(_CAPABILITIES) * 2)}
    masked = (config.linux and config.linux.masked) or []
    return _has_everything(has) and not masked


def _has_everything(has: set[str]) -> bool:
    """Whether these are all capabilities that the kernel has: runtimes leave out those that it has not."""
    numbers = _CAPABILITIES
    last = max((numbers[name] for name in has if name in numbers), default=0)
    return last >= numbers["CAP_AUDIT_READ"] and all(name in has for name, number in numbers.items() if number <= last)


def config_mounts(config: Config | None) -> tuple[Mount, ...]:
    """The mounts that a bundle asks for."""
    return tuple(map(_mount, first((config and config.mounts) or ())))


def _mount(mount: _Mount) -> Mount:
    options = [option for option in islice(mount.options or (), 64) if len(option) < 64]
    propagation = next((option for option in options if option in _PROPAGATION), "")
    kind = short(mount.type) if not _PARTS & set(options) else "bind"
    return Mount(short(mount.source), short(mount.destination), kind, "ro" not in options, propagation)


def annotated(made: Container, annotations: Mapping[str, str]) -> Container:
    """A container with what the annotations of its CRI runtime say."""
    if made.runtime == "containerd":
        return _by_containerd(made, annotations)
    return _by_crio(made, annotations) if made.runtime == "cri-o" else made


def _by_containerd(made: Container, annotations: Mapping[str, str]) -> Container:
    def said(name: str) -> str:
        return annotations.get(_CRI + name, "")

    sandbox = said("container-type") == "sandbox"
    name = "" if sandbox else said("container-name") or annotations.get("nerdctl/name", "")
    pod = _pod(said("sandbox-name"), said("sandbox-namespace"), said("sandbox-uid"))
    image = said("image-name")
    return msgspec.structs.replace(made, name=name, image=image, image_digest=digest(image), sandbox=sandbox, pod=pod)


def _by_crio(made: Container, annotations: Mapping[str, str]) -> Container:
    sandbox = annotations.get(f"{_CRIO}ContainerType") == "sandbox"
    name = "" if sandbox else annotations.get(f"{_KUBERNETES}container.name") or annotations.get(f"{_CRIO}Name", "")
    inner = _json_labels(annotations.get(f"{_CRIO}Labels"))
    # CRI-O sets its own words on the sandbox alone: on a container they are annotations that whoever made the pod chose.
    own_name, own_namespace = (annotations.get(f"{_CRIO}{word}") if sandbox else None for word in ("KubeName", "Namespace"))
    pod = _pod(
        own_name or annotations.get(f"{_KUBERNETES}pod.name", ""),
        own_namespace or annotations.get(f"{_KUBERNETES}pod.namespace", ""),
        annotations.get(f"{_KUBERNETES}pod.uid") or (inner or {}).get(f"{_KUBERNETES}pod.uid", ""),
    )
    image = annotations.get(f"{_CRIO}ImageName") or annotations.get(f"{_CRIO}Image", "")
    return msgspec.structs.replace(
        made,
        name=name,
        image=image,
        image_id=annotations.get(f"{_CRIO}ImageRef", ""),
        image_digest=digest(annotations.get(f"{_CRIO}ImageRef")) or digest(image),
        labels=None if sandbox else inner,
        sandbox=sandbox,
        pod=pod,
    )


def _json_labels(text: str | None) -> dict[str, str] | None:
    """None where the text tells of none: it is missing, or no JSON."""
    try:
        return labels(decode(text.encode("utf-8", "replace"), dict[str, str])) if text else None
    except BadAnswerError:
        return None


def _pod(name: str, namespace: str, uid: str) -> Pod | None:
    return Pod(name, namespace, uid) if name else None

# SPDX-License-Identifier: Apache-2.0
"""A unix socket with Docker's API in, the containers behind it out. Podman's service speaks the same.

Called by `sources`. Requests and answers: Docker Engine API v1.24 and later (/containers/json, /containers/ID/json, /images/ID/json,
/events). The socket must be root's; what it says about containers is bounded, and their cgroups come from the kernel (`cgroups`).
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from typing import Final
from urllib.parse import quote

import msgspec

from bpfence.workloads.cgroups import MAX_ID, Tree, pod_uid
from bpfence.workloads.model import Container, Mount, Pod
from bpfence.workloads.texts import BadAnswerError, decode, digest, first, labels, moment, short

MAX_LIST: Final = 64 << 20
MAX_ANSWER: Final = 64 << 20
MAX_EVENT: Final = 256 << 10
MAX_CONTAINERS: Final = 4096
MAX_IMAGES: Final = 1024
SECONDS: Final = 5.0
"""How long one answer may be silent; in all it has twice that."""
IDLE_SECONDS: Final = 300.0
"""How long a stream of events may be silent before it is asked for anew: the other side may be gone without a word."""
_CHANGES: Final = ("create", "start", "die", "destroy", "rename", "pause", "unpause", "update", "restart", "stop", "kill", "remove", "init")
_ID: Final = re.compile(r"[0-9a-f]{12,64}")
_KUBERNETES: Final = "io.kubernetes."


class _Listed(msgspec.Struct):
    id: str = msgspec.field(name="Id")


class _State(msgspec.Struct):
    running: bool = msgspec.field(name="Running", default=False)
    pid: int = msgspec.field(name="Pid", default=0)
    started: str | None = msgspec.field(name="StartedAt", default=None)


class _Config(msgspec.Struct):
    image: str | None = msgspec.field(name="Image", default=None)
    labels: dict[str, str | None] | None = msgspec.field(name="Labels", default=None)


class _Host(msgspec.Struct):
    privileged: bool | None = msgspec.field(name="Privileged", default=None)


class _Mount(msgspec.Struct):
    type: str | None = msgspec.field(name="Type", default=None)
    source: str | None = msgspec.field(name="Source", default=None)
    destination: str | None = msgspec.field(name="Destination", default=None)
    writable: bool = msgspec.field(name="RW", default=True)
    propagation: str | None = msgspec.field(name="Propagation", default=None)


class _Inspected(msgspec.Struct):
    id: str = msgspec.field(name="Id")
    name: str | None = msgspec.field(name="Name", default=None)
    image: str | None = msgspec.field(name="Image", default=None)
    image_digest: str | None = msgspec.field(name="ImageDigest", default=None)
    state: _State | None = msgspec.field(name="State", default=None)
    config: _Config | None = msgspec.field(name="Config", default=None)
    host: _Host | None = msgspec.field(name="HostConfig", default=None)
    mounts: list[_Mount] | None = msgspec.field(name="Mounts", default=None)


class _Image(msgspec.Struct):
    digests: list[str] | None = msgspec.field(name="RepoDigests", default=None)


class _Actor(msgspec.Struct):
    id: str | None = msgspec.field(name="ID", default=None)


class _Event(msgspec.Struct):
    type: str | None = msgspec.field(name="Type", default=None)
    action: str | None = msgspec.field(name="Action", default=None)
    status: str | None = None
    actor: _Actor | None = msgspec.field(name="Actor", default=None)


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket that belongs to root, or to us."""

    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path
        self.wire: socket.socket | None = None  # http.client gives its own away with the answer

    def connect(self) -> None:
        """Connect, and see who listens."""
        self.sock = self.wire = connected(self._path, self.timeout or SECONDS)


def connected(path: str, seconds: float) -> socket.socket:
    """A connection to a unix socket on which root listens, or we ourselves. OSError."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(seconds)
        made.connect(path)
        uid = struct.unpack("3i", made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        if uid not in (0, os.geteuid()):
            raise PermissionError(None, f"{path}: user {uid} listens there, not root")
    except BaseException:
        made.close()
        raise
    return made


class Docker:
    """The containers that one engine runs. `runtime`: docker or podman. A BadAnswerError or OSError says that it cannot be asked."""

    def __init__(self, tree: Tree, path: str, runtime: str, seconds: float = SECONDS) -> None:
        self._tree = tree
        self._path = path
        self._seconds = seconds
        self._runtime = runtime
        self._digests: OrderedDict[str, str] = OrderedDict()
        self._stream: _Connection | None = None
        self._stopped = threading.Event()

    def snapshot(self) -> list[Container]:
        """All containers that run now."""
        listed = decode(self._get("/containers/json", MAX_LIST), list[_Listed])
        found = []
        for entry in islice(listed, MAX_CONTAINERS):
            made = self.container(entry.id)
            if made is not None:
                found.append(made)
        return found

    def container(self, identity: str) -> Container | None:
        """One container; None where it does not run, or has no cgroup of its own."""
        if not _ID.fullmatch(identity):
            return None
        try:
            known = decode(self._get(f"/containers/{identity}/json", MAX_ANSWER), _Inspected)
        except BadAnswerError:
            return None
        state = known.state or _State()
        path = self._tree.path_of(state.pid) if state.running else None
        cgroup = self._tree.own(path, known.id) if path is not None and _ID.fullmatch(known.id) else None
        return None if cgroup is None else self._described(known, state, cgroup)

    def _described(self, known: _Inspected, state: _State, cgroup: str) -> Container:
        config = known.config or _Config()
        own = labels(config.labels)
        pod = _pod(own, cgroup)
        return Container(
            id=known.id[:MAX_ID],
            cgroup=cgroup,
            cgroup_id=self._tree.number(cgroup),
            name=short(known.name).removeprefix("/") if pod is None else own.get(f"{_KUBERNETES}container.name", ""),
            image=short(config.image),
            image_digest=digest(known.image_digest) or digest(config.image) or self._digest(known.image or ""),
            image_id=short(known.image),
            runtime=self._runtime,
            labels=None if known.config is None else own,
            privileged=None if known.host is None else known.host.privileged,
            mounts=tuple(map(_mount, first(known.mounts))),
            started=moment(state.started),
            pid=state.pid,
            sandbox=pod is not None and own.get(f"{_KUBERNETES}docker.type") == "podsandbox",
            pod=pod,
        )

    def _digest(self, image: str) -> str:
        if not re.fullmatch(r"(?:sha256:)?[0-9a-f]{64}", image):
            return ""
        known = self._digests.get(image)
        if known is None:
            try:
                digests = decode(self._get(f"/images/{quote(image)}/json", MAX_ANSWER), _Image).digests
            except BadAnswerError:
                return ""
            known = self._digests[image] = digest((digests or [""])[0])
            if len(self._digests) > MAX_IMAGES:
                self._digests.popitem(last=False)
        return known

    def _get(self, path: str, limit: int) -> bytes:
        """The body of an answer; BadAnswerError where it is none, or too long."""
        connection = _Connection(self._path, self._seconds)
        late = threading.Timer(self._seconds * 2, _cut, (connection,))  # a trickle of bytes outlasts every time limit of a socket
        late.daemon = True
        try:
            late.start()
            connection.request("GET", path)
            answer = connection.getresponse()
            data = answer.read(limit + 1)
        except (http.client.HTTPException, ValueError) as error:
            raise BadAnswerError(f"{self._path}: {type(error).__name__}") from None
        finally:
            late.cancel()
            connection.close()
        if answer.status != http.client.OK or len(data) > limit:
            raise BadAnswerError(f"{self._path}: {answer.status} with {len(data)} bytes")
        return data

    def watch(self, changed: Callable[[str], None]) -> None:
        """Calls with the id of each container about which something has happened, until the stream ends, nothing is said for a while, or
        `stop` is called. "" at first: the stream is there, and a snapshot taken from now on misses nothing. OSError, BadAnswerError."""
        connection = self._stream = _Connection(self._path, IDLE_SECONDS)
        try:
            filters = quote('{"type":["container"]}')
            connection.connect()
            wire = connection.sock
            wire.settimeout(self._seconds)
            connection.request("GET", f"/events?filters={filters}")
            if self._runtime == "docker":  # Podman's service sends its headers with the first event
                answer = connection.getresponse()
            changed("")
            if self._runtime != "docker":
                wire.settimeout(IDLE_SECONDS)
                answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise BadAnswerError(f"{self._path}: {answer.status} for /events")
            wire.settimeout(IDLE_SECONDS)
            while not self._stopped.is_set() and (line := answer.readline(MAX_EVENT)):
                if len(line) >= MAX_EVENT:
                    raise BadAnswerError(f"{self._path}: an event of more than {MAX_EVENT} bytes")
                if line.strip() and (identity := _about(line)):
                    changed(identity)
        except TimeoutError:
            pass
        except (http.client.HTTPException, ValueError) as error:
            if not self._stopped.is_set():
                raise BadAnswerError(f"{self._path}: {type(error).__name__}") from None
        finally:
            self._stream = None
            connection.close()

    def stop(self) -> None:
        """End `watch`, for good."""
        self._stopped.set()
        stream = self._stream
        if stream is not None:
            _cut(stream)


def _cut(connection: _Connection) -> None:
    if connection.wire is not None:
        with contextlib.suppress(OSError):
            connection.wire.shutdown(socket.SHUT_RDWR)


def _about(line: bytes) -> str:
    """The id of the container that an event is about; "" where nothing is about one that we look at."""
    event = decode(line, _Event)
    action = (event.action or event.status or "").partition(":")[0]
    identity = (event.actor and event.actor.id) or ""
    return identity if event.type in (None, "container") and action in _CHANGES and _ID.fullmatch(identity) else ""


def _mount(mount: _Mount) -> Mount:
    return Mount(short(mount.source), short(mount.destination), short(mount.type), mount.writable, short(mount.propagation))


def _pod(own: dict[str, str], cgroup: str) -> Pod | None:
    """The pod that labels name. An image has labels, too: they count where the cgroup is that of the pod they name."""
    uid = own.get(f"{_KUBERNETES}pod.uid", "")
    if not uid or uid.replace("-", "") != pod_uid(cgroup).replace("-", ""):
        return None
    return Pod(own.get(f"{_KUBERNETES}pod.name", ""), own.get(f"{_KUBERNETES}pod.namespace", ""), uid)

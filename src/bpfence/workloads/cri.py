# SPDX-License-Identifier: Apache-2.0
"""A unix socket of containerd's or CRI-O's Container Runtime Interface in, the containers and pods behind it out.

Called by `sources`. Needs grpcio and protobuf (`bpfence[cri]`), which are imported with the first question: without them, and where a
thread must not be begun yet, everything else works. The messages are a table here: of CRI v1 what is asked for, by the interface's numbers;
all else in an answer is passed over. The socket must be root's, answers are bounded, and cgroups come from the kernel (`cgroups`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from itertools import islice
from typing import Any, Final

import msgspec

from bpfence.errors import KernelError
from bpfence.rpc.messages import Fields, classes
from bpfence.workloads.bundle import Config, asked_cgroup, config_mounts, is_privileged
from bpfence.workloads.cgroups import MAX_ID, Tree
from bpfence.workloads.docker import connected
from bpfence.workloads.model import Container, Mount, Pod
from bpfence.workloads.texts import BadAnswerError, decode, digest, first, labels, short

SERVICE: Final = "runtime.v1.RuntimeService"
SECONDS: Final = 5.0
MAX_ANSWER: Final = 16 << 20
MAX_CONTAINERS: Final = 4096
RUNNING: Final = 1
"""CONTAINER_RUNNING; of sandboxes SANDBOX_READY is 0."""
PROPAGATION: Final = ("rprivate", "rslave", "rshared")
_KUBELET: Final = "io.kubernetes."

_METADATA: Final = (("name", 1, "string"),)
MESSAGES: Final[dict[str, Fields]] = {
    "Empty": (),
    "State": (("state", 1, "int32"),),
    "ContainerFilter": (("state", 2, "State"),),
    "ListContainersRequest": (("filter", 1, "ContainerFilter"),),
    "ContainerMetadata": _METADATA,
    "ImageSpec": (("image", 1, "string"), ("user_specified_image", 18, "string")),
    "Container": (("id", 1, "string"), ("pod_sandbox_id", 2, "string"), ("state", 6, "int32")),
    "ListContainersResponse": (("containers", 1, "*Container"),),
    "ContainerStatusRequest": (("container_id", 1, "string"), ("verbose", 2, "bool")),
    "Mount": (("container_path", 1, "string"), ("host_path", 2, "string"), ("readonly", 3, "bool"), ("propagation", 5, "int32")),
    "ContainerStatus": (
        ("id", 1, "string"), ("metadata", 2, "ContainerMetadata"), ("state", 3, "int32"), ("started_at", 5, "int64"),
        ("image", 8, "ImageSpec"), ("image_ref", 9, "string"), ("labels", 12, "map"), ("mounts", 14, "*Mount"), ("image_id", 17, "string"),
    ),
    "ContainerStatusResponse": (("status", 1, "ContainerStatus"), ("info", 2, "map")),
    "ListPodSandboxRequest": (("filter", 1, "ContainerFilter"),),
    "PodSandboxMetadata": (("name", 1, "string"), ("uid", 2, "string"), ("namespace", 3, "string")),
    "PodSandbox": (("id", 1, "string"), ("metadata", 2, "PodSandboxMetadata"), ("state", 3, "int32"), ("labels", 5, "map")),
    "ListPodSandboxResponse": (("items", 1, "*PodSandbox"),),
    "PodSandboxStatusRequest": (("pod_sandbox_id", 1, "string"), ("verbose", 2, "bool")),
    "PodSandboxStatus": (("id", 1, "string"), ("created_at", 4, "int64")),
    "PodSandboxStatusResponse": (("status", 1, "PodSandboxStatus"), ("info", 2, "map")),
    "ContainerEventResponse": (("container_id", 1, "string"),),
}  # fmt: skip
"""Message → fields (`rpc.messages.Fields`). Enumerations are int32, which is the same on the wire."""
METHODS: Final = {
    "ListContainers": ("ListContainersRequest", "ListContainersResponse"),
    "ContainerStatus": ("ContainerStatusRequest", "ContainerStatusResponse"),
    "ListPodSandbox": ("ListPodSandboxRequest", "ListPodSandboxResponse"),
    "PodSandboxStatus": ("PodSandboxStatusRequest", "PodSandboxStatusResponse"),
    "GetContainerEvents": ("Empty", "ContainerEventResponse"),
}


class _Info(msgspec.Struct):
    """The verbose information of containerd and CRI-O: JSON under the key `info`."""

    pid: int = 0
    raw_spec: msgspec.Raw = msgspec.field(name="runtimeSpec", default=msgspec.Raw(b"null"))
    privileged: bool | None = None

    @property
    def spec(self) -> Config | None:
        """The OCI configuration; None where it makes no sense."""
        try:
            return decode(bytes(self.raw_spec), Config | None)  # type: ignore[arg-type]  # msgspec takes unions
        except BadAnswerError:
            return None


@lru_cache(maxsize=1)
def messages() -> dict[str, Any]:
    """The classes of the messages. BadAnswerError where protobuf is not installed."""
    try:
        return classes("runtime.v1", MESSAGES)
    except KernelError:
        raise BadAnswerError("needs grpcio and protobuf: pip install 'bpfence[cri]'") from None


class Cri:
    """The containers of one CRI runtime, pause containers among them. A BadAnswerError or OSError says that it cannot be asked."""

    def __init__(self, tree: Tree, path: str, runtime: str, seconds: float = SECONDS) -> None:
        self._tree = tree
        self._path = path
        self._runtime = runtime
        self._seconds = seconds
        self._channel: Any = None
        self._lock = threading.Lock()
        self._stream: Any = None
        self._stopped = threading.Event()
        self._known: dict[str, Container] = {}

    def snapshot(self) -> list[Container]:
        """All containers that run now, each with its pod."""
        ready = {"filter": {"state": {"state": 0}}}
        pods = {item.id: item for item in islice(self._ask("ListPodSandbox", ready).items, MAX_CONTAINERS)}
        running = {"filter": {"state": {"state": RUNNING}}}
        listed = self._ask("ListContainers", running).containers
        now: dict[str, Container] = {}
        for identity, item in pods.items():
            self._add(now, identity, partial(self._sandbox, item))
        for item in islice(listed, MAX_CONTAINERS):
            pod = pods.get(item.pod_sandbox_id)
            self._add(now, item.id, partial(self._container, item.id, _pod(pod) if pod is not None else None))
        self._known = now
        return list(now.values())

    def _add(self, now: dict[str, Container], identity: str, make: Callable[[], Container | None]) -> None:
        """One container. What is known of one that still has its cgroup does not change: it is asked for once."""
        if not identity or len(identity) > MAX_ID:
            return
        known = self._known.get(identity)
        if known is None or not known.cgroup_id or self._tree.number(known.cgroup) != known.cgroup_id:
            try:
                known = make()
            except BadAnswerError:
                return  # it has ended meanwhile, or what it says makes no sense: others are not to blame
        if known is not None:
            now[identity] = known

    def _container(self, identity: str, pod: Pod | None) -> Container | None:
        answer = self._ask("ContainerStatus", {"container_id": identity, "verbose": True})
        status, info = answer.status, _info(answer)
        spec = info.spec
        cgroup = self._cgroup(identity, info.pid, spec)
        if cgroup is None or status.state != RUNNING:
            return None
        image = status.image.user_specified_image or status.image.image
        return Container(
            id=identity,
            cgroup=cgroup,
            cgroup_id=self._tree.number(cgroup),
            name=short(status.metadata.name),
            image=short(image),
            image_digest=digest(status.image_ref) or digest(image),
            image_id=short(status.image_id or status.image_ref),
            runtime=self._runtime,
            labels=labels(dict(islice(status.labels.items(), 1 << 16))),
            privileged=is_privileged(spec) if info.privileged is None else info.privileged,
            mounts=tuple(map(_mount, first(status.mounts))) or config_mounts(spec),
            started=max(status.started_at, 0),
            pid=info.pid,
            pod=pod,
        )

    def _sandbox(self, item: Any) -> Container | None:
        answer = self._ask("PodSandboxStatus", {"pod_sandbox_id": item.id, "verbose": True})
        info = _info(answer)
        spec = info.spec
        cgroup = self._cgroup(item.id, info.pid, spec)
        if cgroup is None:
            return None
        return Container(
            id=item.id,
            cgroup=cgroup,
            cgroup_id=self._tree.number(cgroup),
            runtime=self._runtime,
            privileged=is_privileged(spec),
            mounts=config_mounts(spec),
            started=max(answer.status.created_at, 0),
            pid=info.pid,
            sandbox=True,
            pod=_pod(item),
        )

    def _cgroup(self, identity: str, pid: int, spec: Config | None) -> str | None:
        path = self._tree.path_of(pid)
        return None if path is None else self._tree.own(path, identity, asked_cgroup(spec))

    # ---- gRPC ----

    def _ask(self, method: str, given: dict[str, Any]) -> Any:
        """An answer. BadAnswerError where there is none."""
        request, response = (messages()[name] for name in METHODS[method])
        import grpc

        call = self._open().unary_unary(
            f"/{SERVICE}/{method}", request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        try:
            return call(request(**given), timeout=self._seconds)
        except grpc.RpcError as error:
            raise BadAnswerError(f"{self._path}: {method}: {_said(error)}") from None

    def _open(self) -> Any:
        """The channel. Who listens is looked at first, while the socket's folder is root's."""
        try:
            import grpc
        except ImportError:
            raise BadAnswerError("needs grpcio and protobuf: pip install 'bpfence[cri]'") from None
        with self._lock:
            if self._channel is None:
                connected(self._path, self._seconds).close()
                options = [
                    ("grpc.max_receive_message_length", MAX_ANSWER),
                    ("grpc.enable_http_proxy", 0),
                    ("grpc.enable_retries", 0),
                    ("grpc.use_local_subchannel_pool", 1),
                    ("grpc.default_authority", "localhost"),
                ]
                self._channel = grpc.insecure_channel(f"unix://{os.path.abspath(self._path)}", options=options)
            return self._channel

    def watch(self, changed: Callable[[str], None]) -> None:
        """Calls with the id of each container about which something has happened, as long as the runtime tells; see `docker.Docker.watch`.
        Runtimes without GetContainerEvents refuse it."""
        request, response = (messages()[name] for name in METHODS["GetContainerEvents"])
        import grpc

        call = self._open().unary_stream(
            f"/{SERVICE}/GetContainerEvents", request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        self._stream = call(request())
        if self._stopped.is_set():
            self._stream.cancel()
        try:
            changed("")
            for event in self._stream:
                changed(event.container_id[:MAX_ID])
        except grpc.RpcError as error:
            if not self._stopped.is_set():
                raise BadAnswerError(f"{self._path}: GetContainerEvents: {_said(error)}") from None
        finally:
            self._stream = None

    def stop(self) -> None:
        """End `watch`, for good, and let go of the socket."""
        self._stopped.set()
        stream = self._stream
        if stream is not None:
            stream.cancel()
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()


def _said(error: Any) -> str:
    return f"{error.code().name}: {str(error.details())[:200]}"


def _info(answer: Any) -> _Info:
    """The verbose part of an answer; empty where there is none."""
    text = answer.info.get("info", "")
    try:
        return decode(text.encode(), _Info) if text else _Info()
    except BadAnswerError:
        return _Info()


def _mount(mount: Any) -> Mount:
    propagation = PROPAGATION[mount.propagation] if 0 <= mount.propagation < len(PROPAGATION) else ""
    return Mount(short(mount.host_path), short(mount.container_path), "bind", not mount.readonly, propagation)


def _pod(item: Any) -> Pod:
    """A pod; without the labels that kubelet adds to it."""
    known: Iterable[tuple[str, str]] = islice(item.labels.items(), 1 << 16)
    own = {name: value for name, value in known if not name.startswith(_KUBELET)}
    metadata = item.metadata
    return Pod(short(metadata.name), short(metadata.namespace), short(metadata.uid), labels(own))

# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the shapes of containers and pods out: what every source of them tells and everybody else reads.

Built by the sources of `workloads/`, kept by the registry, read by whoever asks which policies apply and who acted. Every string here came
from a runtime, a bundle or an API server, and mostly from whoever started the container: never trusted to be short, plain or unique.
"""

from __future__ import annotations

import msgspec


class Mount(msgspec.Struct, frozen=True):
    """A file system or folder that the runtime mounted into a container. Paths: `source` the host's, `destination` the container's."""

    source: str
    destination: str
    type: str = ""
    writable: bool = True
    propagation: str = ""


class Pod(msgspec.Struct, frozen=True):
    """The Kubernetes pod that a container is part of. Labels that are None: nobody has told of them; {}: there are none.

    `namespace_labels`, those `namespace_annotations` that policies ask about, and `owner`, the kind and the name of what keeps the pod
    running ("Deployment", "web"; ("", "") where nothing does, None where that is not known), are only known from the API server.
    """

    name: str
    namespace: str
    uid: str = ""
    labels: dict[str, str] | None = None
    namespace_labels: dict[str, str] | None = None
    service_account: str = ""
    node: str = ""
    namespace_annotations: dict[str, str] | None = None
    owner: tuple[str, str] | None = None


class Namespace(msgspec.Struct, frozen=True):
    """What policies ask about a namespace."""

    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Container(msgspec.Struct, frozen=True):
    """One container. "", 0 and None: not known. `labels` {}: it has none.

    `id` is the full one, as the runtime calls it; `cgroup` its path in the tree of cgroup v2, "/…"; `cgroup_id` the inode number of that
    folder. `image` as it was asked for ("docker.io/library/nginx:1.27"); `runtime`: docker, containerd, cri-o, podman, runc, crun, …
    `privileged` None: not known. `started`: nanoseconds since the epoch. `pid`: its first process, in the agent's pid namespace.
    `sandbox`: the pause container of a pod.
    """

    id: str
    cgroup: str
    cgroup_id: int = 0
    name: str = ""
    image: str = ""
    image_digest: str = ""
    image_id: str = ""
    runtime: str = ""
    labels: dict[str, str] | None = None
    privileged: bool | None = None
    mounts: tuple[Mount, ...] = ()
    started: int = 0
    pid: int = 0
    sandbox: bool = False
    pod: Pod | None = None

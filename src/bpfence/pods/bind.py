# SPDX-License-Identifier: Apache-2.0
"""A pod and bindings of seccomp profiles in, the JSON patch that gives its containers their profiles out.

For a mutating admission webhook, which calls `mutate` for each pod that is about to be made. Pure: what it gives out depends on nothing but
what it is given, and a pod that has been patched is not patched again. Pods come from whoever may make them: nothing that one holds, of
whatever type, makes this raise.

A container gets the profile of the first binding that selects it, in its own context: the pause container of the pod keeps what the
runtime gives it. Privileged containers and pods for Windows get none, because no profile holds for them. What an annotation says of the
container goes: it has had no effect since Kubernetes 1.27, but the API server refuses one that says something else than the field.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from bpfence.conditions import images
from bpfence.conditions.labels import label_holds
from bpfence.pods.kinds import CONTAINER_SECCOMP, CONTAINERS
from bpfence.policy import Label
from bpfence.words import quoted

Replace = Literal["none", "default", "all"]
"""Which profiles that a pod has written give way: none, the runtime's (RuntimeDefault), all."""

MAX_WARNING: Final = 256
"""Characters of a warning that the API server hands on without cutting it (admission/v1 AdmissionResponse)."""
MAX_WARNINGS: Final = 16


class Binding(msgspec.Struct, frozen=True, kw_only=True):
    """Whose containers get a profile. All members are required, an empty one asks for nothing.

    `profile`: its path below the kubelet's seccomp folder; `namespace`: the pod's, "" for any; `images`: patterns of conditions/images.py,
    of which one must match the container's; `labels`: tests on the pod's.
    """

    profile: str
    namespace: str = ""
    images: tuple[str, ...] = ()
    labels: tuple[Label, ...] = ()
    replace: Replace = "default"


class Mutation(msgspec.Struct, frozen=True):
    """`patch`: operations of RFC 6902, none where there is nothing to do. `warnings`: for whoever makes the pod."""

    patch: tuple[dict[str, Any], ...] = ()
    warnings: tuple[str, ...] = ()


def mutate(pod: Mapping[str, Any], bindings: Sequence[Binding], namespace: str = "", old: Mapping[str, Any] | None = None) -> Mutation:
    """What is to be changed in a pod, as JSON has it, so that its containers run under the profiles that are bound to them.

    `namespace`: that of the request, which the pod need not repeat. `old`: the pod as it is, of a request that changes it: its containers
    cannot be changed any more, only new ephemeral ones can.
    """
    spec = _map(pod.get("spec"))
    if _map(spec.get("os")).get("name") == "windows":
        return Mutation()
    mine = [binding for binding in bindings if _concerns(binding, pod, namespace)]
    patch: list[dict[str, Any]] = []
    warnings: list[str] = []
    noted = set(_map(_map(pod.get("metadata")).get("annotations")))
    for path, container in _containers(spec, _map(_map(old).get("spec"))) if mine else ():
        bound = [binding for binding in mine if _selects(binding, container)]
        if not bound:
            continue
        chosen = bound[0]
        refused = _refused(spec, container, chosen)
        if refused:
            warnings.append(f"{quoted(str(container.get('name', '')))} does not get the seccomp profile {chosen.profile}: {refused}")
            continue
        if any(other.profile != chosen.profile for other in bound):
            warnings.append(f"several seccomp profiles are bound to {quoted(str(container.get('name', '')))}: it gets {chosen.profile}")
        changes = list(_operations(path, container, chosen))
        key = f"{CONTAINER_SECCOMP}{container.get('name')}"
        if changes and key in noted:
            noted.remove(key)
            changes.append({"op": "remove", "path": f"/metadata/annotations/{_escaped(key)}"})
        patch += changes
    return Mutation(tuple(patch), tuple(warning[:MAX_WARNING] for warning in warnings[:MAX_WARNINGS]))


def _escaped(key: str) -> str:
    """A key in a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _concerns(binding: Binding, pod: Mapping[str, Any], namespace: str) -> bool:
    """Whether a binding is about a pod, by its namespace and labels."""
    metadata = _map(pod.get("metadata"))
    if binding.namespace and binding.namespace != (namespace or metadata.get("namespace")):
        return False
    labels = {key: value for key, value in _map(metadata.get("labels")).items() if isinstance(value, str)}
    return all(label_holds(label, labels) for label in binding.labels)


def _containers(spec: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The containers that are new, with where each is."""
    for kind in CONTAINERS:
        known = {one.get("name") for one in _list(old.get(kind)) if isinstance(one, Mapping) and isinstance(one.get("name"), str)}
        if old and kind != "ephemeralContainers":
            continue
        for number, container in enumerate(_list(spec.get(kind))):
            if isinstance(container, Mapping) and not (isinstance(container.get("name"), str) and container["name"] in known):
                yield f"/spec/{kind}/{number}", container


def _list(value: object) -> Iterable[Any]:
    return value if isinstance(value, list) else ()


def _selects(binding: Binding, container: Mapping[str, Any]) -> bool:
    image = container.get("image")
    return not binding.images or (isinstance(image, str) and any(images.matches(pattern, image) for pattern in binding.images))


def _refused(spec: Mapping[str, Any], container: Mapping[str, Any], binding: Binding) -> str:
    """Why a container does not get a profile that is bound to it; "" where it does."""
    context = _map(container.get("securityContext"))
    if context.get("privileged") is True:
        return "it is privileged, which no profile holds for"
    own = context.get("seccompProfile")
    written = own if own is not None else _map(spec.get("securityContext")).get("seccompProfile")
    kind = _map(written).get("type")
    if written is None or binding.replace == "all" or (kind == "RuntimeDefault" and binding.replace == "default"):
        return ""
    if kind == "Localhost" and _map(written).get("localhostProfile") == binding.profile:
        return ""
    return f"the pod says {quoted(str(kind))}, and the binding lets that stand"


def _operations(path: str, container: Mapping[str, Any], binding: Binding) -> Iterator[dict[str, Any]]:
    """The change of one container; nothing where it has the profile. `add` also takes the place of what is there (RFC 6902, 4.1)."""
    profile = {"type": "Localhost", "localhostProfile": binding.profile}
    context = container.get("securityContext")
    if not isinstance(context, Mapping):
        yield {"op": "add", "path": f"{path}/securityContext", "value": {"seccompProfile": profile}}
    elif context.get("seccompProfile") != profile:
        yield {"op": "add", "path": f"{path}/securityContext/seccompProfile", "value": profile}

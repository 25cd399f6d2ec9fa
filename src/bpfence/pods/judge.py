# SPDX-License-Identifier: Apache-2.0
"""A manifest in, what weakens its pods, and the level that each workload meets, out.

Called by `bpfence pod check`. Three passes for each workload: whether the fields have their types (the API server refuses the object
otherwise), the Pod Security Standards, and what they say nothing about.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import msgspec

from bpfence.errors import DiagnosticSeverity, Location
from bpfence.pods import standards
from bpfence.pods.findings import LEVELS, Finding, Findings, Level
from bpfence.pods.kinds import (
    CAPABILITIES,
    CONTAINER_APPARMOR,
    CONTAINER_CONTEXT,
    CONTAINER_SECCOMP,
    POD_CONTEXT,
    POD_SECCOMP,
    PROFILE,
    TEMPLATE,
    TEMPLATES,
    Shape,
    annotated_profile,
)
from bpfence.pods.manifest import MERGE, Container, Field, Manifest, Workload
from bpfence.words import quoted, suggest

INVALID: Final = "invalid"
"""The level of an object that the API server refuses."""


class Verdict(msgspec.Struct, frozen=True):
    """One workload, and the level that it meets: privileged, baseline, restricted, or invalid."""

    kind: str
    name: str
    namespace: str
    location: Location
    level: str

    @property
    def title(self) -> str:
        """Kind, namespace and name."""
        return f"{self.kind} {self.namespace + '/' if self.namespace else ''}{self.name}".rstrip()


class Judgement(msgspec.Struct, frozen=True):
    """What was found in one file. `others`: the kinds of objects without pods, which are not judged."""

    workloads: list[Verdict]
    findings: list[Finding]
    others: list[str]


def judge(manifest: Manifest, level: Level | None = None) -> Judgement:
    """What weakens the pods of a manifest. With a level only what breaks it, as errors: what Pod Security Admission would refuse."""
    findings = Findings()
    file = manifest.source.file
    for odd in manifest.odd:
        _not_an_object(odd, findings)
    verdicts = [_verdict(workload, level, findings) for workload in manifest.workloads]
    if not verdicts and not manifest.odd:
        what = f"nothing here has pods ({', '.join(sorted(set(manifest.others))[:5])})" if manifest.others else "the file holds no object"
        findings.add(Finding("no-workload", "warning", Location(file), what, hint="give a Pod, a Deployment, a CronJob and the like"))
    return Judgement(verdicts, findings.sorted(file), manifest.others)


def _not_an_object(odd: Field, findings: Findings) -> None:
    is_map = odd.node is not None and odd.node.kind == "map"
    what = "the object does not say its kind" if is_map else "this is no object of Kubernetes"
    findings.add(Finding("not-an-object", "error", odd.location, what, hint="an object has apiVersion, kind and metadata", path=odd.path))


def _verdict(workload: Workload, level: Level | None, findings: Findings) -> Verdict:
    tell = _Teller(workload, findings)
    if workload.kind not in TEMPLATES:
        what = f"{quoted(workload.kind)} is not a kind of Kubernetes' own"
        tell(workload.object.get("kind"), "unknown-kind", "info", what, "it is judged by its spec.template")
    valid = _types(workload, tell)
    valid = not _refused_annotations(workload, tell) and valid
    for broken in standards.breaks(workload, level or LEVELS[-1]):
        severity: DiagnosticSeverity = "error" if level is not None or broken.control.level == "baseline" else "warning"
        tell.broken(broken, severity)
    if level is None:
        for examine in BEYOND:
            examine(workload, tell)
    reached = standards.met(workload) if valid else INVALID
    return Verdict(workload.kind, workload.name, workload.namespace, workload.object.location, reached)


def valid(workload: Workload) -> bool:
    """Whether the API server would take a workload, by the types of the fields that are read."""
    return _types(workload, _Teller(workload, Findings()))


class _Teller:
    """Adds findings about one workload."""

    def __init__(self, workload: Workload, findings: Findings) -> None:
        self.title = workload.title
        self.findings = findings

    def __call__(
        self,
        field: Field,
        code: str,
        severity: DiagnosticSeverity,
        what: str,
        why: str = "",
        hint: str = "",
        *,
        container: Container | None = None,
    ) -> None:
        name = container.name if container is not None else ""
        finding = Finding(code, severity, field.location, what, why, hint, path=field.path, workload=self.title, container=name)
        self.findings.add(finding)

    def broken(self, broken: standards.Break, severity: DiagnosticSeverity) -> None:
        """What breaks a control."""
        control, field = broken.control, broken.field
        name = broken.container.name if broken.container is not None else ""
        code = broken.code or control.code
        what, why, hint = broken.what, broken.why, broken.hint
        place = field.location
        self.findings.add(Finding(code, severity, place, what, why, hint, control.name, control.level, field.path, self.title, name))


# ---- types ----

_CLOSED: Final[dict[str, frozenset[str]]] = {
    "capabilities": CAPABILITIES, "seccompProfile": PROFILE, "appArmorProfile": PROFILE,
}  # fmt: skip
_WORDS: Final = {"boolean": "true or false", "number": "a whole number", "text": "a text"}


def _types(workload: Workload, tell: _Teller) -> bool:
    """Whether the fields that are read have their types; tells of those that have not, of keys written twice, and of unknown ones."""
    valid = True
    open_: list[tuple[Field, Shape]] = [(workload.template, TEMPLATE)]
    while open_:
        field, shape = open_.pop()
        if not field.given:
            continue
        wrong = _wrong(field, shape)
        if wrong:
            valid = False
            tell(field, "wrong-type", "error", f"{field.path} must be {wrong}", "the API server refuses the object", "write it so")
        elif isinstance(shape, tuple):
            open_ += [(item, shape[0]) for item in field.items()]
        elif not isinstance(shape, str):
            _keys(field, tell)
            if "*" in shape:
                open_ += [(inner, shape["*"]) for _, inner in field.pairs()]
            else:
                open_ += [(field.get(name), inner_shape) for name, inner_shape in shape.items()]
    if not workload.spec.get("containers").nothing:
        return _named(workload, tell) and valid
    what = f"{workload.title} has no containers"
    tell(workload.spec.get("containers"), "wrong-type", "error", what, "the API server refuses the object", "add spec.containers")
    return False


def _wrong(field: Field, shape: Shape) -> str:
    """What a field must be and is not; empty where it is."""
    kind = field.node.kind if field.node is not None else "scalar"
    if isinstance(shape, str):
        value = field.value
        types = {"boolean": bool, "number": int, "text": str}
        fits = isinstance(value, types[shape]) and (shape == "boolean" or not isinstance(value, bool))
        return "" if fits else _WORDS[shape]
    wanted = "list" if isinstance(shape, tuple) else "map"
    return "" if kind == wanted else f"a {wanted}"


def _keys(field: Field, tell: _Teller) -> None:
    """Tells of keys written twice, and in security contexts of those that do not exist."""
    node = field.node
    assert node is not None
    seen: set[str] = set()
    for name, _ in node.pairs:
        if name.text in seen and name.text != MERGE:
            where = Field(name, f"{field.path}.{name.text}")
            tell(where, "duplicate-key", "warning", f"{quoted(name.text)} is written twice", "only the last one counts", "remove one")
        seen.add(name.text)
    key = field.key
    pod = key == "securityContext" and field.parent is not None and field.parent.key == "spec"
    known = (POD_CONTEXT if pod else CONTAINER_CONTEXT) if key == "securityContext" else _CLOSED.get(str(key))
    if known is None:
        return
    for name, inner in field.pairs():
        if name.text not in known:
            other = CONTAINER_CONTEXT if pod else POD_CONTEXT
            hint = suggest(name.text, known)
            if key == "securityContext" and name.text in other:
                hint = f"it belongs into the securityContext of {'each container' if pod else 'the pod'}"
            what = f"{field.path} has no field {quoted(name.text)}"
            tell(Field(name, inner.path), "unknown-key", "warning", what, "it has no effect", hint)


def _named(workload: Workload, tell: _Teller) -> bool:
    """Whether profiles are complete; what the API server refuses about them is told."""
    valid = True
    for context in (workload.context, *(container.context for container in workload.containers)):
        for kind in ("seccompProfile", "appArmorProfile"):
            profile = context.get(kind)
            path, local = profile.get("localhostProfile"), profile.get("type").text == "Localhost"
            what = ""
            if profile.given and not profile.get("type").given:
                what = f"{profile.path} has no type"
            elif local and not path.text:
                what = f"{profile.path} is Localhost and names no profile"
            elif path.given and not local:
                what = f"{profile.path} names a profile and is not Localhost"
            elif local and kind == "seccompProfile" and not _descends(path.text):
                what = f"{quoted(path.text)} is not a path below the kubelet's seccomp folder"
            if what:
                valid = False
                hint = "type: Localhost with localhostProfile: a path below /var/lib/kubelet/seccomp"
                tell(path if path.given else profile, "wrong-type", "error", what, "the API server refuses the object", hint)
    return valid


def _descends(path: str) -> bool:
    """Whether a path stays below the folder that it is taken from."""
    return not path.startswith("/") and ".." not in path.split("/")


def _refused_annotations(workload: Workload, tell: _Teller) -> bool:
    """Whether the API server refuses the pod for what it no longer reads: seccomp's annotations must be well-formed, and say what fields
    say. Hardening takes them out."""
    refused = False
    for name, value in workload.annotations.pairs():
        what = _why_refused(workload, name.text, value.text)
        if what:
            refused = True
            why = "it has no effect since Kubernetes 1.27, but the API server refuses the pod for it"
            field = Field(name, value.path)
            tell(field, "obsolete-annotation", "error", f"the annotation {quoted(name.text, 90)} {what}", why, "remove it")
    return refused


def _why_refused(workload: Workload, key: str, text: str) -> str:
    """What is wrong with a seccomp annotation; "" for others, and those that are borne."""
    if key != POD_SECCOMP and not key.startswith(CONTAINER_SECCOMP):
        return ""
    profile = annotated_profile(text)
    if (profile is None and text != "localhost/") or (profile is not None and not _descends(profile.get("localhostProfile", ""))):
        return f"cannot be {quoted(text)}"
    contexts = [container.context for container in workload.containers if f"{CONTAINER_SECCOMP}{container.name}" == key]
    for field in (context.get("seccompProfile") for context in ([workload.context] if key == POD_SECCOMP else contexts)):
        said = {name: field.get(name).text for name in PROFILE if field.get(name).given}
        if field.given and said != profile:
            return f"says {quoted(text)}, and the field {field.path} something else"
    return ""


# ---- beyond the standards ----


def _annotations(workload: Workload, tell: _Teller) -> None:
    for name, value in workload.annotations.pairs():
        key, field = name.text, Field(name, value.path)
        if _why_refused(workload, key, value.text):
            continue
        if key == POD_SECCOMP or key.startswith(CONTAINER_SECCOMP):
            profile = annotated_profile(value.text)
            hint = f"write securityContext.seccompProfile.type: {profile['type']}" if profile else "remove it"
            why = "Kubernetes has not read it since 1.27: the pod has no profile by it"
            tell(field, "obsolete-annotation", "warning", f"the annotation {quoted(key, 90)} has no effect", why, hint)
        elif key.startswith(CONTAINER_APPARMOR):
            why = "the field securityContext.appArmorProfile has taken its place in 1.30"
            what = f"the annotation {quoted(key, 90)} is deprecated"
            tell(field, "obsolete-annotation", "info", what, why, "`bpfence pod harden` moves it into the field")


def _localhost(workload: Workload, tell: _Teller) -> None:
    for context in (workload.context, *(container.context for container in workload.containers)):
        path = context.at("seccompProfile", "localhostProfile")
        if path.text and _descends(path.text) and context.at("seccompProfile", "type").text == "Localhost":
            what = f"the seccomp profile {quoted(path.text)} must be on every node that the pod may run on"
            why = "where it is not, the container does not start"
            hint = f"it lies in /var/lib/kubelet/seccomp/{path.text}; `bpfence seccomp check` judges it"
            tell(path, "seccomp-profile", "info", what, why, hint)


def _namespaces(workload: Workload, tell: _Teller) -> None:
    shared, users = workload.spec.get("shareProcessNamespace"), workload.spec.get("hostUsers")
    if shared.true:
        why = "each sees the others' arguments and, as the same user or root, their environments, memory and files (/proc/PID/root)"
        hint = "remove it; `kubectl debug --target` looks into one container without it"
        tell(shared, "shared-processes", "warning", "the pod's containers share one process namespace", why, hint)
    if users.true and not workload.windows:
        why = "a user in the pod is the same one on the node, root too"
        hint = "hostUsers: false, from Kubernetes 1.33 on and without namespaces of the node"
        tell(users, "host-users", "info", "the pod is said to have the node's users", why, hint)


def _writable(workload: Workload, tell: _Teller) -> None:
    for container in () if workload.windows else workload.containers:
        field = container.context.get("readOnlyRootFilesystem")
        if not field.true:
            what = f"{container.title} can write to its image's files"
            hint = "readOnlyRootFilesystem: true, and an emptyDir where it must write"
            tell(field, "writable-root", "warning", what, "whoever takes it over can leave programs there", hint, container=container)


def _token(workload: Workload, tell: _Teller) -> None:
    field = workload.spec.get("automountServiceAccountToken")
    if not field.false:
        what = "the pod is given its service account's token, unless the service account says otherwise"
        why = "whoever takes the pod over speaks to the API server in its name"
        tell(field, "service-account-token", "info", what, why, "automountServiceAccountToken: false where it does not speak to it")


def _limits(workload: Workload, tell: _Teller) -> None:
    whole = workload.spec.at("resources", "limits")
    for container in workload.containers:
        own = container.field.at("resources", "limits")
        if container.kind == "ephemeralContainers":
            continue  # they have none, by definition
        if not own.get("memory").given and not whole.get("memory").given:
            why = "it can take the node's memory from others, unless a LimitRange of the namespace says otherwise"
            hint = "resources: {limits: {memory: …}}; the number of processes is limited by the kubelet alone (podPidsLimit)"
            tell(own.get("memory"), "no-memory-limit", "warning", f"{container.title} has no memory limit", why, hint, container=container)
        if not own.get("cpu").given and not whole.get("cpu").given:
            why = "it can take what others do not request"
            tell(own.get("cpu"), "no-cpu-limit", "info", f"{container.title} has no cpu limit", why, "", container=container)


_TAGGED: Final = re.compile(r"(?P<name>.*?)(?::(?P<tag>[^:/@]*))?(?P<digest>@[^@]*)?", re.DOTALL)


def _images(workload: Workload, tell: _Teller) -> None:
    for container in workload.containers:
        field = container.field.get("image")
        found = _TAGGED.fullmatch(field.text[:1000])
        if not field.text or found is None or found["digest"]:
            continue
        if found["tag"] in (None, "", "latest"):
            what = (
                f"the image {quoted(field.text)} has no fixed tag" if not found["tag"] else f"the image {quoted(field.text)} is the latest"
            )
            tell(field, "image-tag", "warning", what, "it may be another one at the next start", "name a version", container=container)
        else:
            what = f"the image {quoted(field.text)} is not pinned by its digest"
            tell(field, "image-digest", "info", what, "whoever can push the tag can exchange it", "add @sha256:…", container=container)


BEYOND: Final[tuple[Callable[[Workload, _Teller], None], ...]] = (
    _annotations, _localhost, _namespaces, _writable, _token, _limits, _images,
)  # fmt: skip
"""What the standards say nothing about, in this order."""

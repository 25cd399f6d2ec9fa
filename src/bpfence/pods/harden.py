# SPDX-License-Identifier: Apache-2.0
"""A manifest in, the same manifest hardened, and what was left and why, out.

Called by `bpfence pod harden`. What is missing is set where a level demands it and no program's needs are in question by a value that says
so: a value that somebody wrote stays, unless the options ask otherwise. Nothing is set that the API server would refuse, or that would keep
a container from starting by what the manifest itself says. Everything outside the edits stays byte for byte; the result is read again and
must hold what was wanted and nothing else, or it is not given out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from bpfence.documents.placed import DocumentError
from bpfence.errors import Diagnostic, DiagnosticSeverity, Location
from bpfence.pods import standards
from bpfence.pods.edit import CannotEditError, Change, Edit, apply, changed, edits, in_order, unified
from bpfence.pods.findings import Level
from bpfence.pods.judge import valid
from bpfence.pods.kinds import CONTAINER_APPARMOR, CONTAINER_SECCOMP, POD_SECCOMP, annotated_profile
from bpfence.pods.manifest import Container, Field, Manifest, Workload, plain, read
from bpfence.words import quoted

MAX_TRIED: Final = 4 << 20
"""Characters that are read again, all tries together, to find which steps of a document cannot be done."""


class Options(msgspec.Struct, frozen=True):
    """What is asked for.

    `seccomp`: the profile to use, as the field has it; empty for the runtime's where there is none. `user`: the user id to run as; 0 for
    none. `replace`: also change what the manifest says otherwise.
    """

    level: Level = "restricted"
    seccomp: dict[str, str] = {}
    read_only_root: bool = False
    user: int = 0
    replace: bool = False


class Hardened(msgspec.Struct, frozen=True):
    """A hardened manifest. `changed`: what was done; `left`: what still breaks the level; `notes`: what else to know. `meets`: whether
    every workload meets the level now."""

    manifest: Manifest
    edits: list[Edit]
    text: str
    changed: list[Diagnostic]
    left: list[Diagnostic]
    notes: list[Diagnostic]
    meets: bool

    @property
    def data(self) -> bytes:
        """The manifest's bytes."""
        return (b"\xef\xbb\xbf" if self.manifest.bom else b"") + self.text.encode()

    def diff(self, file: str) -> str:
        """What has changed, as a unified diff."""
        return unified(self.manifest.source.text, self.edits, file)


class Step(msgspec.Struct, frozen=True):
    """One thing to be done: changes that belong together, and what they are in words."""

    workload: Workload
    changes: tuple[Change, ...]
    what: str


def harden(manifest: Manifest, options: Options) -> Hardened:
    """The same manifest, hardened. What cannot be edited is left, and told."""
    steps, text, made, failed = _written(manifest, _steps(manifest, options))
    after = read(text.encode(), manifest.source.file)
    doubts = _told(failed, "cannot-edit", "warning")
    left, notes = _left(manifest, after, options)
    done = [step for document in sorted(steps) for step in steps[document]]
    meets = not left and not manifest.odd
    return Hardened(manifest, in_order(made), text, _told(done, "hardened", "info"), [*doubts, *left], notes, meets)


def _told(steps: Sequence[Step], code: str, severity: DiagnosticSeverity) -> list[Diagnostic]:
    hint = "the text is shared through an alias, or of an unusual form: change it by hand" if code == "cannot-edit" else ""
    before = "not changed: " if code == "cannot-edit" else ""
    return [
        Diagnostic(step.changes[0].field.location, f"{before}{step.workload.title}: {step.what}", hint, severity, code) for step in steps
    ]


def _steps(manifest: Manifest, options: Options) -> dict[int, list[Step]]:
    """What is to be done, by document."""
    steps: dict[int, list[Step]] = {}
    for workload in manifest.workloads:
        if valid(workload):
            steps.setdefault(workload.document, []).extend(_plan(workload, options))
    return steps


def _written(manifest: Manifest, steps: dict[int, list[Step]]) -> tuple[dict[int, list[Step]], str, list[Edit], list[Step]]:
    """The steps that could be done, the text, its edits, and the steps that could not.

    The text is read again. Of a document that does not hold what was wanted, each step is tried by itself.
    """
    failed: list[Step] = []
    seen: set[int] = set()
    while True:
        text, made, wrong = _tried(manifest, steps)
        if not wrong:
            return steps, text, made, failed
        for document in wrong:
            bearable: list[Step] = []
            inside = steps.pop(document)
            few = document not in seen and len(inside) * len(manifest.source.text) <= MAX_TRIED
            seen.add(document)
            for step in inside:
                if few and not _tried(manifest, {document: [*bearable, step]})[2]:
                    bearable.append(step)
                else:
                    failed.append(step)
            if bearable:
                steps[document] = bearable


def _tried(manifest: Manifest, steps: dict[int, list[Step]]) -> tuple[str, list[Edit], set[int]]:
    """The text with some steps done, its edits, and the documents that are not what they should be then."""
    made: list[Edit] = []
    wrong: set[int] = set()
    for document, inside in steps.items():
        try:
            made += edits(manifest, document, [change for step in inside for change in step.changes])
        except CannotEditError:
            wrong.add(document)
    if wrong:
        return "", [], wrong
    try:
        text = apply(manifest.source.text, made)
        return text, made, _differ(manifest, text, steps)
    except (CannotEditError, DocumentError):
        return "", [], set(steps)


def _differ(manifest: Manifest, text: str, steps: dict[int, list[Step]]) -> set[int]:
    """The documents of a text that are not what the steps make of them."""
    roots = read(text.encode(), manifest.source.file).roots
    if len(roots) != len(manifest.roots):
        return set(steps)
    wrong = set()
    for document, (before, after) in enumerate(zip(manifest.roots, roots, strict=True)):
        inside = steps.get(document, [])
        if inside and changed(plain(before), (change for step in inside for change in step.changes)) != plain(after):
            wrong.add(document)
    return wrong


# ---- what is to be done ----

REFUSES_NO_ESCALATION: Final = frozenset({"SYS_ADMIN", "CAP_SYS_ADMIN"})
"""Capabilities with which the API server refuses allowPrivilegeEscalation: false, as it does for privileged containers."""


def _plan(workload: Workload, options: Options) -> Iterator[Step]:
    """The steps for one workload."""
    yield from _annotated(workload, options)
    yield from _profiles(workload, options)
    if options.replace:
        yield from _replaced(workload)
    if options.user and not workload.windows:
        yield from _users(workload, options.user)
    if options.level == "restricted":
        yield from _non_root(workload, options)
        yield from _contexts(workload, options)
    for container in workload.containers if options.read_only_root and not workload.windows else ():
        field = container.context.get("readOnlyRootFilesystem")
        if not field.true:
            yield _set(workload, field, True, f"{container.title}: readOnlyRootFilesystem")


def _set(workload: Workload, field: Field, value: object, what: str) -> Step:
    was = f", which was {quoted(str(field.value).lower())}" if field.given and not isinstance(value, list) else ""
    said = str(value).lower() if isinstance(value, bool) else value
    return Step(workload, (Change("set", field, value),), f"{what}: {said}{was}")


def _profile(workload: Workload, field: Field, profile: dict[str, str], what: str) -> Step:
    """A profile takes the place of what there is."""
    changes = [Change("set", field.get(key), value) for key, value in profile.items()]
    if field.get("localhostProfile").given and "localhostProfile" not in profile:
        changes.append(Change("remove", field.get("localhostProfile")))
    return Step(workload, tuple(changes), f"{what}: {'/'.join(profile.values())}")


def _annotated(workload: Workload, options: Options) -> Iterator[Step]:
    """Annotations become fields, and go."""
    notes = workload.annotations.pairs()
    gone: list[Field] = []
    by_name = {container.name: container for container in workload.containers if container.name}
    for name, note in notes:
        key = name.text
        kind = "seccompProfile" if key == POD_SECCOMP or key.startswith(CONTAINER_SECCOMP) else "appArmorProfile"
        if kind == "appArmorProfile" and not key.startswith(CONTAINER_APPARMOR):
            continue
        profile = annotated_profile(note.text)
        container = by_name.get(key.partition("/")[2])
        context = workload.context if key == POD_SECCOMP else container.context if container is not None else None
        confined = profile is not None and profile["type"] != "Unconfined"
        if kind == "appArmorProfile" and not (confined and context is not None) and not options.replace:
            continue  # it still has its effect
        gone.append(note)
        asked = workload.windows or (kind == "seccompProfile" and options.seccomp)
        if context is not None and profile is not None and confined and not context.get(kind).given and not asked:
            yield _profile(workload, context.get(kind), profile, f"{context.get(kind).path}, as an annotation said")
    if not gone:
        return
    whole = len(gone) == len(notes) and len(workload.template.get("metadata").pairs()) > 1
    changes = tuple(Change("remove", field) for field in ([workload.annotations] if whole else gone))
    shown = ", ".join(quoted(str(note.key), 90) for note in gone[:3]) + (f" and {len(gone) - 3} more" if len(gone) > 3 else "")
    yield Step(workload, changes, f"the annotation{'s' if len(gone) > 1 else ''} {shown} removed")


def _noted(workload: Workload, context: Field, key: str) -> bool:
    """Whether an annotation says which seccomp profile a context is given."""
    profile = annotated_profile(workload.annotations.get(key).text)
    return profile is not None and profile["type"] != "Unconfined" and not context.get("seccompProfile").given


def _profiles(workload: Workload, options: Options) -> Iterator[Step]:
    """Seccomp profiles: for the pod, and for containers that have one which confines nothing."""
    if workload.windows:
        return
    pod = workload.context.get("seccompProfile")
    wanted = options.seccomp or {"type": "RuntimeDefault"}
    if options.seccomp:
        if plain_profile(pod) != wanted:
            yield _profile(workload, pod, wanted, pod.path)
    elif not _noted(workload, workload.context, POD_SECCOMP):
        lacking = [
            container
            for container in workload.containers
            if not container.context.get("seccompProfile").given
            and not _noted(workload, container.context, f"{CONTAINER_SECCOMP}{container.name}")
        ]
        demanded = lacking and not pod.given and options.level == "restricted"
        if demanded or (options.replace and pod.given and pod.get("type").text not in standards.CONFINING):
            yield _profile(workload, pod, wanted, pod.path)
    for container in workload.containers if options.seccomp or options.replace else ():
        own = container.context.get("seccompProfile")
        if own.given and own.get("type").text not in standards.CONFINING:
            yield _profile(workload, own, wanted, f"{container.title}: seccompProfile")


def plain_profile(field: Field) -> dict[str, str]:
    """A profile as the options have it."""
    return {key: field.get(key).text for key in ("type", "localhostProfile") if field.get(key).given}


_INSTEAD: Final[dict[str, object]] = {"host-namespace": False, "privileged": False, "proc-mount": "Default"}


def _replaced(workload: Workload) -> Iterator[Step]:
    """What was written, and breaks the level in one word."""
    for broken in standards.breaks(workload, "restricted"):
        code, field = broken.control.code, broken.field
        who = f"{broken.container.title}: {field.key}" if broken.container is not None else field.path
        if code in _INSTEAD:
            yield _set(workload, field, _INSTEAD[code], who)
        elif code == "apparmor-off" and field.key == "type":
            yield _set(workload, field, "RuntimeDefault", f"{field.path}")


def _users(workload: Workload, user: int) -> Iterator[Step]:
    """A user id where there is none, or root's."""
    for context in (workload.context, *(container.context for container in workload.containers)):
        field = context.get("runAsUser")
        if field.value == 0 or (context is workload.context and not field.given):
            yield _set(workload, field, user, field.path)


def _root(workload: Workload, container: Container, options: Options) -> bool:
    """Whether a container runs as root by what the manifest says, and will."""
    return workload.effective(container, "runAsUser").value == 0 and (workload.windows or not options.user)


def _privileged(container: Container, options: Options) -> bool:
    return container.context.get("privileged").true and not options.replace


def _non_root(workload: Workload, options: Options) -> Iterator[Step]:
    """runAsNonRoot: for the pod, or where some containers must stay as they are, for each of the others."""
    if workload.user_namespace:
        return
    pod = workload.context.get("runAsNonRoot")
    barred = [container for container in workload.containers if _root(workload, container, options) or _privileged(container, options)]
    lacking = [
        container
        for container in workload.containers
        if not container.context.get("runAsNonRoot").given and not pod.true and container not in barred
    ]
    inherits = [container for container in barred if not container.context.get("runAsNonRoot").given]
    if not inherits and ((pod.false and options.replace) or (lacking and not pod.given)):
        yield _set(workload, pod, True, pod.path)
    else:
        for container in lacking if not pod.given else ():
            yield _set(workload, container.context.get("runAsNonRoot"), True, f"{container.title}: runAsNonRoot")
    for container in workload.containers if options.replace else ():
        field = container.context.get("runAsNonRoot")
        if field.false and container not in barred:
            yield _set(workload, field, True, f"{container.title}: runAsNonRoot")


def _contexts(workload: Workload, options: Options) -> Iterator[Step]:
    """allowPrivilegeEscalation and capabilities, of each container that is not privileged."""
    for container in () if workload.windows else workload.containers:
        if _privileged(container, options):
            continue
        field = container.context.get("allowPrivilegeEscalation")
        if (not field.given or (field.true and options.replace)) and not _must_escalate(container):
            yield _set(workload, field, False, f"{container.title}: allowPrivilegeEscalation")
        drop = container.context.at("capabilities", "drop")
        if all(item.value != "ALL" for item in drop.items()):
            yield Step(workload, (Change("append", drop, "ALL"),), f"{container.title}: capabilities.drop: ALL")


def _must_escalate(container: Container) -> bool:
    """Whether the API server refuses to take it from a container that is not privileged."""
    return any(item.value in REFUSES_NO_ESCALATION for item in container.context.at("capabilities", "add").items())


# ---- what is left ----

_WHY_LEFT: Final = {
    "host-process": "the program may need the host",
    "host-namespace": "the program may need the node's namespace; --replace takes it away",
    "privileged": "the program may need the devices or capabilities; --replace sets it to false",
    "capability-added": "the program may need it",
    "host-path": "the program works on the node's files",
    "host-port": "others may reach the program by it",
    "host-probe": "the probe would ask somebody else",
    "apparmor-off": "somebody wrote it; --replace changes it",
    "selinux-options": "the program's files may be labelled for it",
    "proc-mount": "the program may need it; --replace sets it to Default",
    "seccomp-off": "somebody wrote it; --seccomp or --replace changes it",
    "sysctl": "the program may need it",
    "volume-type": "the program's data lies there",
    "privilege-escalation": "somebody wrote it; --replace changes it",
    "run-as-root": "somebody wrote it; --replace changes it",
    "root-user": "which user the program can run as is not known: --user N",
}
"""By the code of a control, why a value that breaks it was left."""


def _why_left(workload: Workload, broken: standards.Break) -> str:
    container, code = broken.container, "capability-added" if broken.code == "capability-added" else broken.control.code
    if container is not None and broken.missing:
        if container.context.get("privileged").true and code != "seccomp-missing":
            return "the container is privileged"
        if code == "run-as-root" and workload.effective(container, "runAsUser").value == 0:
            return "it would not start: runAsUser is 0; --user N gives it another one"
        if code == "privilege-escalation" and _must_escalate(container):
            return "the API server refuses it together with the capability SYS_ADMIN"
        return "it could not be written"
    return _WHY_LEFT[code]


def _left(before: Manifest, after: Manifest, options: Options) -> tuple[list[Diagnostic], list[Diagnostic]]:
    """What still breaks the level; and what else to know. Places are those of the text that was given."""
    left = [Diagnostic(odd.location, "this is no object of Kubernetes", "", "error", "not-an-object") for odd in before.odd]
    notes: list[Diagnostic] = []
    for was, workload in zip(before.workloads, after.workloads, strict=True):
        if not valid(workload):
            hint = "bpfence pod check tells what is wrong"
            left.append(Diagnostic(was.object.location, f"left: {workload.title} is not valid", hint, "error", "left"))
            continue
        for broken in standards.breaks(workload, options.level):
            why = _why_left(workload, broken)
            control = f"{broken.control.level}: {broken.control.name}"
            place = _was(was, broken.field)
            left.append(Diagnostic(place, f"left: {broken.what} ({control}): {why}", "", "warning", "left"))
        notes += _notes(was, workload)
    return left, notes


def _was(before: Workload, field: Field) -> Location:
    """Where a field of the hardened text was before: lists have only grown at their ends."""
    found = before.root
    for step in field.steps:
        number = step if isinstance(step, int) else -1
        if number >= 0 and not (found.node is not None and number < len(found.node.items)):
            break  # an element that was added
        found = found.item(number) if number >= 0 else found.get(str(step))
    return found.location


def _notes(was: Workload, workload: Workload) -> Iterator[Diagnostic]:
    """What was kept, and what only those can set who know the program."""

    def note(field: Field, code: str, what: str, hint: str) -> Diagnostic:
        return Diagnostic(_was(was, field), f"{workload.title}: {what}", hint, "info", code)

    for container in workload.containers:
        for item in container.context.at("capabilities", "add").items():
            if item.value in standards.RESTRICTED_CAPABILITIES:
                hint = "remove it where the program does not listen on a port below 1024"
                yield note(item, "kept", f"{container.title} keeps the capability {item.text}", hint)
    if workload.windows:
        return
    if not workload.user_namespace and any(not workload.effective(container, "runAsUser").given for container in workload.containers):
        hint = "the images must name a user that is not root, by its number; or give one: --user N"
        yield note(workload.context.get("runAsUser"), "not-known", "which user the program can run as is not known", hint)
    if any(not container.context.get("readOnlyRootFilesystem").true for container in workload.containers):
        hint = "--read-only-root, and an emptyDir for each of those paths"
        yield note(workload.spec, "not-known", "where the program writes is not known: its root file system stays writable", hint)

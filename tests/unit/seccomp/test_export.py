# SPDX-License-Identifier: Apache-2.0
"""Other formats: what they say, what they cannot, and the way back."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bpfence.documents.yaml_values import documents
from bpfence.errors import CompileError, Diagnostic
from bpfence.pods import kinds
from bpfence.seccomp import export as exports
from bpfence.seccomp.export import Exported, ExportOptions, Format, export, from_operator
from bpfence.seccomp.interpret import Program, verdict_of
from bpfence.seccomp.merge import diff, normalised
from bpfence.seccomp.model import Arg, ArgOp, Profile, ProfileAction, ProfileFlag, ProfileRule, ProfileVerdict
from bpfence.seccomp.profile import bare, load, load_bytes, plain, resolve
from bpfence.syscalls.architectures import Arch
from tests.unit.seccomp.random_profiles import profiles

CORPORA = Path(__file__).resolve().parents[4] / "shared" / "corpora"
TUTORIAL = CORPORA / "tutorial"


def made(profile: Profile, format: Format, **options: Any) -> Exported:
    return export(resolve(profile, Arch.X86_64, (), (6, 1)), format, ExportOptions(**options))


def allow(*names: str, args: tuple[Arg, ...] = (), action: ProfileAction = ProfileAction.ALLOW, errno: int | None = None) -> ProfileRule:
    return ProfileRule(names=names, action=action, args=args, errno=errno)


def deny(*rules: ProfileRule, default: ProfileAction = ProfileAction.ERRNO, **given: Any) -> Profile:
    return Profile(default_action=default, rules=rules, **given)


PLAIN = deny(allow("write", "read"), allow("clone3", action=ProfileAction.ERRNO, errno=38))


def codes(found: Exported) -> list[str]:
    return [diagnostic.code for diagnostic in found.findings]


# ---- filters and profiles ----


def test_bpf() -> None:
    program = Program(made(PLAIN, "bpf").data)
    assert verdict_of(program.run(Arch.X86_64.audit, 0)) == ProfileVerdict(ProfileAction.ALLOW)
    assert verdict_of(program.run(Arch.X86_64.audit, 435)) == ProfileVerdict(ProfileAction.ERRNO, 38)


def test_pfc() -> None:
    assert b"filter for arch x86_64" in made(PLAIN, "pfc").data


def test_oci_is_normalised() -> None:
    profile, found = load_bytes(made(PLAIN, "oci").data)
    assert found == []
    assert profile is not None
    assert profile.rules[0].names == ("read", "write")
    assert profile.architectures == (Arch.X86_64,)


@settings(max_examples=30, deadline=None)
@given(profiles())
def test_oci_means_the_same(profile: Profile) -> None:
    effective = resolve(profile, Arch.X86_64, (), (6, 1))
    again, _ = load_bytes(exports._oci(effective, ExportOptions(), exports.Findings()))
    assert again is not None
    assert diff(effective, resolve(again, Arch.X86_64)) == []


def test_podman_quotes_what_it_must() -> None:
    text = made(PLAIN, "podman-run", path="/x y/p.json").data.decode()
    assert "seccomp='/x y/p.json'" in text
    assert "--read-only" in text
    assert "--cap-drop all" in text


@pytest.mark.parametrize("format", ["oci", "podman-run", "k8s", "pfc"])
def test_what_libseccomp_gets_wrong_is_refused(monkeypatch: pytest.MonkeyPatch, format: Format) -> None:
    wrong = [Diagnostic(PLAIN.location, "differs", "do not", code="filter-differs")]
    monkeypatch.setattr(exports, "differences", lambda *_, **__: wrong)
    with pytest.raises(CompileError, match="differs"):
        made(PLAIN, format)


# ---- systemd ----


def lines(found: Exported) -> list[str]:
    return found.data.decode().splitlines()


def test_systemd_permits() -> None:
    found = made(PLAIN, "systemd")
    assert lines(found) == [
        "[Service]", "NoNewPrivileges=yes", "SystemCallArchitectures=x86-64", "SystemCallErrorNumber=EPERM",
        "SystemCallFilter=read write", "SystemCallFilter=~clone3:ENOSYS",
    ]  # fmt: skip


def test_systemd_denies() -> None:
    profile = deny(
        allow("mount", action=ProfileAction.ERRNO, errno=1), allow("bpf", action=ProfileAction.KILL_PROCESS), default=ProfileAction.ALLOW
    )
    assert "SystemCallFilter=~bpf:kill mount:EPERM" in lines(made(profile, "systemd"))
    assert not any(line.startswith("SystemCallErrorNumber") for line in lines(made(profile, "systemd")))


def test_systemd_logs() -> None:
    found = lines(made(deny(allow("read"), allow("write", action=ProfileAction.LOG)), "systemd"))
    assert "SystemCallFilter=read write" in found
    assert "SystemCallLog=write" in found
    assert "SystemCallLog=~read" in lines(made(deny(allow("read"), default=ProfileAction.LOG), "systemd"))


@pytest.mark.parametrize(("conditional", "expected"), [("deny", "read"), ("allow", "read socket")])
def test_systemd_cannot_look_at_arguments(conditional: str, expected: str) -> None:
    profile = deny(allow("read"), allow("socket", args=(Arg(0, ArgOp.EQ, 1),)), allow("socket", args=(Arg(0, ArgOp.EQ, 2),)))
    found = made(profile, "systemd", conditional=conditional)
    assert f"SystemCallFilter={expected}" in lines(found)
    assert codes(found).count("cannot-express") == 2
    assert "socket" in next(d.message for d in found.findings if d.severity == "warning")


def test_systemd_on_a_deny_list_with_conditions() -> None:
    profile = deny(allow("socket", args=(Arg(0, ArgOp.EQ, 38),), action=ProfileAction.ERRNO, errno=97), default=ProfileAction.ALLOW)
    assert "SystemCallFilter=~socket:EAFNOSUPPORT" in lines(made(profile, "systemd"))
    assert not any("socket" in line for line in lines(made(profile, "systemd", conditional="allow")))


def test_what_systemd_cannot_say() -> None:
    profile = deny(
        allow("mount", action=ProfileAction.TRAP), default=ProfileAction.KILL_THREAD, flags=(ProfileFlag.LOG,), architectures=(Arch.X86,)
    )
    found = made(profile, "systemd")
    assert codes(found) == ["cannot-express"] * 4
    assert "SystemCallArchitectures=x86-64 x86" in lines(found)
    assert "SystemCallFilter=~mount:kill" in lines(found)


def test_long_lists_are_many_assignments() -> None:
    found = lines(made(deny(allow(*(f"{n}" for n in ("read", "write", "openat", "close", "mmap") * 1), "setresuid", *LONG)), "systemd"))
    filters = [line for line in found if line.startswith("SystemCallFilter=")]
    assert len(filters) > 1
    assert all(len(line) <= 120 for line in filters)


LONG = ("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sched_getaffinity", "set_robust_list", "set_tid_address", "exit_group", "execve")


# ---- Kubernetes ----


def objects(found: Exported) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(found.data.decode()))


def test_a_hardened_pod() -> None:
    profile, pod = objects(made(PLAIN, "k8s", name="web"))
    assert (profile["apiVersion"], profile["kind"]) == ("security-profiles-operator.x-k8s.io/v1", "SeccompProfile")
    assert profile["spec"]["syscalls"][1] == {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "Localhost", "localhostProfile": "operator/web.json"}
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip


def test_the_older_version_of_the_operator_has_errno_as_a_text() -> None:
    (profile, _) = objects(made(PLAIN, "k8s", operator="v1beta1"))
    assert profile["spec"]["syscalls"][1]["errnoRet"] == "38"


def test_what_the_operator_cannot_hold() -> None:
    profile = deny(allow("read", action=ProfileAction.ERRNO, errno=0), default_errno=38, architectures=(Arch.LOONGARCH64,))
    assert codes(made(profile, "k8s")) == ["cannot-express"] * 3
    with pytest.raises(CompileError, match="2\\^63"):
        made(deny(allow("read", args=(Arg(1, ArgOp.LT, 1 << 63),))), "k8s")
    with pytest.raises(CompileError, match="cannot be the name"):
        made(PLAIN, "k8s", name="A B")


def manifest(text: str) -> Any:
    return documents(text.encode(), "pod.yaml")[0]


def test_the_pod_of_the_tutorial() -> None:
    if not TUTORIAL.exists():
        pytest.skip(f"no {TUTORIAL}")
    profile, _ = load(TUTORIAL / "seccomp-profile.json")
    assert profile is not None
    before = yaml.safe_load((TUTORIAL / "pod.yaml").read_text())
    found = export(
        resolve(profile, Arch.X86_64), "k8s", ExportOptions(name="tutorial", manifest=manifest((TUTORIAL / "pod.yaml").read_text()))
    )
    _, after = objects(found)
    # The same Pod: only the annotation, which nothing reads any more, is gone.
    del before["metadata"]["annotations"]
    assert after == before
    assert [(d.code, d.severity, d.location.line) for d in found.findings] == [("obsolete", "warning", 7), ("shadowed", "info", 16)]


def test_our_own_pod_lacks_nothing() -> None:
    text = (Path(__file__).resolve().parents[3] / "examples" / "seccomp" / "pod.yaml").read_text()
    found = made(PLAIN, "k8s", manifest=manifest(text))
    assert found.findings == ()
    assert objects(found)[1] == yaml.safe_load(text)


ANNOTATED = """
apiVersion: apps/v1
kind: Deployment
spec:
  template:
    metadata:
      annotations:
        seccomp.security.alpha.kubernetes.io/pod: localhost/profiles/a.json
        container.seccomp.security.alpha.kubernetes.io/two: docker/default
        container.seccomp.security.alpha.kubernetes.io/three: nonsense
        other: kept
    spec:
      initContainers: [{name: zero}]
      containers:
      - {name: one, securityContext: {capabilities: {add: [NET_ADMIN]}, readOnlyRootFilesystem: false}}
      - {name: two}
      - {name: three, securityContext: {privileged: true}}
"""


def test_annotations_become_fields() -> None:
    found = made(PLAIN, "k8s", manifest=manifest(ANNOTATED))
    template = objects(found)[1]["spec"]["template"]
    assert template["metadata"]["annotations"] == {"other": "kept"}
    pod = template["spec"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "Localhost", "localhostProfile": "profiles/a.json"}
    zero, one, two, three = (c["securityContext"] for c in [*pod["initContainers"], *pod["containers"]])
    assert zero["capabilities"] == {"drop": ["ALL"]}
    assert one["capabilities"] == {"add": ["NET_ADMIN"], "drop": ["ALL"]}
    assert one["readOnlyRootFilesystem"] is False
    assert two["seccompProfile"] == {"type": "RuntimeDefault"}
    assert three == {"privileged": True}
    assert sorted(codes(found)) == ["hardened", "hardened", "hardened", "obsolete", "obsolete", "obsolete", "shadowed", "shadowed"]


def test_a_path_takes_the_place_of_another_local_profile() -> None:
    text = "{kind: Pod, spec: {securityContext: {seccompProfile: {type: Localhost, localhostProfile: old.json}}, containers: []}}"
    for path, expected in (("", "old.json"), ("new.json", "new.json")):
        pod = objects(made(PLAIN, "k8s", path=path, manifest=manifest(text)))[1]
        assert pod["spec"]["securityContext"]["seccompProfile"]["localhostProfile"] == expected


@pytest.mark.parametrize("text", ["[]", "{kind: Service}", "x", "{}"])
def test_what_makes_no_pods_is_refused(text: str) -> None:
    with pytest.raises(CompileError) as caught:
        made(PLAIN, "k8s", manifest=manifest(text))
    assert caught.value.diagnostics[0].code == "wrong-kind"


shapes = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["Pod", "a", "localhost/x", "Localhost"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "metadata",
                    "spec",
                    "containers",
                    "securityContext",
                    "annotations",
                    "capabilities",
                    "name",
                    "drop",
                    "seccompProfile",
                    kinds.POD_SECCOMP,
                    kinds.CONTAINER_SECCOMP + "a",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["metadata", "spec"]), shapes, max_size=2))
def test_no_manifest_makes_it_fail(document: dict[str, Any]) -> None:
    written = json.dumps({"kind": "Pod", **document})
    made_of = exports.modern_manifest(manifest(written), "p.json", False, exports.Findings())
    assert yaml.safe_load(exports._yaml(made_of)) == made_of


# ---- in ----


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(profiles(), st.sampled_from(["v1", "v1beta1"]))
def test_an_exported_object_is_read_back(profile: Profile, version: str) -> None:
    effective = resolve(profile, Arch.X86_64, (), (6, 1))
    assume(all(arg.value < 1 << 63 and arg.value_two < 1 << 63 for rule in effective.rules for arg in rule.args))
    written = exports.operator_object(effective, "x", "v1" if version == "v1" else "v1beta1", exports.Findings())
    again, found = from_operator(manifest(exports._yaml(written)))
    assert [d for d in found if d.severity == "error"] == []
    assert again is not None
    expected = normalised(plain(effective))
    assert bare(again).rules == _without_comments(expected)
    assert again.architectures == expected.architectures
    assert again.flags == expected.flags


def _without_comments(profile: Profile) -> tuple[ProfileRule, ...]:
    return tuple(ProfileRule(names=r.names, action=r.action, errno=r.errno, args=r.args) for r in profile.rules)


def test_an_object_of_the_operator() -> None:
    profile, found = from_operator(
        manifest(
            """
apiVersion: security-profiles-operator.x-k8s.io/v1beta1
kind: SeccompProfile
metadata: {name: p}
spec:
  defaultAction: SCMP_ACT_ERRNO
  baseProfileName: runc-v1.1.5
  architectures: [SCMP_ARCH_NATIVE, SCMP_ARCH_X86]
  syscalls:
  - {names: [read], action: SCMP_ACT_ALLOW, errnoRet: "0"}
  - {names: [mount], action: SCMP_ACT_ERRNO, errnoRet: "38"}
  - {names: [personality], action: SCMP_ACT_ALLOW, args: [{index: 0, op: SCMP_CMP_EQ}]}
"""
        )
    )
    assert profile is not None
    assert profile.architectures == (Arch.X86,)
    assert [rule.verdict for rule in profile.rules] == [
        ProfileVerdict(ProfileAction.ALLOW),
        ProfileVerdict(ProfileAction.ERRNO, 38),
        ProfileVerdict(ProfileAction.ALLOW),
    ]
    assert profile.rules[2].args[0].value == 0
    assert [(d.code, d.severity, d.location.line) for d in found] == [("cannot-express", "warning", 7), ("architecture-added", "info", 8)]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("[]", "wrong-kind"),
        ("{apiVersion: v1, kind: Pod}", "wrong-kind"),
        ("{apiVersion: security-profiles-operator.x-k8s.io/v1, kind: SeccompProfile}", "missing-key"),
        ("{apiVersion: security-profiles-operator.x-k8s.io/v1, kind: SeccompProfile, spec: {}}", "missing-key"),
        ("{apiVersion: security-profiles-operator.x-k8s.io/v1, kind: SeccompProfile, spec: {defaultAction: X, y: 1}}", "bad-action"),
    ],
)
def test_objects_that_cannot_be_read(text: str, code: str) -> None:
    profile, found = from_operator(manifest(text))
    assert profile is None
    assert code in [d.code for d in found]
    assert all(re.match(r"pod\.yaml:\d", str(d.location)) for d in found)


@settings(max_examples=100, deadline=None)
@given(shapes)
def test_no_object_makes_it_fail(spec: Any) -> None:
    head = {"apiVersion": "security-profiles-operator.x-k8s.io/v1", "kind": "SeccompProfile"}
    profile, found = from_operator(manifest(json.dumps({**head, "spec": spec})))
    assert (profile is None) == any(d.severity == "error" for d in found)

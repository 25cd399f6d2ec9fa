# SPDX-License-Identifier: Apache-2.0
"""The judgement: types, what the standards say nothing about, severities, levels."""

from __future__ import annotations

import pytest

from bpfence.pods.findings import Level
from bpfence.pods.harden import Options, harden
from bpfence.pods.judge import Judgement, judge
from bpfence.pods.manifest import read

POD = """\
kind: Pod
metadata:
  name: p
spec:
  automountServiceAccountToken: false
  securityContext:
    runAsNonRoot: true
    seccompProfile: {type: RuntimeDefault}
  containers:
  - name: a
    image: a:1@sha256:00
    resources: {limits: {cpu: 1, memory: 1Gi}}
    securityContext:
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: {drop: [ALL]}
"""
SECCOMP = "  name: p\n  annotations: {seccomp.security.alpha.kubernetes.io/pod: %s}\n"
OF_CONTAINER = "  name: p\n  annotations: {container.seccomp.security.alpha.kubernetes.io/%s: %s}\n"
APPARMOR = "  name: p\n  annotations:\n    container.apparmor.security.beta.kubernetes.io/a: runtime/default\n"


def judged(text: str, level: Level | None = None) -> Judgement:
    return judge(read(text.encode(), "f"), level)


def test_a_good_pod() -> None:
    assert judged(POD).findings == []
    assert [verdict.level for verdict in judged(POD).workloads] == ["restricted"]


@pytest.mark.parametrize(
    ("old", "new", "code", "severity", "place"),
    [
        ("  name: p\n", SECCOMP % "runtime/default", "obsolete-annotation", "warning", "4:17"),
        ("  name: p\n", SECCOMP % "docker/default", "obsolete-annotation", "warning", "4:17"),
        ("  name: p\n", SECCOMP % "x", "obsolete-annotation", "error", "4:17"),
        ("  name: p\n", SECCOMP % "unconfined", "obsolete-annotation", "error", "4:17"),
        ("  name: p\n", SECCOMP % "localhost/a", "obsolete-annotation", "error", "4:17"),
        ("  name: p\n", OF_CONTAINER % ("a", "localhost/a"), "obsolete-annotation", "warning", "4:17"),
        ("  name: p\n", OF_CONTAINER % ("a", "localhost/../a"), "obsolete-annotation", "error", "4:17"),
        ("  name: p\n", OF_CONTAINER % ("b", "unconfined"), "obsolete-annotation", "warning", "4:17"),
        ("  name: p\n", APPARMOR, "obsolete-annotation", "info", "5:5"),
        ("type: RuntimeDefault", "type: Localhost, localhostProfile: a.json", "seccomp-profile", "info", "8:57"),
        ("type: RuntimeDefault", "type: Localhost", "wrong-type", "error", "8:21"),
        ("type: RuntimeDefault", "type: Localhost, localhostProfile: ../x", "wrong-type", "error", "8:57"),
        ("type: RuntimeDefault", "type: RuntimeDefault, localhostProfile: x", "wrong-type", "error", "8:62"),
        ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: no", "writable-root", "warning", "15:31"),
        ("  automountServiceAccountToken: false\n", "", "service-account-token", "info", "5:3"),
        ("Token: false", "Token: true", "service-account-token", "info", "5:33"),
        (", memory: 1Gi", "", "no-memory-limit", "warning", "12:25"),
        ("cpu: 1, ", "", "no-cpu-limit", "info", "12:25"),
        ("a:1@sha256:00", "a", "image-tag", "warning", "11:12"),
        ("a:1@sha256:00", "r:5000/a", "image-tag", "warning", "11:12"),
        ("a:1@sha256:00", "r:5000/a:latest", "image-tag", "warning", "11:12"),
        ("a:1@sha256:00", "r:5000/a:1", "image-digest", "info", "11:12"),
        ("  containers:", "  hostPID: true\n  containers:", "host-namespace", "error", "9:12"),
        ("  containers:", "  shareProcessNamespace: true\n  containers:", "shared-processes", "warning", "9:26"),
        ("  containers:", "  hostUsers: true\n  containers:", "host-users", "info", "9:14"),
        ("  containers:", "  shareProcessNamespace: 1\n  containers:", "wrong-type", "error", "9:26"),
        ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "privilege-escalation", "warning", "14:33"),
        ("runAsNonRoot: true", 'runAsNonRoot: "true"', "wrong-type", "error", "7:19"),
        ("runAsNonRoot: true", "runAsNonRoot: true\n    runAsUser: 1.5", "wrong-type", "error", "8:16"),
        ("drop: [ALL]", "drop: [ALL], add: NET_BIND_SERVICE", "wrong-type", "error", "16:40"),
        ("runAsNonRoot: true", "runAsNonRoot: true\n    privileged: true", "unknown-key", "warning", "8:5"),
        ("runAsNonRoot: true", "runAsNonRoot: true\n    runAsNonroot: true", "unknown-key", "warning", "8:5"),
        ("drop: [ALL]", "drop: [ALL], Add: [X]", "unknown-key", "warning", "16:35"),
        ("runAsNonRoot: true", "runAsNonRoot: false\n    runAsNonRoot: true", "duplicate-key", "warning", "8:5"),
    ],
)  # fmt: skip
def test_findings(old: str, new: str, code: str, severity: str, place: str) -> None:
    assert old in POD
    found = judged(POD.replace(old, new)).findings
    assert (code, severity, f"f:{place}") in [(one.code, one.severity, str(one.location)) for one in found]
    assert {one.code for one in found} == {code}
    assert all(one.what and one.path for one in found)


@pytest.mark.parametrize("spec", ["[]", "{}", "{containers: []}", "{containers: {a: 1}}", "{containers: [a]}", "x", ""])
def test_what_the_api_server_refuses_has_no_level(spec: str) -> None:
    judgement = judged(f"kind: Pod\nspec: {spec}\n")
    assert [verdict.level for verdict in judgement.workloads] == ["invalid"]
    assert "wrong-type" in [finding.code for finding in judgement.findings if finding.severity == "error"]


def test_annotations_for_which_a_pod_is_refused() -> None:
    """Pods whose annotation and field differ have no level; hardening takes the annotation out."""
    text = POD.replace("  name: p\n", SECCOMP % "unconfined")
    for level in (None, "privileged", "restricted"):
        found = judged(text, level)  # type: ignore[arg-type]
        assert [verdict.level for verdict in found.workloads] == ["invalid"]
        assert [(one.code, one.severity) for one in found.findings] == [("obsolete-annotation", "error")]
    own = POD.replace("  name: p\n", OF_CONTAINER % ("a", "localhost/x")).replace("drop: [ALL]}", "drop: [ALL]}\n      seccompProfile: %s")
    assert judged(own % "{type: Localhost, localhostProfile: x}").workloads[0].level == "restricted"
    assert judged(own % "{type: Localhost, localhostProfile: y}").workloads[0].level == "invalid"
    assert judged(harden(read(text.encode(), "f"), Options()).text).workloads[0].level == "restricted"


def test_with_a_level_only_what_breaks_it() -> None:
    bad = POD.replace("a:1@sha256:00", "a").replace("drop: [ALL]", "add: [SYS_ADMIN]")
    assert [(one.code, one.severity) for one in judged(bad, "baseline").findings] == [("capability-added", "error")]
    assert judged(bad, "privileged").findings == []
    assert [one.code for one in judged("kind: Pod\nspec: {}\n", "privileged").findings] == ["wrong-type"]
    assert [(one.control, one.level) for one in judged(bad, "restricted").findings] == [
        ("Capabilities", "restricted"),
        ("Capabilities", "baseline"),
    ]


def test_a_hint_for_a_setting_in_the_wrong_context() -> None:
    (found,) = judged(POD.replace("    runAsNonRoot: true\n", "    runAsNonRoot: true\n    readOnlyRootFilesystem: true\n")).findings
    assert found.hint == "it belongs into the securityContext of each container"


@pytest.mark.parametrize(
    ("text", "code"),
    [("", "no-workload"), ("kind: Service", "no-workload"), ("text", "not-an-object"), ("[]", "not-an-object"), ("a: 1", "not-an-object")],
)
def test_what_is_not_judged(text: str, code: str) -> None:
    assert [finding.code for finding in judged(text).findings] == [code]


def test_limits_of_the_pod_count_for_its_containers() -> None:
    text = POD.replace("    resources: {limits: {cpu: 1, memory: 1Gi}}\n", "") + "  resources: {limits: {cpu: 1, memory: 1Gi}}\n"
    assert judged(text).findings == []


def test_windows_is_not_asked_for_what_it_has_not() -> None:
    text = "kind: Pod\nspec: {os: {name: windows}, automountServiceAccountToken: false, containers: [{name: a}]}"
    assert {finding.code for finding in judged(text).findings} == {"run-as-root", "no-memory-limit", "no-cpu-limit"}


def test_objects_of_other_kinds_by_their_template() -> None:
    judgement = judged("kind: Rollout\nspec: {template: {spec: {containers: [{image: 1}]}}}\n")
    assert [verdict.title for verdict in judgement.workloads] == ["Rollout"]
    assert {("unknown-kind", "f:1:7"), ("wrong-type", "f:2:47")} <= {(one.code, str(one.location)) for one in judgement.findings}

# SPDX-License-Identifier: Apache-2.0
"""Hardening: nothing but what was wanted changes, everything that can be mended is, and doing it twice changes nothing."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.documents.placed import DocumentError
from bpfence.pods import standards
from bpfence.pods.findings import Level
from bpfence.pods.harden import Hardened, Options, harden
from bpfence.pods.judge import judge
from bpfence.pods.manifest import read
from tests.unit.pods import oracle, random_manifests

CASES = sorted((Path(__file__).resolve().parents[2] / "cases" / "pods").iterdir())
EVERYTHING = Options(seccomp={"type": "Localhost", "localhostProfile": "a/b.json"}, read_only_root=True, user=10001, replace=True)
OPTIONS = [Options(), Options(level="baseline"), Options(replace=True), EVERYTHING, Options(user=7, read_only_root=True)]
SET_BY_HARDENING = {
    "seccompProfile", "appArmorProfile", "runAsNonRoot", "runAsUser", "allowPrivilegeEscalation", "readOnlyRootFilesystem", "privileged",
    "procMount", "drop", "hostPID", "hostIPC", "hostNetwork",
}  # fmt: skip


def hardened(text: str | bytes, options: Options = OPTIONS[0]) -> Hardened:
    return harden(read(text if isinstance(text, bytes) else text.encode(), "f"), options)


def bare(value: Any) -> Any:
    """A document without everything that hardening may set, and without what is empty then."""
    if isinstance(value, dict):
        made = {
            key: bare(inner)
            for key, inner in value.items()
            if key not in SET_BY_HARDENING and not re.search(r"(seccomp|apparmor)\.sec", key)
        }
        return {key: inner for key, inner in made.items() if inner not in ({}, [], None)}
    return [bare(item) for item in value] if isinstance(value, list) else value


def remarks(text: str) -> list[str]:
    return re.findall(r"# (?:remark|tail) \d+", text)


def whole_lines(text: str) -> list[str]:
    return re.findall(r"(?m)^ *# remark \d+", text)


def without_removed(text: str, result: Hardened) -> str:
    """The text without the lines and pieces that the edits took out."""
    pieces, at = [], 0
    for edit in result.edits:
        pieces.append(text[at : edit.start])
        at = edit.end
    return "".join([*pieces, text[at:]])


@settings(max_examples=250, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(OPTIONS))
def test_random_manifests(seed: int, options: Options) -> None:
    random = Random(seed)
    document = random_manifests.manifest(random)
    text = random_manifests.text(random, document)
    result = hardened(text, options)
    after = random_manifests.load(result.text)
    # What PyYAML reads is the same but for what hardening is for; every comment is there, in order, but those behind what was removed.
    assert bare(after) == bare(document), text
    assert remarks(result.text) == remarks(without_removed(text, result)), text
    assert [line.strip() for line in whole_lines(result.text)] == [line.strip() for line in whole_lines(text)], text
    assert applied(text, result.diff("f")) == result.text
    # Nothing could not be edited, and doing it again changes nothing: all that could be mended is.
    assert [one for one in result.left if one.code == "cannot-edit"] == [], text
    assert hardened(result.text, options).edits == [], text
    # What it says about the level is true, and nothing got worse.
    pod, before = random_manifests.template(after), random_manifests.template(document)
    order = ["privileged", "baseline", "restricted"]
    assert result.meets == (order.index(oracle.level(pod)) >= order.index(options.level)), text
    assert order.index(oracle.level(pod)) >= order.index(oracle.level(before)), text
    accepted(pod, before)
    if options == EVERYTHING:
        only_what_the_program_needs(result, options.level)


def accepted(pod: dict[str, Any], before: dict[str, Any]) -> None:
    """The API server takes what it took before, and what ran as root is not kept from starting."""
    for one, was in zip(oracle.containers(pod["spec"]), oracle.containers(before["spec"]), strict=True):
        context, own = one.get("securityContext") or {}, was.get("securityContext") or {}
        added = set(oracle.get(context, "capabilities", "add") or [])
        if context.get("allowPrivilegeEscalation") is False and own.get("allowPrivilegeEscalation") is not False:
            assert not context.get("privileged")
            assert not added & {"SYS_ADMIN", "CAP_SYS_ADMIN"}
        outer = pod["spec"].get("securityContext") or {}
        user = context.get("runAsUser") if context.get("runAsUser") is not None else outer.get("runAsUser")
        must = context.get("runAsNonRoot") if context.get("runAsNonRoot") is not None else outer.get("runAsNonRoot")
        if user == 0 and must:
            outer = before["spec"].get("securityContext") or {}
            assert own.get("runAsNonRoot") or (own.get("runAsNonRoot") is None and outer.get("runAsNonRoot"))


def only_what_the_program_needs(result: Hardened, level: Level) -> None:
    """With all options, what breaks the level are lists and volumes, not settings."""
    for workload in read(result.data, "f").workloads:
        codes = {broken.code or broken.control.code for broken in standards.breaks(workload, level)}
        lists = {"capability-added", "host-path", "host-takeover", "host-port", "host-probe", "selinux-options", "sysctl", "volume-type"}
        if "capability-added" in codes:
            lists.add("privilege-escalation")  # SYS_ADMIN
        if workload.windows:
            lists |= {"root-user", "run-as-root", "seccomp-off", "apparmor-off"}  # the API server refuses these there anyway
        assert codes <= lists


def applied(text: str, diff: str) -> str:
    """What a unified diff makes of a text."""
    lines, made, at = re.findall(r"[^\n]*\n|[^\n]+", text), [], 0
    rows = re.findall(r"[^\n]*\n|[^\n]+", diff)[2:]
    for number, row in enumerate(rows):
        if row.startswith("@@"):
            start = re.match(r"@@ -(\d+),(\d+) ", row)
            assert start is not None
            first = int(start[1]) - (1 if int(start[2]) else 0)
            made += lines[at:first]
            at = first
        elif not row.startswith("\\"):
            line = row[1:].removesuffix("\n") if rows[number + 1 : number + 2] and rows[number + 1].startswith("\\") else row[1:]
            if row[0] in " -":
                assert lines[at] == line
                at += 1
            if row[0] in " +":
                made.append(line)
    return "".join([*made, *lines[at:]])


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
@pytest.mark.parametrize("path", CASES, ids=lambda path: path.name)
def test_shipped_cases(path: Path, options: Options) -> None:
    data = path.read_bytes()
    result = hardened(data, options)
    assert applied(result.manifest.source.text, result.diff("f")) == result.text
    documents = [list(yaml.safe_load_all(text.replace("\t", " "))) for text in (result.manifest.source.text, result.text)]
    assert bare(documents[0]) == bare(documents[1])
    assert re.findall(r"#.*", result.text) == re.findall(r"#.*", without_removed(result.manifest.source.text, result))
    assert hardened(result.data, options).edits == []
    assert data.startswith(b"\xef\xbb\xbf") == result.data.startswith(b"\xef\xbb\xbf")
    assert data.endswith(b"\n") == result.data.endswith(b"\n")
    bare_ends = result.data.count(b"\n") - result.data.count(b"\r\n")
    assert (bare_ends if b"\r\n" in data else result.data.count(b"\r")) == 0
    assert [one for one in result.left if one.code == "cannot-edit"] == []
    for finding in judge(read(result.data, "f"), options.level).findings:
        assert not finding.control or any(finding.what in one.message for one in result.left if one.code == "left"), finding


POD = "kind: Pod\nmetadata: {name: p}\nspec:\n%s  containers:\n  - name: a\n    image: b\n%s"


@pytest.mark.parametrize(
    ("pod", "container", "options", "wanted", "left"),
    [
        ("", "", Options(), "    runAsNonRoot: true\n", ""),
        ("", "", Options(user=5), "    runAsUser: 5\n", ""),
        ("", "    securityContext: {runAsUser: 0}\n", Options(), "", "--user N"),
        ("", "    securityContext: {runAsUser: 0}\n", Options(user=5), "{runAsUser: 5, ", ""),
        ("", "    securityContext: {privileged: true}\n", Options(), ": {privileged: true}\n", "the container is privileged"),
        ("", "    securityContext: {privileged: true}\n", Options(replace=True), "{privileged: false, ", ""),
        ("", "    securityContext: {capabilities: {add: [SYS_ADMIN]}}\n", Options(), "{add: [SYS_ADMIN], drop: [ALL]}}", "SYS_ADMIN"),
        ("", "    securityContext: {allowPrivilegeEscalation: true}\n", Options(), "{allowPrivilegeEscalation: true, ", "--replace"),
        ("", "    securityContext: {seccompProfile: {type: \"Unconfined\"}}\n", Options(), 'type: "Unconfined"', "--seccomp or --replace"),
        ("", "    securityContext: {seccompProfile: {type: \"Unconfined\"}}\n", Options(replace=True), 'type: "RuntimeDefault"', ""),
        ("", "", Options(seccomp={"type": "Localhost", "localhostProfile": "yes"}), 'localhostProfile: "yes"', ""),
        ("", "", Options(read_only_root=True), "      readOnlyRootFilesystem: true\n", ""),
        ("  hostPID: yes\n", "", Options(), "  hostPID: yes\n", "--replace"),
        ("  hostPID: yes\n", "", Options(replace=True), "  hostPID: false\n", ""),
        ("  hostNetwork: true\n", "", Options(level="baseline"), "  hostNetwork: true\n", "Host Namespaces"),
        ("", "    securityContext:\n      capabilities:\n        drop:\n", Options(), "        drop:\n        - ALL\n", ""),
        ("", "    securityContext:\n      allowPrivilegeEscalation: # why\n", Options(), "Escalation: false # why\n", ""),
    ],
)  # fmt: skip
def test_one_thing(pod: str, container: str, options: Options, wanted: str, left: str) -> None:
    result = hardened(POD % (pod, container), options)
    assert wanted in result.text
    messages = [one.message for one in result.left]
    assert any(left in message for message in messages) if left else messages == []


def test_nothing_is_changed_that_need_not_be() -> None:
    for name, options in [("restricted.yaml", Options()), ("windows.yaml", Options(level="baseline"))]:
        (path,) = [path for path in CASES if path.name == name]
        assert hardened(path.read_bytes(), options).data == path.read_bytes()
    assert hardened("kind: Service\nspec:   {}   # x").text == "kind: Service\nspec:   {}   # x"


def test_what_was_kept_and_what_is_not_known_is_told() -> None:
    text = POD % ("", "    securityContext:\n      capabilities: {add: [NET_BIND_SERVICE]}\n")
    result = hardened(text)
    assert result.meets
    assert [(one.code, one.location.line) for one in result.notes] == [("kept", 8), ("not-known", 4), ("not-known", 4)]
    assert [one.code for one in hardened(text, EVERYTHING).notes] == ["kept"]


def test_annotations_become_fields() -> None:
    (path,) = [path for path in CASES if path.name == "indentless.yaml"]
    result = hardened(path.read_bytes(), Options(level="baseline"))
    assert "# told by the old runbook" in result.text
    assert "seccomp.security" not in result.text
    assert "appArmorProfile:\n            type: Localhost\n            localhostProfile: logs\n" in result.text
    unconfined = POD.replace("{name: p}", "{name: p, annotations: {container.apparmor.security.beta.kubernetes.io/a: unconfined}}") % (
        "",
        "",
    )
    assert "unconfined" in hardened(unconfined).text
    assert not hardened(unconfined).meets
    assert "annotations" not in hardened(unconfined, Options(replace=True)).text


def test_annotations_of_pods_for_windows_become_nothing() -> None:
    """The API server takes neither field there."""
    for note in (
        "container.apparmor.security.beta.kubernetes.io/a: runtime/default",
        "container.seccomp.security.alpha.kubernetes.io/a: unconfined",
    ):
        text = hardened(POD.replace("{name: p}", f"{{name: p, annotations: {{{note}}}}}") % ("  os: {name: windows}\n", "")).text
        assert "annotations" not in text
        assert "Profile" not in text


def test_shared_text_is_changed_only_where_all_that_share_it_want_it() -> None:
    shared = "x: &c {seccompProfile: {type: RuntimeDefault}}\n" + POD % (
        "",
        "    securityContext: *c\n  - name: b\n    image: b\n    securityContext: %s\n",
    )
    both = hardened(shared % "*c")
    assert (
        both.text.startswith(
            "x: &c {seccompProfile: {type: RuntimeDefault}, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}\n"
        )
        or not both.meets
    )
    one = hardened(shared % "{}")
    assert one.text.startswith("x: &c {seccompProfile: {type: RuntimeDefault}}\n")
    assert {"cannot-edit"} <= {found.code for found in one.left}
    assert "securityContext: {}" not in one.text  # the other container is hardened all the same


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_hostile_texts(data: st.DataObject) -> None:
    """Any text, and manifests with pieces changed: nothing is raised but DocumentError."""
    base = data.draw(st.sampled_from(CASES)).read_bytes()
    for _ in range(data.draw(st.integers(0, 4))):
        at, end = sorted((data.draw(st.integers(0, len(base))), data.draw(st.integers(0, len(base)))))
        piece = data.draw(
            st.one_of(st.binary(max_size=8), st.sampled_from([base[at:end], b"*own", b"&x ", b"<<: ", b"- ", b"{", b"]", b"!!int ", b"? "]))
        )
        base = base[:at] + piece + base[min(end, at + data.draw(st.integers(0, 30))) :]
    try:
        manifest = read(base, "f")
    except DocumentError:
        return
    judge(manifest)
    for options in OPTIONS:
        result = harden(manifest, options)
        assert read(result.data, "f").roots or not manifest.roots
        if not result.edits:
            assert result.data == base


ODD = [None, True, 0, -1, 1.5, "", "x", [], {}, [None], [[]], [{}], {"x": None}, {"type": []}, [["ALL"]], {"add": {"a": 1}}, "0", "true"]


def spoilt(random: Random, value: Any) -> Any:
    """The same document with values of wrong types wherever they may stand."""
    if random.random() < 0.06:
        return copy.deepcopy(random.choice(ODD))
    if isinstance(value, dict):
        return {key: spoilt(random, inner) for key, inner in value.items()}
    return [spoilt(random, item) for item in value] if isinstance(value, list) else value


@given(st.integers(0, 2**32), st.sampled_from(OPTIONS))
@settings(max_examples=250, deadline=None)
def test_wrong_types_everywhere(seed: int, options: Options) -> None:
    random = Random(seed)
    whole = random_manifests.manifest(random)
    document = spoilt(random, whole)
    manifest = read(yaml.safe_dump(document).encode(), "f")
    judgement = judge(manifest)
    refused = {finding.workload for finding in judgement.findings if finding.code == "wrong-type"}
    result = harden(manifest, options)
    if refused:
        assert [verdict.level for verdict in judgement.workloads] == ["invalid"]
        assert result.edits == []  # what the API server refuses is not made better by a setting
        assert not result.meets
    assert harden(read(result.data, "f"), options).edits == []


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_what_is_mended_is_not_found_again(seed: int) -> None:
    random = Random(seed)
    result = hardened(random_manifests.text(random, random_manifests.manifest(random)), EVERYTHING)
    judgement = judge(read(result.data, "f"))
    windows = any(workload.windows for workload in result.manifest.workloads)
    left = {finding.code for finding in judgement.findings}
    assert not left & {"wrong-type", "obsolete-annotation", "host-namespace", "privileged"}
    if not windows:
        assert not left & {"writable-root", "seccomp-missing", "seccomp-off", "apparmor-off", "proc-mount", "root-user"}
        assert "capabilities-kept" not in left


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_any_text(text: str) -> None:
    try:
        manifest = read(text.encode("utf-8", "surrogatepass"), "f")
    except DocumentError:
        return
    judge(manifest)
    assert harden(manifest, EVERYTHING).edits == []


def test_the_oracle_is_not_the_code() -> None:
    """The comparison can fail."""
    document = {"kind": "Pod", "metadata": {}, "spec": {"containers": [{"name": "a"}]}}
    worse = copy.deepcopy(document)
    worse["spec"]["hostPID"] = True  # type: ignore[index]
    assert (oracle.level(document), oracle.level(worse)) == ("baseline", "privileged")

# SPDX-License-Identifier: Apache-2.0
"""Files: the published policies, several documents, and anything."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpfence.dialects.tetragon.lower.policies import lower
from bpfence.dialects.tetragon.read import words
from bpfence.dialects.tetragon.read.document import CODES, read_sources, read_text
from bpfence.documents.files import SourceFile
from bpfence.documents.report import Report
from bpfence.documents.yaml_nodes import placed_text
from tests.unit.dialects.tetragon.texts import FILE, MASK, corpus, document, kprobe, on, text

FAULTS = {"policylibrary__egress.yaml": {"bad-value"}, "tracingpolicy__security-socket-connect-block-others.yaml": {"error-sign"}}
"""Published policies with a fault of their own: a placeholder for an address, an error without its sign."""
SECONDS = 30


def test_published_policies_are_read() -> None:
    for path in corpus():
        policies, found = read_text(path.read_text(), path.name)
        assert len(policies) == all(one.severity != "error" for one in found)
        assert {one.code for one in found} == FAULTS.get(path.name, set()), path.name


def test_documents_of_several_files() -> None:
    one, other = text(kprobes=[kprobe()]), json.dumps(document("other", lsmhooks=[{"hook": "file_open"}]))
    report = Report(CODES)
    policies = read_sources([SourceFile("a", f"{one}\n---\n{other}".encode()), SourceFile("b", one.encode())], report)
    assert [policy.name for policy in policies] == ["p", "other"]
    assert [(found.code, found.location.file) for found in report.diagnostics] == [("duplicate-policy", "b")]


def test_other_documents_are_refused() -> None:
    for written, code in (
        (text(kprobes=[kprobe()]).replace("v1alpha1", "v2"), "wrong-kind"),
        (text(kprobes=[kprobe()]).replace('"TracingPolicy"', '"SecurityPolicy"'), "wrong-kind"),
        ("- a\n", "wrong-type"), ("{", "yaml-syntax"), (text(kprobes=[kprobe()]).replace('"p"', '"P"'), "bad-value"),
    ):  # fmt: skip
        assert [found.code for found in read_text(written)[1]] == [code]
    namespaced = text(kprobes=[kprobe()], hostSelector={}).replace('"TracingPolicy"', '"TracingPolicyNamespaced"')
    assert [found.code for found in read_text(namespaced)[1]] == ["bad-value"]


anything: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**65), 2**65),
        st.text(max_size=6),
        st.sampled_from(["0x10", "5:9", "list:l", "/etc/", "CAP_KILL", "10.0.0.0/8", "AF_INET", "\udcff", "{x}", "'"]),
        st.sampled_from([*words.OPERATORS, *words.ACTIONS, *words.TYPES, "security_file_open", "security_mmap_file", "file_open"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.text(max_size=4), st.sampled_from(["index", "type", "values", "call"])), inner, max_size=3),
    ),
    max_leaves=6,
)
tests = st.fixed_dictionaries(
    {"operator": st.sampled_from(words.OPERATORS)},
    optional={
        "index": st.integers(0, 3),
        "args": st.lists(st.integers(0, 2), max_size=3),
        "values": st.lists(st.sampled_from(["1", "-1", "0x7", "3:5", "0:100000", "/a", "reg", "AF_INET", "list:l", ""]), max_size=4),
    },
)
actions = st.fixed_dictionaries(
    {"action": st.sampled_from(words.ACTIONS)},
    optional={
        "argError": st.integers(-5000, 5000),
        "argSig": st.integers(0, 64),
        "argUrl": st.text(max_size=3),
        "rateLimit": st.text(max_size=3),
    },
)
binaries = st.fixed_dictionaries(
    {"operator": st.sampled_from(words.BINARY_OPERATORS), "values": st.lists(st.text(max_size=3), min_size=1, max_size=2)},
    optional={"followChildren": st.booleans()},
)
selectors = st.fixed_dictionaries(
    {},
    optional={
        "matchArgs": st.lists(tests, max_size=3),
        "matchReturnArgs": st.lists(tests, max_size=1),
        "matchActions": st.lists(actions, max_size=3),
        "matchBinaries": st.lists(binaries, max_size=2),
        "matchPIDs": anything,
        "matchCapabilities": anything,
        "matchWorkloads": anything,
        "macros": st.lists(st.sampled_from(["m", "n"]), max_size=2),
    },
)
calls = st.sampled_from(
    ["security_file_permission", "security_mmap_file", "security_socket_connect", "security_kernel_read_file", "sys_open"]
)
arguments = st.lists(st.fixed_dictionaries({"index": st.integers(0, 3), "type": st.sampled_from(words.TYPES)}), max_size=3)
hooks = st.fixed_dictionaries(
    {"call": calls, "syscall": st.just(False)}, optional={"args": arguments, "selectors": st.lists(selectors, max_size=3), "x": anything}
)
specs = st.fixed_dictionaries(
    {"kprobes": st.lists(hooks, min_size=1, max_size=2)},
    optional={"lists": anything, "selectorsMacros": st.dictionaries(st.sampled_from(["m", "n"]), selectors), "options": anything},
)


def sound(written: str) -> None:
    """Nothing raises, and what is said has a place in the text, a known code, and can be printed."""
    begun = time.process_time()
    policies, found = read_text(written, "p.yaml")
    report = Report(CODES)
    for policy in policies:
        lower(policy, report)
    assert time.process_time() - begun < SECONDS
    lines = len(placed_text(written, "").starts)
    for one in (*found, *report.diagnostics):
        assert one.code in CODES
        assert one.message
        assert (one.message + one.hint).isprintable(), one
        assert 0 <= one.location.line <= lines


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(specs)
def test_policies_of_any_words_are_judged(spec: dict[str, Any]) -> None:
    sound(text(**spec))


@settings(deadline=None)
@given(anything, st.text(max_size=40))
def test_nothing_makes_the_reader_raise(value: Any, noise: str) -> None:
    whole = text(kprobes=[kprobe(on(0, "Prefix", "/a"), args=[FILE, MASK])])
    sound(json.dumps(document(kprobes=value)))
    sound(json.dumps(value))
    sound(whole.replace('"/a"', noise))


def test_every_code_is_documented() -> None:
    page = (Path(__file__).parents[5] / "docs" / "tetragon.md").read_text()
    assert {code for code, meaning in CODES.items() if f"| `{code}` | {meaning} |" not in page} == set()


def test_large_files_end_in_time() -> None:
    sound(text(kprobes=[kprobe(on(0, "Equal", *[f"/{n}" for n in range(20_000)]))]))
    sound(text(kprobes=[kprobe(on(1, "InRange", "0:18446744073709551615"))] * 500))
    sound("a: &a [" + "x, " * 100 + "]\nb: &b [" + "*a, " * 100 + "]\nc: [" + "*b, " * 100 + "]\n")

# SPDX-License-Identifier: Apache-2.0
"""Whole policies: what they become, and what is refused with its place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence.compiler.compile import compile_policies
from bpfence.dialects.tetragon.lower.hooks import Reads
from bpfence.dialects.tetragon.lower.policies import MAX_GENERATED, Limit, Lowered, Shown, lower
from bpfence.dialects.tetragon.read.document import CODES, read_text
from bpfence.documents.report import Report
from bpfence.errors import Diagnostic
from bpfence.evaluate import verdict
from bpfence.policy import FALSE, Action, PolicySet
from tests.unit.dialects.tetragon.texts import FILE, MASK, corpus, kprobe, on, read, text

PATH = {"index": 0, "type": "path"}
MMAP = [FILE, {"index": 1, "type": "uint32"}, {"index": 2, "type": "uint32"}]
RETURN = {"return": True, "returnArg": {"index": 0, "type": "int"}, "returnArgAction": "Post"}


def lowered(**spec: Any) -> tuple[Lowered, list[Diagnostic]]:
    policy, found = read(**spec)
    assert found == []
    report = Report(CODES)
    return lower(policy, report), report.diagnostics


def act(name: str, **more: Any) -> dict[str, Any]:
    return {"matchActions": [{"action": name, **more}]}


def decided(found: Lowered, event: str, **fields: Any) -> tuple[Action, int, list[str]]:
    values = {name.replace("__", "."): value for name, value in fields.items()}
    made = verdict(PolicySet((found.policy,)), {"event": event, "process.exe": "/bin/x", "file.memfd": 0, **values})
    return made.action, made.errno, [match.rule for match in made.matches]


def test_file_monitoring() -> None:
    """The policy that most people begin with."""
    below = on(0, "Prefix", "/etc/", "/boot")["matchArgs"]
    reads, writes = ({"matchArgs": [*below, *on(1, "Equal", mask)["matchArgs"]]} for mask in ("4", "2"))
    found, told = lowered(
        kprobes=[
            kprobe(reads, writes, message="a file", tags=["observability.filesystem"], **RETURN),
            kprobe({"matchArgs": [*below, *on(1, "Mask", "2")["matchArgs"]]}, call="security_mmap_file", args=MMAP, **RETURN),
            kprobe(on(0, "Prefix", "/etc/"), call="security_path_truncate", args=[PATH]),
        ]
    )
    assert told == []
    assert decided(found, "file.permission", file__path="/etc/passwd", file__access=1) == (Action.OBSERVE, 0, ["kprobes[0].selectors[0]"])
    assert decided(found, "file.permission", file__path="/boot/x", file__access=2) == (Action.OBSERVE, 0, ["kprobes[0].selectors[1]"])
    assert decided(found, "file.permission", file__path="/home/x", file__access=2)[0] is Action.NONE
    assert decided(found, "file.mmap", file__path="/etc/x", file__prot=3)[0] is Action.OBSERVE
    assert decided(found, "file.mmap", file__path="/etc/x", file__prot=5)[0] is Action.NONE
    sensor = found.sensors["kprobes[0].selectors[0]"]
    assert (sensor.form, sensor.function, sensor.returns) == ("process_kprobe", "security_file_permission", True)
    assert (sensor.message, sensor.tags, sensor.action) == ("a file", ("observability.filesystem",), "KPROBE_ACTION_POST")
    assert sensor.arguments == (Shown(Reads.FILE, "file", ""), Shown(Reads.ACCESS, "int", ""))
    assert not compile_policies(PolicySet((found.policy,))).unreachable


def test_the_first_selector_that_matches_decides() -> None:
    spared = {**on(0, "Equal", "/etc/x"), **act("NoPost"), "matchBinaries": [{"operator": "In", "values": ["/bin/spared"]}]}
    killed = {**on(0, "Equal", "/etc/x"), **act("Sigkill")}
    denied = {**on(0, "Prefix", "/etc/"), **act("Override", argError=-13)}
    found, told = lowered(kprobes=[kprobe(spared, killed, denied)])
    assert told == []
    assert decided(found, "file.permission", file__path="/etc/x") == (Action.KILL, 1, ["kprobes[0].selectors[1]"])
    assert decided(found, "file.permission", file__path="/etc/x", process__exe="/bin/spared")[0] is Action.NONE
    assert decided(found, "file.permission", file__path="/etc/y") == (Action.DENY, 13, ["kprobes[0].selectors[2]"])


def test_a_selector_of_its_own_is_everything() -> None:
    found, told = lowered(lsmhooks=[{"hook": "file_open", "args": [{"index": 0}]}])
    assert (told, decided(found, "file.open", file__path="/x")) == ([], (Action.OBSERVE, 0, ["lsmhooks[0]"]))
    assert found.sensors["lsmhooks[0]"].form == "process_lsm"


def test_monitor_mode_enforces_nothing() -> None:
    spec = {
        "kprobes": [kprobe({**on(0, "Equal", "/x"), **act("Override", argError=-1)})],
        "options": [{"name": "policy-mode", "value": "monitor"}],
    }
    found, told = lowered(**spec)
    assert (told, decided(found, "file.permission", file__path="/x")[0]) == ([], Action.OBSERVE)
    assert found.sensors["kprobes[0].selectors[0]"].action == "KPROBE_ACTION_OVERRIDE"


def test_what_is_denied_is_told() -> None:
    selector = {"matchActions": [{"action": "NoPost"}, {"action": "Override", "argError": -1}]}
    found, told = lowered(kprobes=[kprobe(selector)])
    assert ([one.code for one in told], found.policy.rules[0].action) == (["not-told"], Action.DENY)


@pytest.mark.parametrize(
    ("written", "limit"),
    [
        ({"rateLimit": "5"}, Limit(5, "thread")), ({"rateLimit": "2m"}, Limit(120, "thread")),
        ({"rateLimit": "1H", "rateLimitScope": "global"}, Limit(3600, "global")), ({}, None),
    ],
)  # fmt: skip
def test_rate_limits(written: dict[str, str], limit: Limit | None) -> None:
    found, told = lowered(kprobes=[kprobe(act("Post", **written))])
    assert (told, found.sensors["kprobes[0].selectors[0]"].limit) == ([], limit)


def test_lists_are_written_out() -> None:
    spec = {"kprobes": [kprobe(on(1, "InMap", "list:masks"))], "lists": [{"name": "masks", "values": ["2", "4"]}]}
    found, told = lowered(**spec)
    assert (told, [decided(found, "file.permission", file__access=access)[0].name for access in (1, 2, 4)]) == (
        [],
        ["OBSERVE", "OBSERVE", "NONE"],
    )


FLAGS = {"matchArgs": [*on(0, "Prefix", "/a")["matchArgs"], *on(2, "Mask", "1")["matchArgs"]]}
PATHS = ["/etc/a", "/etc/b/c", "/a", "/usr/bin/x"]
TEXT_TESTS = {"Equal": str.__eq__, "Prefix": str.startswith, "Postfix": str.endswith, "SubString": str.__contains__}
NUMBER_TESTS = {"Equal": int.__eq__, "Mask": lambda number, value: number & value != 0, "GT": int.__gt__, "LT": int.__lt__}
path_tests = st.builds(
    lambda operator, negated, values: on(0, f"{'Not' * (negated and operator != 'SubString')}{operator}", *values)["matchArgs"][0],
    st.sampled_from(sorted(TEXT_TESTS)),
    st.booleans(),
    st.lists(st.sampled_from(["/etc/a", "/etc/", "/a", "x", "c"]), min_size=1, max_size=2),
)
mask_tests = st.builds(
    lambda operator, values: on(1, operator, *map(str, values))["matchArgs"][0],
    st.sampled_from(["NotEqual", *NUMBER_TESTS]),
    st.lists(st.integers(0, 6), min_size=1, max_size=2),
)
any_selector = st.fixed_dictionaries(
    {"matchArgs": st.lists(st.one_of(path_tests, mask_tests), max_size=3)},
    optional={
        "matchBinaries": st.builds(
            lambda operator, value: [{"operator": operator, "values": [value]}],
            st.sampled_from(["In", "NotIn", "Prefix", "NotPostfix"]),
            st.sampled_from(["/bin/a", "/bin/", "/b"]),
        ),
        "matchActions": st.sampled_from(["Post", "NoPost", "Sigkill", "Override"]).map(lambda name: [{"action": name, "argError": -1}]),
    },
)


def passes(test: dict[str, Any], path: str, mask: int) -> bool:
    """A filter by the words of the reference."""
    operator = test["operator"].removeprefix("Not")
    if test["index"] == 0:
        found = any(TEXT_TESTS[operator](path, value) for value in test["values"])
    else:
        found = any(NUMBER_TESTS[operator](mask, int(value)) for value in test["values"])
    return found != test["operator"].startswith("Not")


def by_hand(selectors: list[dict[str, Any]], path: str, mask: int, exe: str) -> Action:
    """What a hook does by the words of the reference: the first selector of which all filters hold."""
    binaries = {"In": str.__eq__, "NotIn": str.__ne__, "Prefix": str.startswith, "NotPostfix": lambda text, end: not text.endswith(end)}
    actions = {"Post": Action.OBSERVE, "NoPost": Action.NONE, "Sigkill": Action.KILL, "Override": Action.DENY}
    for selector in selectors:
        fits = all(binaries[test["operator"]](exe, test["values"][0]) for test in selector.get("matchBinaries", ()))
        if fits and all(passes(test, path, mask) for test in selector["matchArgs"]):
            return actions[selector["matchActions"][0]["action"]] if "matchActions" in selector else Action.OBSERVE
    return Action.OBSERVE if not selectors else Action.NONE


@settings(deadline=None)
@given(st.lists(any_selector, max_size=4))
def test_selectors_decide_as_the_reference_says(selectors: list[dict[str, Any]]) -> None:
    found, told = lowered(kprobes=[kprobe(*selectors)])
    assert {one.code for one in told} <= {"never-matches"}
    for path in PATHS:
        for mask, access in ((2, 2), (4, 1)):
            for exe in ("/bin/a", "/a/b"):
                event = {"file__path": path, "file__access": access, "process__exe": exe}
                assert decided(found, "file.permission", **event)[0] is by_hand(selectors, path, mask, exe), (path, mask, exe)
    compile_policies(PolicySet((found.policy,)))


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"kprobes": [kprobe({**on(0, "Prefix", "/etc/"), **act("Override", argError=-1)}, call="vfs_fallocate")]}, "{"),
    ({"lsmhooks": [{"hook": "inode mkdir"}]}, '"hook": "inode mkdir"'),
    ({"loader": True}, '"loader": true'),
    ({"tracepoints": [{"subsystem": "s", "event": "e", "raw": True}]}, '"raw": true'),
    (
        {"uprobes": [{"path": "/bin/x", "symbols": ["main"], "binaryDigests": [{"algorithm": "sha256", "digest": "00"}]}]},
        '"binaryDigests": [',
    ),
    ({"kprobes": [kprobe()], "nodeSelector": {"matchLabels": {"a": "b"}}}, '"nodeSelector": {'),
    ({"kprobes": [kprobe()], "containerSelector": {"matchLabels": {"image": "b"}}}, "{"),
    ({"kprobes": [kprobe()], "enforcers": [{"calls": ["x"]}]}, '"calls": ['),
    ({"kprobes": [kprobe(args=[FILE, {"index": 2, "type": "int"}])]}, "{"),
    ({"kprobes": [kprobe(args=[{**FILE, "resolve": "f_inode"}])]}, "{"),
    ({"kprobes": [kprobe({"matchParentBinaries": [{"operator": "In", "values": ["/a"], "followChildren": True}]})]}, "{"),
    ({"kprobes": [kprobe(act("Post", kernelStackTrace=True))]}, '"kernelStackTrace": true'),
    (
        {"kprobes": [kprobe({"matchActions": [{"action": "Signal", "argSig": 15}, {"action": "Signal", "argSig": 10}]})]},
        '"argSig": 10',
    ),
    ({"kprobes": [kprobe(act("Override"))]}, "{"),
    ({"kprobes": [kprobe(call="security_mmap_file", args=MMAP)]}, "{"),
    ({"kprobes": [kprobe(FLAGS, call="security_mmap_file", args=MMAP)]}, "{"),
]  # fmt: skip


@pytest.mark.parametrize(
    "action",
    [act("GetUrl", argUrl="http://x"), act("DnsLookup", argFqdn="x.example"), act("TrackSock", argSock=0), act("UntrackSock", argSock=0)],
)
def test_actions_without_effect_are_told_and_the_event_as_well(action: dict[str, Any]) -> None:
    inet = {"matchArgs": [{"index": 0, "operator": "Family", "values": ["AF_INET"]}]}
    found, told = lowered(kprobes=[kprobe({**inet, **action}, call="tcp_close", args=[{"index": 0, "type": "sock"}])])
    assert [(one.code, one.severity) for one in told] == [("useless", "warning")]
    assert [rule.action for rule in found.policy.rules] == [Action.OBSERVE]


@pytest.mark.parametrize(("spec", "written"), REFUSED)
def test_what_cannot_be_put_in_force_is_refused_where_it_stands(spec: dict[str, Any], written: str) -> None:
    _, told = lowered(**spec)
    assert {one.code for one in told} == {"not-supported"}
    for one in told:
        line = text(**spec).splitlines()[one.location.line - 1]
        value = line[one.location.column - 1 :]
        assert value.startswith(written.rpartition(": ")[2]), (line, one)


@pytest.mark.parametrize(
    ("hook", "code"),
    [
        (kprobe(syscall=True), "bad-value"),
        (kprobe(args=[PATH]), "bad-value"),
        (kprobe(args=[FILE, {"index": 1, "type": "string"}]), "bad-value"),
    ],
)
def test_arguments_of_another_kind(hook: dict[str, Any], code: str) -> None:
    _, told = lowered(kprobes=[hook])
    assert [one.code for one in told] == [code]


WHOLE = {
    "policylibrary__modules.yaml",
    "policylibrary__privileges__privileges-raise.yaml",
    "policylibrary__privileges__privileges-setuid-root.yaml",
    "tracingpolicy__bpf.yaml",
    "tracingpolicy__datagram-with-selectors.yaml",
    "tracingpolicy__dev_hard_start_xmit.yaml",
    "tracingpolicy__fd_install_cap_changes.yaml",
    "tracingpolicy__fd_install_caps.yaml",
    "tracingpolicy__hardlink-observe.yaml",
    "tracingpolicy__hardlink-override.yaml",
    "tracingpolicy__host-changes__monitor-kernel-modules.yaml",
    "tracingpolicy__killer.yaml",
    "tracingpolicy__list-generated-ftrace.yaml",
    "tracingpolicy__list-syscalls-tracepoint.yaml",
    "tracingpolicy__list-syscalls.yaml",
    "tracingpolicy__modules-nohost.yaml",
    "tracingpolicy__open_geturl.yaml",
    "tracingpolicy__openat_write.yaml",
    "tracingpolicy__override-security.yaml",
    "tracingpolicy__process-credentials__creds-capability-usage.yaml",
    "tracingpolicy__process-credentials__process-creds-changed.yaml",
    "tracingpolicy__process-credentials__process-creds-installed.yaml",
    "tracingpolicy__process-exec__process-exec-elf-begin.yaml",
    "tracingpolicy__raw_syscalls.yaml",
    "tracingpolicy__sandbox__linux-namespaces__kill_unprivileged_user_namespace.yaml",
    "tracingpolicy__sandbox__linux-namespaces__kill_unprivileged_user_namespace_in_pid_namespace.yaml",
    "tracingpolicy__security-socket-connect-block-others.yaml",
    "tracingpolicy__security-socket-connect.yaml",
    "tracingpolicy__symlink-observe.yaml",
    "tracingpolicy__sys_setuid.yaml",
    "tracingpolicy__tcp-accept.yaml",
    "tracingpolicy__tcp-connect-only-private-addrs.yaml",
    "tracingpolicy__tcp-connect-with-selectors.yaml",
    "tracingpolicy__tty_54.yaml",
}


def test_published_policies_are_in_force_or_refused() -> None:
    """Nothing is dropped in silence: a policy without a mistake has a rule for every hook."""
    whole = set()
    for path in corpus():
        for policy in read_text(path.read_text(), path.name)[0]:
            report = Report(CODES)
            found = lower(policy, report, functions=lambda: ("ksys_read", "vfs_read"))
            assert all(one.location.file == path.name and one.location.line for one in report.diagnostics)
            if not report.errors:
                hooks = {f"kprobes[{n}]" for n in range(len(policy.spec.kprobes))} | {
                    f"tracepoints[{n}]" for n in range(len(policy.spec.tracepoints))
                }
                assert {name.partition(".")[0] for name in found.sensors} == hooks
                compile_policies(PolicySet((found.policy,)))
                whole.add(path.name)
    assert whole == WHOLE


MODULES = kprobe(on(1, "Equal", "2"), call="security_kernel_read_file", **RETURN)


def test_modules_are_read_or_requested() -> None:
    requested = kprobe(call="security_kernel_module_request", args=[{"index": 0, "type": "string"}], **RETURN)
    found, told = lowered(kprobes=[requested, MODULES])
    assert told == []
    named = {"module__requested": 1, "module__name": "net-pf-10"}
    assert decided(found, "kernel.module", **named) == (Action.OBSERVE, 0, ["kprobes[0]"])
    read_ = {"module__requested": 0, "file__path": "/lib/x.ko"}
    assert decided(found, "kernel.module", **read_) == (Action.OBSERVE, 0, ["kprobes[1].selectors[0]"])
    assert decided(found, "kernel.module", module__requested=0)[0] is Action.NONE
    assert [shown.constant for shown in found.sensors["kprobes[1].selectors[0]"].arguments] == [0, 2]


@pytest.mark.parametrize("test", [on(1, "Equal", "3"), on(1, "Mask", "2"), on(1, "Equal", "2", "3"), on(0, "Prefix", "/lib/")])
def test_other_files_that_the_kernel_reads_are_refused(test: dict[str, Any]) -> None:
    _, told = lowered(kprobes=[kprobe(test, call="security_kernel_read_file")])
    assert [one.code for one in told] == ["not-supported"]


def test_masks_of_every_type() -> None:
    for type_ in ("int", "uint32", "uint64", "size_t", "long"):
        _, told = lowered(kprobes=[kprobe(on(1, "Equal", "4"), args=[FILE, {**MASK, "type": type_}])])
        assert told == []


@pytest.mark.parametrize(
    ("test", "what"),
    [
        (on(0, "Equal", "/etc/./shadow"), "no path has '/./' in it"),
        (on(0, "Prefix", "/etc/../srv"), "no path has '/../' in it"),
        (on(0, "Postfix", "/a//b"), "no path has '//' in it"),
        (on(0, "Equal", "/etc/"), "no path ends in '/'"),
        (on(0, "Equal", "shadow"), "a path begins with '/'"),
        (on(0, "NotEqual", "shadow"), "a path begins with '/'"),
        (on(1, "Mask", "0"), "no value of argument 1 passes Mask with 0"),
        (on(1, "Equal", "64"), "no value of argument 1 passes Equal with 64"),
        ({"matchArgs": [*on(1, "Equal", "1")["matchArgs"], *on(1, "Equal", "2")["matchArgs"]]}, "passes this test and those before it"),
        ({"matchBinaries": [{"operator": "In", "values": ["cat"]}]}, "a path begins with '/'"),
    ],
)
def test_what_no_value_passes_is_told(test: dict[str, Any], what: str) -> None:
    _, [found] = lowered(kprobes=[kprobe(test)])
    assert (found.code, found.severity, what in found.message) == ("never-matches", "warning", True)
    assert found.location.line > 1


def test_a_path_that_the_kernel_never_has_is_not_mended() -> None:
    found, _ = lowered(kprobes=[kprobe(on(0, "Equal", "/etc/./shadow"))])
    [rule] = found.policy.rules
    assert rule.condition == FALSE
    other, _ = lowered(kprobes=[kprobe(on(0, "NotEqual", "/etc/./shadow", "/a"))])
    assert [decided(other, "file.permission", file__path=path)[0] for path in ("/a", "/etc/shadow")] == [Action.NONE, Action.OBSERVE]
    for value in ("/", "/etc/.shadow", "/etc/...", "memfd:x"):
        assert lowered(kprobes=[kprobe(on(0, "Equal", value))])[1] == []
    for operator, value in (("Prefix", "/etc/"), ("Prefix", "/etc/."), ("Postfix", "x"), ("SubString", "/")):
        assert lowered(kprobes=[kprobe(on(0, operator, value))])[1] == []


def generated(pattern: str, *functions: str) -> tuple[Lowered, list[Diagnostic]]:
    spec = {"kprobes": [kprobe(call="list:k", args=[])], "lists": [{"name": "k", "type": "generated_ftrace", "pattern": pattern}]}
    policy, found = read(**spec)
    assert found == []
    report = Report(CODES)
    return lower(policy, report, functions=lambda: functions), report.diagnostics


def test_a_list_is_generated_of_the_kernels_functions() -> None:
    made, told = generated("^ksys_*", "ksys_read", "ksys_write", "ksys_sync.isra.0", "__pfx_ksys_sync", "do_ksys_x", "vfs_read")
    assert told == []
    found = {rule.name: probe.place for rule, probe in zip(made.policy.rules, made.policy.probes, strict=True)}
    assert found == {"kprobes[0].ksys_read": "ksys_read", "kprobes[0].ksys_write": "ksys_write"}
    assert all(probe.optional and not probe.call for probe in made.policy.probes)


@pytest.mark.parametrize(
    ("pattern", "functions", "code", "said"),
    [
        ("^a", ("b",), "never-matches", "no function that matches '^a'"),
        ("^a", (), "never-matches", "does not tell its functions"),
        ("(", ("a",), "bad-value", "no pattern of RE2"),
        (".", tuple(f"f{n}" for n in range(MAX_GENERATED + 1)), "not-supported", f"{MAX_GENERATED + 1} functions"),
    ],
)
def test_a_list_that_cannot_be_generated_is_told(pattern: str, functions: tuple[str, ...], code: str, said: str) -> None:
    made, told = generated(pattern, *functions)
    assert (made.policy.probes, [one.code for one in told]) == ((), [code])
    assert said in told[0].message

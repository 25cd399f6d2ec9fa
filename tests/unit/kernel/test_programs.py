# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path

import pytest

from bpfence.dialects.falco.read.events import calls_of
from bpfence.fields import EVENTS
from bpfence.kernel.features import MEANING_BY_NAME, PREFIXES, Answer, Features, Probe
from bpfence.kernel.hooks import KNOWN, MOVES, PROGRAMS, Kind
from bpfence.kernel.programs import Plan, calls, plan, sensed, supported_events, target_of
from bpfence.syscalls import table as syscalls
from bpfence.syscalls.architectures import Arch

ROOT = Path(__file__).resolve().parents[3]
ALL = frozenset(variant.program for row in PROGRAMS for variant in row.variants)
ALWAYS = {
    "iter_task": Probe(Answer.YES),
    "struct_arguments": Probe(Answer.YES),
    "inode_storage": Probe(Answer.YES),
    "rdonly_cast": Probe(Answer.YES),
    "attach_cookie": Probe(Answer.YES),
}


def kernel(flavour: str, *, without: tuple[str, ...] = (), newest: bool = True, probes: dict[str, Probe] | None = None) -> Features:
    """A kernel with every hook of the table but `without`, in its newest (or oldest) known signature."""
    functions: dict[str, tuple[str, ...]] = {}
    for row in PROGRAMS:
        if row.hook not in without:
            count = row.variants[-1 if newest else 0].parameters or 0
            functions[target_of(row, flavour)] = ("int",) * count
    return Features({**ALWAYS, **(probes or {})}, functions)


def chosen(found: Plan) -> set[str]:
    return {choice.program for choice in found.choices}


def test_table_serves_every_event() -> None:
    served = {event for row in PROGRAMS for event in row.events}
    assert served == {event.name for event in EVENTS}


def test_table_is_consistent() -> None:
    names = [variant.program for row in PROGRAMS if row.kind is not Kind.RESULT for variant in row.variants]
    assert len(names) == len(set(names))
    results = [row.variants[0].program for row in PROGRAMS if row.kind is Kind.RESULT]
    assert len(results) == len(set(results))
    hooks = {row.hook for row in PROGRAMS}
    for row in PROGRAMS:
        assert row.variants
        assert not row.instead_of or row.instead_of in hooks
        assert not row.needs or row.needs in MEANING_BY_NAME
        counts = [variant.parameters for variant in row.variants]
        assert len(counts) == len(set(counts)), f"{row.hook}: two variants for one signature"
        if row.essential:
            assert row.tracking


def test_every_function_of_the_table_is_looked_for_in_the_kernel() -> None:
    rows = [row for row in PROGRAMS if row.kind not in (Kind.TRACEPOINT, Kind.ITERATOR, Kind.SENSOR)]
    attached = {target_of(row, flavour) for row in rows for flavour in ("lsm", "fmod_ret")}
    assert {name for name in attached if not name.startswith((*PREFIXES, "__x64_sys_"))} == set()


def test_every_program_of_the_sources_is_in_the_table() -> None:
    # recorder.bpf.c is an object of its own (tools/build_bpf.py): kernel/syscall_recorder.py loads it.
    paths = [path for path in sorted((ROOT / "bpf").glob("*.bpf.c")) if path.name != "recorder.bpf.c"]
    sources = "".join(path.read_text(encoding="utf-8") for path in paths)
    program = r'^SEC\("[^"]+"\)\n(?:int|long) (?:(?:BPF|HOOK|RETURN)_PROG(?:_IF)?\()?(\w+)'
    written = set(re.findall(program, sources, flags=re.M)) - {"LICENSE"}
    assert len(written) > 40
    assert written <= ALL


@pytest.mark.parametrize("flavour", ["lsm", "fmod_ret"])
def test_newest_kernel_gets_everything_but_the_fallbacks(flavour: str) -> None:
    found = plan(kernel(flavour), flavour, ALL)
    assert not found.gaps
    assert not any(choice.row.instead_of for choice in found.choices)
    assert supported_events(found, {}) == {event.name: "" for event in EVENTS}


def test_signature_chooses_the_variant() -> None:
    assert "path_rename__file_v2" in chosen(plan(kernel("lsm"), "lsm", ALL))
    assert "path_rename__file" in chosen(plan(kernel("lsm", newest=False), "lsm", ALL))


def test_unknown_signature_leaves_out_that_hook_only() -> None:
    features = kernel("lsm")
    functions = {**features.functions, "bpf_lsm_file_open": ("file *", "new_thing *")}
    found = plan(Features(features.probes, functions), "lsm", ALL)
    reasons = {event: reason for event, reason in supported_events(found, {}).items() if reason}
    assert list(reasons) == ["file.open"]
    assert "new_thing *" in reasons["file.open"]


def test_flavours_attach_to_different_functions() -> None:
    rows = {row.hook: row for row in PROGRAMS}
    assert target_of(rows["bprm_check_security"], "lsm") == "bpf_lsm_bprm_check_security"
    assert target_of(rows["bprm_check_security"], "fmod_ret") == "security_bprm_check"
    assert target_of(rows["userns_create"], "fmod_ret") == "security_create_user_ns"
    assert target_of(rows["file_open"], "fmod_ret") == "security_file_open"
    assert {target_of(rows["sched_process_exec"], flavour) for flavour in ("lsm", "fmod_ret")} == {"btf_trace_sched_process_exec"}


def test_absent_path_hooks_give_way_to_inode_hooks() -> None:
    paths = tuple(row.hook for row in PROGRAMS if row.hook.startswith("path_"))
    found = plan(kernel("lsm", without=paths), "lsm", ALL)
    assert {"inode_unlink__file", "inode_create__file", "inode_mkdir__file", "inode_setattr__file_v2"} <= chosen(found)
    assert not any(choice.row.hook.startswith("path_") for choice in found.choices)
    assert supported_events(found, {})["file.unlink"] == ""
    assert supported_events(found, {})["file.chmod"] != ""  # nothing stands in for path_chmod


def test_fallback_that_was_not_built_is_no_support() -> None:
    found = plan(kernel("lsm", without=("path_unlink",)), "lsm", ALL - {"inode_unlink__file"})
    assert "inode_unlink__file" in supported_events(found, {})["file.unlink"]


def test_unmet_need_counts_as_absent() -> None:
    features = kernel("lsm", newest=False, probes={"struct_arguments": Probe(Answer.NO, "loading gives EINVAL")})
    found = plan(features, "lsm", ALL)
    assert "path_chown__file" not in chosen(found)
    assert "inode_setattr__file" in chosen(found)
    gap = next(gap for gap in found.gaps if gap.hook == "path_chown")
    assert "EINVAL" in gap.reason
    assert gap.covered
    assert supported_events(found, {})["file.chown"] == ""


def test_optional_hook_is_not_missed() -> None:
    found = plan(kernel("lsm", without=("file_truncate",)), "lsm", ALL)
    assert supported_events(found, {})["file.truncate"] == ""
    assert [gap.covered for gap in found.gaps] == [True]


def test_event_without_any_hook_is_not_supported() -> None:
    found = plan(kernel("lsm", without=("uring_override_creds", "uring_sqpoll", "uring_cmd")), "lsm", ALL)
    reasons = supported_events(found, {})
    assert "bpf_lsm_uring_sqpoll" in reasons["kernel.io_uring"]
    assert reasons["file.open"] == ""


def test_event_with_one_of_two_hooks_is_not_supported() -> None:
    found = plan(kernel("lsm"), "lsm", ALL)
    reasons = supported_events(found, {"ptrace_traceme__process": "EACCES: too bad"})
    assert [event for event, reason in reasons.items() if reason] == ["process.ptrace"]
    assert "too bad" in reasons["process.ptrace"]


def test_missing_program_in_the_object_names_it() -> None:
    found = plan(kernel("fmod_ret"), "fmod_ret", ALL - {"mmap_file__file_v2"})
    gap = next(gap for gap in found.gaps if gap.hook == "mmap_file")
    assert gap.program == "mmap_file__file_v2"


def test_events_bring_their_programs_and_the_tracking_ones() -> None:
    found = plan(kernel("lsm"), "lsm", ALL)
    tracking = {choice.program for choice in found.for_events(())}
    assert tracking == {variant.program for row in PROGRAMS if row.tracking for variant in row.variants}
    both = {choice.program for choice in found.for_events(["kernel.module", "file.open"])}
    module = {"kernel_read_file", "kernel_post_read_file", "kernel_load_data", "kernel_post_load_data", "kernel_module_request"}
    assert both - tracking == {"file_open__file", KNOWN, *MOVES, *(f"{hook}__system" for hook in module)}
    with pytest.raises(KeyError):
        found.for_events(["file.nonsense"])


def test_iterator_needs_its_probe() -> None:
    found = plan(kernel("lsm", probes={"iter_task": Probe(Answer.NO)}), "lsm", ALL)
    assert not any(choice.row.kind is Kind.ITERATOR for choice in found.choices)


def test_results_are_those_of_the_calls_that_falco_names() -> None:
    hooked = {event for row in PROGRAMS if row.kind is Kind.HOOK for event in row.events}
    within = {"file.open_failed", "net.recv", "process.setid_failed"}
    returned = {event for row in PROGRAMS if row.kind is Kind.RETURN for event in row.events} - hooked - within
    wanted: dict[str, set[str]] = {}
    for event, names in calls_of().items():
        for name in names if event not in returned | {"process.executed"} else ():
            if syscalls.number(Arch.X86_64, name) is not None:
                wanted.setdefault(name, set()).add(event)
    assert {call: set(events) for call, events in calls().items()} == wanted


def test_what_is_received_is_looked_at_only_where_a_rule_asks() -> None:
    found = plan(kernel("lsm"), "lsm", ALL)
    assert {choice.program for choice in found.for_events(["net.recv"])} - {choice.program for choice in found.for_events(())} == {
        "inet_recvmsg__call", "inet6_recvmsg__call",
    }  # fmt: skip
    everything = {event.name for event in EVENTS} - {"net.recv"}
    assert not {choice.program for choice in found.for_events(everything, everything) if "recvmsg" in choice.program}


def test_one_program_tells_both_ends_of_a_change_of_ids() -> None:
    found = plan(kernel("lsm"), "lsm", ALL)

    def of(events: list[str], results: list[str]) -> set[str]:
        programs = (choice.program for choice in found.for_events(events, results))
        return {program for program in programs if program.startswith("set") and "id" in program}

    assert of(["process.setuid"], []) == set()
    assert of(["process.setuid"], ["process.setuid"]) == {"setuid__call", "setreuid__call", "setresuid__call"}
    failed = of(["process.setid_failed"], ["process.setid_failed"])
    assert {"setgid__call", "setgid__call32", "setgid16__call32", "setresuid__call"} <= failed
    assert len(failed) == 18


def test_a_call_whose_end_is_not_attached_is_not_sensed() -> None:
    assert sensed(["openat__result", "umount__result", "file_open__file"]) == {"openat", "umount2"}

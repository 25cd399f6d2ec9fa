"""Single tests: results, numbers with signs, names of numbers, ancestors, containers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence import evaluate
from bpfence.conditions.values import U64
from bpfence.dialects.falco.lower import atoms
from bpfence.dialects.falco.lower.atoms import Bounds, CallResult, On
from bpfence.dialects.falco.read.checks import Comparison, resolve_check
from bpfence.dialects.falco.read.events import FALCO_EVENT_BY_NAME
from bpfence.dialects.falco.read.language import Check, FieldRef, Word, Words
from bpfence.policy import FALSE, TRUE, Atom, Op

NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 5)


def comparison(field: str, operator: str, *values: str, modifier: str = "") -> Comparison:
    several = operator in ("in", "intersects") or modifier
    right = None if operator == "exists" else Words(tuple(map(Word, values))) if several else Word(values[0])
    name, _, argument = field.partition("[")
    return resolve_check(Check(FieldRef(name, argument[:-1] or None), operator, right, modifier))


def on(native: str = "file.open", result: CallResult = "", *, kind: str = "openat", enforcing: bool = False) -> On:
    return On(FALCO_EVENT_BY_NAME[kind], native, "kernel", enforcing, result)


@given(NUMBERS, NUMBERS, st.sampled_from(["=", "!=", "<", "<=", ">", ">="]))
def test_signed_numbers_are_compared_as_such(number: int, wanted: int, operator: str) -> None:
    found = atoms.signed_ranges("call.result", comparison("evt.rawres", operator, str(wanted)))
    expected = {"=": number == wanted, "!=": number != wanted, "<": number < wanted, "<=": number <= wanted, ">": number > wanted}
    native = {"event": "file.dup", "call.result": number % (U64 + 1)}
    assert evaluate.holds(found, native) == expected.get(operator, number >= wanted)
    assert not evaluate.holds(found, {"event": "file.dup"})


@given(st.integers(-9, 9), st.integers(0, 9), NUMBERS, st.sampled_from(["=", "!=", "<", "<=", ">", ">="]))
def test_a_number_of_which_the_bounds_are_known(low: int, width: int, wanted: int, operator: str) -> None:
    found = atoms.interval(comparison("evt.rawres", operator, str(wanted)), low, low + width)
    holds = {
        evaluate.holds(
            atoms.signed_ranges("call.result", comparison("evt.rawres", operator, str(wanted))), {"call.result": number % (U64 + 1)}
        )
        for number in range(low, low + width + 1)
    }
    assert holds == ({True, False} if found is None else {found})


YES, NO, OPEN = Bounds(TRUE, TRUE), Bounds(FALSE, FALSE), None


@pytest.mark.parametrize(
    ("build", "field", "operator", "value", "success", "failure"),
    [
        (atoms.result, "evt.res", "=", "SUCCESS", YES, NO),
        (atoms.result, "evt.res", "!=", "SUCCESS", NO, YES),
        (atoms.result, "evt.res", "=", "EINPROGRESS", NO, OPEN),
        (atoms.result, "evt.res", "startswith", "E", NO, OPEN),  # some numbers have no name
        (atoms.result, "evt.res", "startswith", "SUCC", YES, NO),
        (atoms.result, "evt.res", "exists", "", YES, YES),
        (atoms.failed, "evt.failed", "=", "true", NO, YES),
        (atoms.failed, "evt.failed", "!=", "true", YES, NO),
        (atoms.raw_result, "evt.rawres", ">=", "0", YES, NO),
        (atoms.raw_result, "evt.rawres", "<", "0", NO, YES),
        (atoms.raw_result, "evt.rawres", "=", "-2", NO, OPEN),
        (atoms.descriptor, "fd.num", ">=", "0", YES, NO),
        (atoms.descriptor, "fd.num", "=", "-1", NO, YES),
        (atoms.descriptor, "fd.num", "=", "3", OPEN, NO),
    ],
)
def test_results_of_an_opening(
    build: atoms.Build, field: str, operator: str, value: str, success: Bounds | None, failure: Bounds | None
) -> None:
    for result, wanted in (("success", success), ("failure", failure)):
        found = build(on(result=result), comparison(field, operator, value))  # type: ignore[arg-type]
        assert (found.must, found.may) == ((FALSE, TRUE) if wanted is None else (wanted.must, wanted.may)), result
    unknown = build(on(), comparison(field, operator, value))
    assert (unknown.must, unknown.may) == (FALSE, TRUE)
    enforced = build(on(enforcing=True), comparison(field, operator, value))
    assert enforced.may == (TRUE if success is None else success.may)


def test_a_process_that_ends_has_no_result() -> None:
    for build, check in ((atoms.result, comparison("evt.res", "=", "SUCCESS")), (atoms.raw_result, comparison("evt.rawres", "=", "0"))):
        found = build(on("process.exit", "success", kind="procexit"), check)
        assert (found.must, found.may) == (FALSE, TRUE)


def test_a_program_that_runs_returned_nought() -> None:
    executed = on("process.executed", "success", kind="execve")
    assert atoms.raw_result(executed, comparison("evt.rawres", "=", "0")).must == TRUE
    assert atoms.raw_result(executed, comparison("evt.rawres", "=", "1")).may == FALSE
    assert atoms.result_argument(executed, comparison("evt.arg.res", "=", "0")).must == TRUE


def test_descriptors_that_a_call_is_given() -> None:
    for result in ("success", "failure"):
        found = atoms.descriptor(on("net.connect", result, kind="connect"), comparison("fd.num", ">=", "0"))  # type: ignore[arg-type]
        assert found.must == TRUE
    assert not atoms.descriptor(on("file.mkdir", "success", kind="mkdir"), comparison("fd.num", ">=", "0")).exact


def test_names_of_numbers() -> None:
    build = atoms.named_number("call.arg0", "ptrace_request")
    trace = on("process.trace", kind="ptrace")
    assert build(trace, comparison("evt.arg.request", "=", "PTRACE_ATTACH")).must == Atom("call.arg0", Op.RANGE, (16, 16))
    several = build(trace, comparison("evt.arg.request", "contains", "PTRACE_SETREGS")).must
    assert [evaluate.holds(several, {"call.arg0": number}) for number in (13, 0x4205, 12)] == [True, True, False]
    for check in (comparison("evt.arg.request", "contains", "SETREGS"), comparison("evt.arg.request", "contains", "PTRACE_NOTHING")):
        assert build(trace, check).may == TRUE


def test_names_of_ancestors() -> None:
    found = atoms.ancestor_names(on(), comparison("proc.aname", "in", "apt", "dpkg", "a-name-of-more-than-fifteen"))
    assert found.exact
    native = {"event": "file.open", "process.ancestors.name": ("sh", "apt")}
    assert evaluate.holds(found.must, native)
    assert not evaluate.holds(found.must, {**native, "process.ancestors.name": ("sh",)})
    assert atoms.ancestor_names(on(), comparison("proc.aname", "=", "a-name-of-more-than-fifteen")).may == FALSE
    assert not atoms.ancestor_names(on(), comparison("proc.aname", "!=", "apt")).exact
    second = atoms.nth_ancestor(on(), comparison("proc.aname[2]", "=", "apt"))
    assert (second.must, evaluate.holds(second.may, native)) == (FALSE, True)


def test_flags_that_one_word_names() -> None:
    build = atoms.flag_names("call.arg0", "unshare", "|", {"CLONE_NEWUSER": 1, "CLONE_NEWUTS": 2, "BOTH": 3})
    assert build(on(), comparison("evt.arg.flags", "contains", "CLONE_NEWUSER")).must == Atom("call.arg0", Op.ANYBITS, 1)
    assert build(on(), comparison("evt.arg.flags", "icontains", "clone_newu")).must == Atom("call.arg0", Op.ANYBITS, 3)
    for wanted in ("BOTH", "NOTHING", "CLONE_NEWUSER|CLONE_NEWUTS"):
        assert build(on(), comparison("evt.arg.flags", "contains", wanted)).may == TRUE


def test_contained_in_any_case() -> None:
    found = atoms.text("process.args")(on(), comparison("proc.exeline", "icontains", "KeY"))
    assert found.must == Atom("process.args", Op.ICONTAINS, "key")

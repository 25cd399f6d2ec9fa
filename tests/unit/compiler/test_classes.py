"""bpfence.compiler.classes: atoms to tests, ranges, boolean dimensions, order."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpfence import abi
from bpfence.compiler import classes
from bpfence.compiler.automaton import Pattern
from bpfence.compiler.classes import MAX_NUMBER, Unsupported, Use, classify, lower
from bpfence.compiler.compile import compile_policies
from bpfence.compiler.image import Sample, Walker
from bpfence.errors import CompileError, Location
from bpfence.policy import Action, Atom, Condition, Op, Or, Policy, PolicySet, Rule

PORT = abi.NUM_NET_PEER_PORT


def uses(*atoms: Atom) -> dict[classes.Test, Use]:
    found = {}
    for atom in atoms:
        test = lower(atom)
        assert test is not None
        found[test] = Use(atom.field, Location("f", 1, 1), atom.fields[-1])
    return found


def numbers(slot: int, other: int, *wanted: int) -> classes.Test:
    return classes.Test(abi.DIM_NUMBERS, slot, classes.Pair(other, wanted))


@pytest.mark.parametrize(
    ("atom", "test"),
    [
        (Atom("file.path", Op.GLOB, "/a"), classes.Test(abi.DIM_STRING, abi.STR_FILE_PATH, Pattern(Op.GLOB, "/a"))),
        (Atom("file.path", Op.EXISTS), classes.Test(abi.DIM_PRESENT, abi.ABI_NUM_SLOTS + abi.STR_FILE_PATH, None)),
        (Atom("file.path", Op.OBJECT, "/a"), classes.Test(abi.DIM_BITS, abi.NUM_FILE_OBJECT, frozenset({"/a"}))),
        (Atom("file.new_path", Op.OBJECT, "/a"), classes.Test(abi.DIM_BITS, abi.NUM_NEW_OBJECT, frozenset({"/a"}))),
        (Atom("net.peer.ip", Op.EQUALS, "::1"), classes.Test(abi.DIM_STRING, abi.STR_NET_PEER_IP, Pattern(Op.CIDR, "::1"))),
        (Atom("process.uid", Op.EXISTS), classes.Test(abi.DIM_PRESENT, abi.NUM_PROCESS_UID, None)),
        (Atom("process.user", Op.RANGE, (0, 0)), classes.Test(abi.DIM_RANGE, abi.NUM_PROCESS_UID, (0, 0))),
        (Atom("file.deleted", Op.EQUALS, 1), classes.Test(abi.DIM_RANGE, abi.NUM_FILE_DELETED, (1, 1))),
        (Atom("file.uid", Op.EQUALS, "12"), classes.Test(abi.DIM_RANGE, abi.NUM_FILE_UID, (12, 12))),
        (Atom("file.uid", Op.RANGE, (-5, 1 << 70)), classes.Test(abi.DIM_RANGE, abi.NUM_FILE_UID, (0, MAX_NUMBER))),
        (Atom("file.uid", Op.RANGE, (9, 3)), None),
        (Atom("file.uid", Op.EQUALS, -1), None),
        (Atom("file.mode", Op.ANYBITS, 6), classes.Test(abi.DIM_BITS, abi.NUM_FILE_MODE, 6)),
        (Atom("file.mode", Op.ANYBITS, 0), None),
        (Atom("file.mode", Op.MASKED, (4, 4)), classes.Test(abi.DIM_BITS, abi.NUM_FILE_MODE, 4)),
        (Atom("file.mode", Op.MASKED, (6, 6)), classes.Test(abi.DIM_MASKED, abi.NUM_FILE_MODE, (6, 6))),
        (Atom("file.mode", Op.MASKED, (1, 2)), None),
        (Atom("process.uid", Op.LESS, "file.uid"), numbers(abi.NUM_PROCESS_UID, abi.NUM_FILE_UID, abi.CLASS_LESS)),
        (Atom("file.uid", Op.LESS, "process.uid"), numbers(abi.NUM_PROCESS_UID, abi.NUM_FILE_UID, abi.CLASS_GREATER)),
        (Atom("file.uid", Op.SAME, "process.user"), numbers(abi.NUM_PROCESS_UID, abi.NUM_FILE_UID, abi.CLASS_SAME)),
        (
            Atom("file.uid", Op.DIFFERENT, "process.uid"),
            numbers(abi.NUM_PROCESS_UID, abi.NUM_FILE_UID, abi.CLASS_LESS, abi.CLASS_GREATER),
        ),
        (
            Atom("process.exe", Op.BEGINS, "file.path"),
            classes.Test(abi.DIM_TEXTS, abi.STR_PROCESS_EXE, classes.Pair(abi.STR_FILE_PATH, (abi.CLASS_SAME, abi.CLASS_GREATER))),
        ),
        (
            Atom("file.path", Op.ENDS, "process.exe"),
            classes.Test(abi.DIM_TEXTS, abi.STR_PROCESS_EXE, classes.Pair(abi.STR_FILE_PATH, (abi.CLASS_LESS, abi.CLASS_SAME), True)),
        ),
        (Atom("process.ancestors.exe", Op.EXISTS), classes.Test(abi.DIM_LINEAGE, 0, frozenset({Pattern(Op.GLOB, "**")}))),
    ],
)
def test_lower(atom: Atom, test: classes.Test | None) -> None:
    assert lower(atom) == test


@pytest.mark.parametrize(
    "atom",
    [
        Atom("file.path", Op.CIDR, "10.0.0.0/8"),
        Atom("net.peer.ip", Op.GLOB, "10.*"),
        Atom("net.peer.ip", Op.CIDR, "10.0.0.0/33"),
        Atom("file.uid", Op.CONTAINS, "1"),
        Atom("file.path", Op.MASKED, (1, 1)),
        Atom("file.uid", Op.OBJECT, "/a"),
        Atom("file.uid", Op.SAME, "file.path"),
        Atom("file.uid", Op.BEGINS, "process.uid"),
        Atom("file.path", Op.LESS, "process.exe"),
        Atom("file.path", Op.SAME, "process.ancestors.exe"),
        Atom("file.path", Op.SAME, "file.path"),
        Atom("process.uid", Op.SAME, "process.user"),
        Atom("file.path", Op.SAME, "no.field"),
    ],
)
def test_lower_refuses(atom: Atom) -> None:
    with pytest.raises(Unsupported):
        lower(atom)


BOUNDS = st.one_of(st.integers(0, 12), st.integers(0, MAX_NUMBER))


@settings(deadline=None)
@given(st.lists(st.tuples(BOUNDS, BOUNDS), min_size=1, max_size=6), st.lists(BOUNDS, max_size=8))
def test_ranges(pairs: list[tuple[int, int]], values: list[int]) -> None:
    spans = [(min(p), max(p)) for p in pairs]
    found = classify(uses(*(Atom("net.peer.port", Op.RANGE, span) for span in spans)))
    (dimension,) = found.dimensions
    lowers = [low for low, _ in dimension.bounds]
    assert lowers[0] == 0
    assert lowers == sorted(set(lowers))
    assert all(a[1] != b[1] for a, b in zip(dimension.bounds, dimension.bounds[1:], strict=False))
    edges = [v for low, high in spans for v in (low - 1, low, high, high + 1) if 0 <= v <= MAX_NUMBER]
    for value in [*values, *edges, 0, MAX_NUMBER]:
        number = [n for low, n in dimension.bounds if low <= value][-1]
        true = {span for span in spans if span[0] <= value <= span[1]}
        assert {span for span in spans if number in found.of_test[classes.Test(abi.DIM_RANGE, PORT, span)][1]} == true
        assert (number == abi.CLASS_NONE) == (not true)
    assert max(n for _, n in dimension.bounds) < dimension.classes


def test_dimensions_are_subject_first_and_paths_last() -> None:
    found = classify(
        uses(
            Atom("file.path", Op.GLOB, "/a"),
            Atom("file.fstype", Op.EQUALS, "tmpfs"),
            Atom("file.path", Op.OBJECT, "/o"),
            Atom("file.access", Op.ANYBITS, 2),
            Atom("process.pid", Op.RANGE, (1, 1)),
            Atom("process.ancestors.exe", Op.GLOB, "/s"),
            Atom("process.uid", Op.RANGE, (0, 0)),
            Atom("process.cgroup", Op.GLOB, "/c"),
            Atom("process.exe", Op.EXISTS),
            Atom("process.exe", Op.GLOB, "/e"),
        )
    )
    names = [d.name for d in found.dimensions]
    assert names == [
        "process.exe exists", "process.exe", "process.cgroup", "process.uid", "process.ancestors.exe~/s",
        "process.pid", "file.access&0x2", "file.path is object /o", "file.fstype", "file.path",
    ]  # fmt: skip
    assert found.subjects == 5
    assert [d.name for d in found.dimensions if not d.joined] == ["process.uid", "process.pid", "file.access&0x2"]


def test_objects_share_bits_between_both_paths() -> None:
    found = classify(
        uses(Atom("file.path", Op.OBJECT, "/a"), Atom("file.new_path", Op.OBJECT, "/b"), Atom("file.new_path", Op.OBJECT, "/a"))
    )
    assert found.objects == ("/a", "/b")
    assert {(d.slot, d.mask) for d in found.dimensions} == {
        (abi.NUM_FILE_OBJECT, 1),
        (abi.NUM_NEW_OBJECT, 2),
        (abi.NUM_NEW_OBJECT, 1),
    }


def test_lineage_bits_of_an_executable() -> None:
    both = classes.Test(abi.DIM_LINEAGE, 0, frozenset({Pattern(Op.GLOB, "/a"), Pattern(Op.GLOB, "/b/*")}))
    one = classes.Test(abi.DIM_LINEAGE, 0, frozenset({Pattern(Op.GLOB, "/b/**")}))
    use = Use("process.ancestors.exe", Location("f", 1, 1))
    found = classify({both: use, one: use})
    assert found.lineage is not None
    masks = {path: found.lineage_masks[found.lineage.run(path)] for path in (b"/a", b"/b/c", b"/b/c/d", b"/x")}
    assert masks == {b"/a": 1, b"/b/c": 3, b"/b/c/d": 2, b"/x": 0}
    assert [d.slot for d in found.dimensions] == [0, 1]


def test_bits_of_the_names_of_ancestors() -> None:
    either = classes.Test(abi.DIM_ANCESTORS, 0, frozenset({Pattern(Op.EQUALS, "sshd"), Pattern(Op.PREFIX, "ap")}))
    one = classes.Test(abi.DIM_ANCESTORS, 0, frozenset({Pattern(Op.EQUALS, "apt")}))
    use = Use("process.ancestors.name", Location("f", 1, 1))
    found = classify({either: use, one: use})
    assert found.names is not None
    assert found.lineage is None
    masks = {name: found.names_masks[found.names.run(name)] for name in (b"sshd", b"apt", b"apk", b"sh")}
    assert masks == {b"sshd": 1, b"apt": 3, b"apk": 1, b"sh": 0}
    assert [(d.slot, d.subject) for d in found.dimensions] == [(0, False), (1, False)]


def test_too_many_names_of_ancestors_are_an_error_at_the_rule() -> None:
    use = Use("process.ancestors.name", Location("f", 4, 1))
    with pytest.raises(CompileError) as caught:
        classify({classes.Test(abi.DIM_ANCESTORS, 0, frozenset({Pattern(Op.EQUALS, f"n{n}")})): use for n in range(65)})
    (found,) = caught.value.diagnostics
    assert (found.code, found.location) == ("too-many-bits", Location("f", 4, 1))
    assert "64 different conditions on names of ancestors" in found.message


def test_patterns_in_any_case_have_a_dimension_of_their_own() -> None:
    found = classify(uses(Atom("process.args", Op.ICONTAINS, "key"), Atom("process.args", Op.CONTAINS, "key")))
    assert sorted(d.name for d in found.dimensions) == ["process.args (any case)", "process.args (anywhere)"]
    folded = next(d for d in found.dimensions if d.name.endswith("(any case)"))
    assert folded.automaton is not None
    assert [folded.automaton.run(text) for text in (b"a KeY b", b"a key", b"a ke")] == [2, 2, 1]


def test_what_arguments_begin_with_is_decided_first_and_soon() -> None:
    atoms = [Atom("process.args", Op.CONTAINS, "x"), Atom("process.args", Op.PREFIX, "/a/"), Atom("process.args", Op.EQUALS, "b")]
    found = classify(uses(*atoms))
    assert [d.name for d in found.dimensions] == ["process.args", "process.args (anywhere)"]
    walker = Walker(compile_policies(audit(*atoms)).image)
    at = walker.header["dims_ref"]
    start = walker.words[at + abi.IMAGE_DIM_WORDS - 1]
    after = walker.words[start + 1]  # where a byte leads that no pattern begins with
    assert walker.words[after] & abi.DFA_STOP


def test_contained_texts_that_are_alternatives_are_one_pattern() -> None:
    contained = [Atom("process.args", Op.CONTAINS, word) for word in ("aa", "bb", "cc")]
    folded = [Atom("process.args", Op.ICONTAINS, word) for word in ("dd", "ee")]
    compiled = compile_policies(audit(Or((*contained, *folded, Atom("process.args", Op.PREFIX, "/a/")))))
    assert {d.name: d.classes for d in compiled.dims} == {
        "process.args": 3, "process.args (anywhere)": 3, "process.args (any case)": 3,
    }  # fmt: skip
    walker = Walker(compiled.image)
    for args in (b"x aa", b"bb", b"accc", b"DD", b"x eE y", b"/a/b"):
        assert walker.walk(abi.EV_FILE_OPEN, Sample({}, {abi.STR_PROCESS_ARGS: args}))[0].verdict, args
    for args in (b"a a", b"BB", b"d d", b"x /a/b"):
        assert not walker.walk(abi.EV_FILE_OPEN, Sample({}, {abi.STR_PROCESS_ARGS: args}))[0].verdict, args


def audit(*conditions: Condition) -> PolicySet:
    """A policy with one rule on file.open for each condition."""
    rules = [
        Rule(policy="p", name=f"r{n}", events=("file.open",), condition=condition, action=Action.AUDIT)
        for n, condition in enumerate(conditions)
    ]
    return PolicySet((Policy(name="p", rules=tuple(rules)),))


def test_parents_and_ancestors_are_asked_for_last() -> None:
    found = classify(
        uses(
            Atom("process.ancestors.name", Op.EQUALS, "x"),
            Atom("process.parent.name", Op.EQUALS, "x"),
            Atom("file.text", Op.CONTAINS, ".."),
            Atom("file.path", Op.GLOB, "/a"),
        )
    )
    assert [d.field for d in found.dimensions] == ["file.path", "file.text", "process.parent.name", "process.ancestors.name"]


def test_a_field_of_many_patterns_may_take_several_dimensions() -> None:
    atoms = [Atom("process.args", Op.CONTAINS, f"word{n}.") for n in range(8)]
    found = classify(uses(*atoms), budget=100)
    assert [d.name for d in found.dimensions] == [f"process.args (anywhere)#{n + 1}" for n in range(len(found.dimensions))]
    assert len(found.dimensions) > 1
    assert len(found.of_test) == 8
    assert all(d.states <= 100 for d in found.dimensions)


def test_either_is_one_test() -> None:
    slot = abi.NUM_FILE_OBJECT
    objects = [classes.Test(abi.DIM_BITS, slot, frozenset({path})) for path in ("/b", "/a")]
    assert classes.either(*objects).paths == ["/a", "/b"]
    assert classes.either(classes.Test(abi.DIM_BITS, 5, 1), classes.Test(abi.DIM_BITS, 5, 6)).value == 7
    contained = [classes.Test(abi.DIM_STRING, 2, Pattern(Op.CONTAINS, word)) for word in ("b", "a", "a")]
    assert classes.either(*contained[:2]).value == Pattern(Op.CONTAINS, ("a", "b"))
    assert classes.either(*contained[1:]).value == Pattern(Op.CONTAINS, "a")
    patterns = [Pattern(Op.GLOB, path) for path in ("/b", "/a")]
    assert classes.either(*(classes.Test(abi.DIM_LINEAGE, 0, frozenset({p})) for p in patterns)).ancestors == patterns[::-1]


def test_all_that_compares_two_fields_is_one_dimension() -> None:
    atoms = [Atom("file.uid", op, "process.uid") for op in (Op.SAME, Op.DIFFERENT, Op.LESS)]
    found = classify(uses(*atoms, Atom("process.uid", Op.LESS, "file.uid"), Atom("file.gid", Op.SAME, "process.gid")))
    assert [(d.name, d.classes, d.subject, d.joined) for d in found.dimensions] == [
        ("process.uid against file.uid", 5, False, False),
        ("process.gid against file.gid", 5, False, False),
    ]
    texts = classify(uses(*(Atom("file.path", op, "process.exe") for op in (Op.SAME, Op.BEGINS, Op.ENDS))))
    assert [(d.name, d.classes, d.joined) for d in texts.dimensions] == [
        ("process.exe against file.path", 6, True),
        ("process.exe against file.path from the end", 6, True),
    ]


def test_a_comparison_of_what_the_subject_has_leaves_the_subject_alone() -> None:
    """The ids are read when the act is decided: a record is not computed again for them."""
    rule = Rule(policy="p", name="r", events=("file.open",), condition=Atom("file.uid", Op.SAME, "process.uid"), action=Action.DENY)
    compiled = compile_policies(PolicySet((Policy(name="p", rules=(rule,)),)))
    assert not Walker(compiled.image).header["features"] & abi.IMAGE_SUBJECT_IDS

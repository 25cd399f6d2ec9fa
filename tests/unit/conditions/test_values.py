"""One value of one field: what it becomes, what is wrong with it, and that the shorter atoms mean the same as the glob."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence import glob
from bpfence.conditions import values
from bpfence.dialects.native import language
from bpfence.documents.report import TextError
from bpfence.evaluate import holds
from bpfence.fields import FIELD_BY_NAME, FIELDS, Field, Kind
from bpfence.policy import FALSE, TRUE, And, Atom, Condition, Not, Op, Or

PATH = FIELD_BY_NAME["file.path"]
PORT = FIELD_BY_NAME["net.peer.port"]


def atom(field: str, op: Op, value: str | int | tuple[int, int] | None = None) -> Atom:
    return Atom(field, op, value)


@pytest.mark.parametrize(
    ("field", "text", "wanted"),
    [
        ("file.path", "/etc/passwd", atom("file.path", Op.EQUALS, "/etc/passwd")),
        ("file.path", r"/a\*b", atom("file.path", Op.EQUALS, "/a*b")),
        ("file.path", "/tmp/**", atom("file.path", Op.PREFIX, "/tmp/")),
        ("file.path", "**.so", atom("file.path", Op.SUFFIX, ".so")),
        ("file.path", "**/.ssh/**", atom("file.path", Op.CONTAINS, "/.ssh/")),
        ("file.path", "/tmp/*", atom("file.path", Op.GLOB, "/tmp/*")),
        ("file.path", "**", atom("file.path", Op.EXISTS)),
        ("file.path", "memfd:x", atom("file.path", Op.EQUALS, "memfd:x")),
        ("file.path", "/e/{a,b/**}", Or((atom("file.path", Op.EQUALS, "/e/a"), atom("file.path", Op.PREFIX, "/e/b/")))),
        ("file.path", "/e/{a,b*}", atom("file.path", Op.GLOB, "/e/{a,b*}")),
        ("process.args", "*secret*", atom("process.args", Op.CONTAINS, "secret")),
        ("process.args", "a?c", atom("process.args", Op.STRGLOB, "a?c")),
        ("process.name", "sshd", atom("process.name", Op.EQUALS, "sshd")),
        ("net.unix.path", "@abstract", atom("net.unix.path", Op.EQUALS, "@abstract")),
        ("net.unix.path", "/run/x.sock", atom("net.unix.path", Op.EQUALS, "/run/x.sock")),
        ("net.unix.path", "**x.sock", atom("net.unix.path", Op.SUFFIX, "x.sock")),
        ("net.peer.port", "443", atom("net.peer.port", Op.RANGE, (443, 443))),
        ("net.peer.port", "https", atom("net.peer.port", Op.RANGE, (443, 443))),
        ("net.peer.port", "1024-65535", atom("net.peer.port", Op.RANGE, (1024, 65535))),
        ("net.peer.port", " 1 - 2 ", atom("net.peer.port", Op.RANGE, (1, 2))),
        ("net.peer.port", ">=1024", atom("net.peer.port", Op.RANGE, (1024, 65535))),
        ("net.peer.port", "<1024", atom("net.peer.port", Op.RANGE, (0, 1023))),
        ("process.pid", "> 5", atom("process.pid", Op.RANGE, (6, values.U64))),
        ("process.uid", "root", atom("process.uid", Op.RANGE, (0, 0))),
        ("process.user", "root", atom("process.uid", Op.RANGE, (0, 0))),
        ("process.user", ">=1000", atom("process.uid", Op.RANGE, (1000, 2**32 - 1))),
        ("signal", "kill", atom("signal", Op.RANGE, (9, 9))),
        ("signal", "34-64", atom("signal", Op.RANGE, (34, 64))),
        ("file.mode", "0o6000", atom("file.mode", Op.ANYBITS, 0o6000)),
        ("file.mode", "04000", atom("file.mode", Op.ANYBITS, 0o4000)),
        ("file.mode", "setuid", atom("file.mode", Op.ANYBITS, 0o4000)),
        ("file.flags", "0x400", atom("file.flags", Op.ANYBITS, 0x400)),
        ("file.flags", "O_TMPFILE", atom("file.flags", Op.MASKED, (0o20200000, 0o20200000))),
        ("process.caps", "net_raw", atom("process.caps", Op.ANYBITS, 1 << 13)),
        ("process.caps", "13", atom("process.caps", Op.ANYBITS, 1 << 13)),
        ("file.memfd", "true", atom("file.memfd", Op.RANGE, (1, 1))),
        ("file.memfd", "False", atom("file.memfd", Op.RANGE, (0, 0))),
        ("net.peer.ip", "10.1.2.3", atom("net.peer.ip", Op.CIDR, "10.1.2.3/32")),
        ("net.peer.ip", "::ffff:10.0.0.0/104", atom("net.peer.ip", Op.CIDR, "10.0.0.0/8")),
        ("net.peer.ip", "2001:DB8::/32", atom("net.peer.ip", Op.CIDR, "2001:db8::/32")),
    ],
)
def test_lower(field: str, text: str, wanted: Condition) -> None:
    assert values.condition_of(FIELD_BY_NAME[field], text) == wanted


@pytest.mark.parametrize(
    ("field", "text", "code", "offset"),
    [
        ("file.path", "/a[b", "bad-glob", 2),
        ("file.path", "a/**", "unreachable", 0),
        ("file.path", "{a,b}/x", "unreachable", 0),
        ("file.path", "?tmp", "unreachable", 0),
        ("file.path", "/a//b", "unreachable", 2),
        ("file.path", "/a/.", "unreachable", 2),
        ("file.path", "", "unreachable", 0),
        ("net.unix.path", "x.sock", "unreachable", 0),
        ("net.unix.path", "/run/../x.sock", "unreachable", 4),
        ("process.name", "0123456789abcdef", "unreachable", 0),
        ("net.peer.port", "65536", "bad-number", 0),
        ("net.peer.port", "1-65536", "bad-number", 2),
        ("net.peer.port", "-1", "bad-number", 0),
        ("net.peer.port", "nowhere", "bad-name", 0),
        ("net.peer.port", "010", "bad-number", 0),
        ("net.peer.port", "<0", "unreachable", 0),
        ("net.peer.port", ">65535", "unreachable", 0),
        ("process.pid", "1.5", "bad-number", 0),
        ("process.user", "no-such-user-here", "unknown-user", 0),
        ("file.mode", "755", "bad-number", 0),
        ("file.mode", "0o0", "unreachable", 0),
        ("file.prot", "none", "unreachable", 0),
        ("process.caps", "64", "bad-number", 0),
        ("file.memfd", "yes", "wrong-type", 0),
        ("net.peer.ip", "10.0.0.1/8", "bad-address", 9),
        ("net.peer.ip", "300.0.0.1", "bad-address", 0),
        ("file.path", "!/a", "bad-value", 0),
    ],
)
def test_mistakes(field: str, text: str, code: str, offset: int) -> None:
    with pytest.raises(TextError) as e:
        values.condition_of(FIELD_BY_NAME[field], text)
    assert (e.value.code, e.value.offset) == (code, offset)


def attempt(build: Callable[[], Condition]) -> Condition | TextError:
    try:
        return build()
    except TextError as e:
        return e


PIECES = st.sampled_from(["a", "b", "/", "/x", "*", "**", "?", "[ab]", "{a,b}", "{,/**}", ".", "\\*", "{a,*}"])
SUBJECTS = st.text(alphabet="ab/x.*é", max_size=8)


@given(st.lists(PIECES, max_size=6).map("".join), st.lists(SUBJECTS, min_size=1, max_size=8))
def test_shorter_atoms_mean_what_the_glob_means(text: str, subjects: list[str]) -> None:
    for name, kind in (("process.args", "string"), ("file.path", "path")):
        condition = attempt(lambda name=name: values.pattern(FIELD_BY_NAME[name], text))
        if isinstance(condition, TextError):
            continue
        for subject in subjects:
            expected = glob.compiled(text, kind).fullmatch(subject.encode()) is not None  # type: ignore[arg-type]
            assert holds(condition, {name: subject}) == expected, (condition, subject)


@given(st.lists(PIECES, max_size=6).map("".join), st.lists(st.sampled_from(["a", "b", "x", ".a", "ab", "é"]), max_size=4))
def test_a_glob_that_is_called_unreachable_matches_no_path(text: str, parts: list[str]) -> None:
    found = attempt(lambda: values.pattern(PATH, text))
    if isinstance(found, TextError) and found.code == "unreachable":
        assert glob.compiled(text, "path").fullmatch(("/" + "/".join(parts)).encode()) is None


@given(st.sampled_from(FIELDS), st.text(max_size=20))
def test_any_text_is_a_condition_or_a_mistake_in_it(field: Field, text: str) -> None:
    found = attempt(lambda: values.condition_of(field, text))
    if isinstance(found, TextError):
        assert 0 <= found.offset <= len(text)
        assert found.message
    else:
        assert found != FALSE


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_ranges(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert values.numeric(PORT, f"{low}-{high}") == (low, high)
    assert values.numeric(PORT, hex(low)) == (low, low)


@given(st.integers(0, 2**128 - 1), st.integers(0, 128))
def test_networks_are_what_ipaddress_says(base: int, length: int) -> None:
    network = ipaddress.ip_network((base, length), strict=False)
    lowered = values.network_condition(FIELD_BY_NAME["net.peer.ip"], str(network))
    assert holds(lowered, {"net.peer.ip": str(network.network_address)})


# ---- putting together ----

A, B = atom("process.uid", Op.RANGE, (1, 1)), atom("process.gid", Op.RANGE, (2, 2))


def test_conj_and_disj_flatten_and_drop_what_says_nothing() -> None:
    assert values.conj([]) == TRUE
    assert values.disj([]) == FALSE
    assert values.conj([A, TRUE, And((B, A))]) == And((A, B))
    assert values.disj([A, FALSE, Or((B, A))]) == Or((A, B))
    assert values.conj([A, FALSE]) == FALSE
    assert values.disj([A, TRUE]) == TRUE
    assert values.conj([A]) == values.disj([A]) == A
    assert values.negation(values.negation(A)) == A
    assert values.negation(TRUE) == FALSE


def prefix(text: str) -> Atom:
    return atom("file.path", Op.PREFIX, text)


def equals(text: str) -> Atom:
    return atom("file.path", Op.EQUALS, text)


@pytest.mark.parametrize(
    ("condition", "field"),
    [
        (And((atom("process.uid", Op.RANGE, (0, 9)), atom("process.uid", Op.RANGE, (10, 20)))), "process.uid"),
        (And((atom("process.uid", Op.RANGE, (0, 10)), atom("process.uid", Op.RANGE, (10, 20)))), None),
        (And((atom("process.uid", Op.RANGE, (0, 9)), Not(atom("process.uid", Op.RANGE, (0, 20))))), "process.uid"),
        (And((atom("process.uid", Op.RANGE, (0, 21)), Not(atom("process.uid", Op.RANGE, (0, 20))))), None),
        (And((prefix("/a/"), prefix("/b/"))), "file.path"),
        (And((prefix("/a/"), prefix("/a/b/"))), None),
        (And((prefix("/a/b/"), Not(prefix("/a/")))), "file.path"),
        (And((prefix("/a/"), Not(prefix("/a/b/")))), None),
        (And((equals("/a"), atom("file.path", Op.GLOB, "/[b-z]"))), "file.path"),
        (And((equals("/b"), atom("file.path", Op.GLOB, "/[b-z]"))), None),
        (And((Not(prefix("/")), Not(equals("/a")))), None),
        (And((atom("file.path", Op.GLOB, "/a*"), atom("file.path", Op.GLOB, "/b*"))), None),  # empty, but not seen
        (FALSE, ""),
        (TRUE, None),
        (equals("/a"), None),
    ],
)
def test_contradiction(condition: Condition, field: str | None) -> None:
    assert values.contradiction(condition) == field


RANGES = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda t: atom("process.uid", Op.RANGE, (min(t), max(t))))
TEXTS = st.text(alphabet="ab", max_size=3)
STRINGS = st.one_of(TEXTS.map(equals), TEXTS.map(prefix), st.just(atom("file.path", Op.EXISTS)))


def conjunctions(atoms: st.SearchStrategy[Atom]) -> st.SearchStrategy[Condition]:
    return st.lists(
        st.one_of(atoms, atoms.map(Not), st.lists(atoms, min_size=2, max_size=3).map(lambda a: Or(tuple(a)))), min_size=2, max_size=4
    ).map(lambda parts: And(tuple(parts)))


@given(conjunctions(RANGES))
def test_contradictions_of_numbers_are_seen_exactly(condition: Condition) -> None:
    possible = any(holds(condition, {"process.uid": n}) for n in range(15)) or holds(condition, {})
    assert (values.contradiction(condition) is None) == possible


@given(conjunctions(STRINGS), st.lists(st.text(alphabet="abc", max_size=4), max_size=20))
def test_what_some_string_fulfils_is_no_contradiction(condition: Condition, texts: list[str]) -> None:
    if any(holds(condition, {"file.path": text}) for text in texts):
        assert values.contradiction(condition) is None


def test_kinds_are_all_lowered() -> None:
    samples = {
        Kind.PATH: "/a", Kind.STRING: "a", Kind.STRINGS: "/a", Kind.NUMBER: "1", Kind.NAMED: "1", Kind.FLAGS: "0x1", Kind.BOOL: "true",
        Kind.ADDRESS: "::1", Kind.USER: "0",
    }  # fmt: skip
    for field in FIELDS:
        sample = "a" if field.name.endswith(".name") else samples[field.kind]
        assert values.condition_of(field, sample), field.name


TWO_FIELDS = [
    "process.uid = file.uid and process.uid = 0",
    "file.uid = 1 and process.uid = 0 and process.uid = file.uid",
    "process.uid < file.uid and not process.uid = file.uid",
]


@pytest.mark.parametrize("text", TWO_FIELDS)
def test_what_compares_two_fields_is_no_contradiction_of_one(text: str) -> None:
    assert values.contradiction(language.parse(text).condition) is None


@given(st.text(max_size=20))
def test_folding_is_ascii_only(text: str) -> None:
    folded = values.fold(text)
    assert len(folded) == len(text)
    assert all(a == b or (a == b.lower() and b.isascii()) for a, b in zip(folded, text, strict=True))

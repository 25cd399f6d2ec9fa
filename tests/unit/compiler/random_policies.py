"""Nothing in, random policies and events out: over a vocabulary so small that rules and events meet often.

Used by the tests of the compiler. `sample` turns an event of the reference evaluator into what the kernel sees.
"""

from __future__ import annotations

import ipaddress

from hypothesis import strategies as st

from bpfence import abi, glob
from bpfence.compiler.compile import Compiled
from bpfence.compiler.image import Sample, Walker
from bpfence.fields import FIELD_BY_NAME, Kind, applies
from bpfence.policy import Action, And, Atom, Condition, Event, Not, Op, Or, Policy, PolicySet, Rule, Value

EVENTS = ("process.exec", "file.open", "file.rename", "net.connect", "process.exit")
PATHS = ("/a", "/a/b", "/a/b/c", "/ab", "/b", "/b/é", "/b/\udcff", "/")
PATH_GLOBS = ("/a", "/a/**", "/a/*", "/b/?", "/**/c", "**b", "/[!b]*", "/{a,b}/**", "/b/[é]", "**")
WORDS = ("sh", "bash", "Bash", "a b", "x/y", "É.SH", "")
ADDRESSES = ("10.0.0.1", "10.1.0.1", "192.168.1.1", "::1", "2001:db8::1", "::ffff:10.0.0.1")
NETWORKS = ("10.0.0.0/8", "10.0.0.1/32", "192.168.0.0/16", "::/0", "2001:db8::/32", "0.0.0.0/0")
NUMBERS = (0, 1, 2, 33, 1000, 65535)
OBJECTS = ("/etc/passwd", "/srv/**")

PATH_FIELDS = ("process.exe", "process.cgroup", "file.path", "file.new_path", "process.cwd")
WORD_FIELDS = ("process.name", "process.args", "file.fstype", "process.parent.name")
NUMBER_FIELDS = ("process.uid", "file.uid", "net.peer.port", "process.pid", "process.exit.code")
FLAG_FIELDS = ("file.access", "file.mode", "process.caps")

COMPARED = (
    *(("process.uid", "file.uid", op) for op in (Op.SAME, Op.DIFFERENT, Op.LESS)),
    *(("file.uid", "process.uid", op) for op in (Op.SAME, Op.DIFFERENT, Op.LESS)),
    *(("process.pid", "process.uid", op) for op in (Op.SAME, Op.LESS)),
    *(("file.path", "process.exe", op) for op in (Op.SAME, Op.DIFFERENT, Op.BEGINS, Op.ENDS)),
    *(("process.exe", "file.path", op) for op in (Op.SAME, Op.DIFFERENT, Op.BEGINS, Op.ENDS)),
    *(("process.name", "process.args", op) for op in (Op.SAME, Op.BEGINS, Op.ENDS)),
    *(("process.args", "process.name", op) for op in (Op.BEGINS, Op.ENDS)),
    *(("file.new_path", "process.cwd", op) for op in (Op.SAME, Op.BEGINS)),
    *(("net.peer.ip", "net.local.ip", op) for op in (Op.SAME, Op.DIFFERENT)),
)
"""Fields that are compared, and how."""

_numbers = st.sampled_from(NUMBERS)
_ranges = st.tuples(_numbers, _numbers).map(lambda pair: (min(pair), max(pair)))

ATOMS: st.SearchStrategy[Atom] = st.one_of(
    st.builds(Atom, st.sampled_from(PATH_FIELDS), st.just(Op.GLOB), st.sampled_from(PATH_GLOBS)),
    st.builds(Atom, st.just("process.ancestors.exe"), st.just(Op.GLOB), st.sampled_from(PATH_GLOBS[:5])),
    st.builds(Atom, st.sampled_from(WORD_FIELDS), st.just(Op.STRGLOB), st.sampled_from(("*sh", "s?", "*", "a*b"))),
    st.builds(Atom, st.sampled_from(WORD_FIELDS), st.sampled_from((Op.EQUALS, Op.PREFIX, Op.SUFFIX, Op.CONTAINS)), st.sampled_from(WORDS)),
    st.builds(Atom, st.sampled_from(WORD_FIELDS), st.just(Op.ICONTAINS), st.sampled_from(("sh", "as", "a", ".s", "é", ""))),
    st.builds(Atom, st.just("process.ancestors.name"), st.sampled_from((Op.EQUALS, Op.PREFIX, Op.CONTAINS)), st.sampled_from(WORDS)),
    st.builds(Atom, st.just("process.ancestors.name"), st.just(Op.EXISTS)),
    st.builds(Atom, st.sampled_from(NUMBER_FIELDS), st.just(Op.RANGE), _ranges),
    st.builds(Atom, st.sampled_from(FLAG_FIELDS), st.just(Op.ANYBITS), st.sampled_from((1, 2, 3, 6))),
    st.builds(Atom, st.sampled_from(FLAG_FIELDS), st.just(Op.MASKED), st.sampled_from(((3, 1), (1, 1), (2, 0)))),
    st.builds(Atom, st.just("net.peer.ip"), st.just(Op.CIDR), st.sampled_from(NETWORKS)),
    st.sampled_from(COMPARED).map(lambda pair: Atom(pair[0], pair[2], pair[1])),
    st.builds(Atom, st.sampled_from(("file.path", "process.uid", "file.new_path")), st.just(Op.EXISTS)),
    st.builds(Atom, st.sampled_from(("file.path", "file.new_path")), st.just(Op.OBJECT), st.sampled_from(OBJECTS)),
)

CONDITIONS: st.SearchStrategy[Condition] = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds(And, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Not, inner),
    ),
    max_leaves=5,
)


@st.composite
def policy_sets(draw: st.DrawFn, max_rules: int = 5) -> PolicySet:
    policies = []
    for number in range(draw(st.integers(1, 3))):
        name, mode = f"p{number}", draw(st.sampled_from(("enforce", "enforce", "audit")))
        scope = draw(st.one_of(st.just(And()), ATOMS))
        rules = []
        for index in range(draw(st.integers(0, max_rules))):
            events = tuple(draw(st.lists(st.sampled_from(EVENTS[:4]), min_size=1, max_size=3, unique=True)))
            action = draw(st.sampled_from((Action.ALLOW, Action.AUDIT, Action.DENY, Action.KILL)))
            own = draw(st.booleans())
            rules.append(
                Rule(
                    policy=name,
                    name=f"r{index}",
                    events=(*events, "process.exit") if action is Action.AUDIT else events,
                    condition=And((scope, draw(CONDITIONS))),
                    conditions={events[0]: And((scope, draw(CONDITIONS)))} if own else {},
                    action=action,
                    errno=draw(st.sampled_from((1, 2, 13))),
                )
            )
        default = draw(st.dictionaries(st.sampled_from(EVENTS[:4]), st.sampled_from((Action.AUDIT, Action.DENY, Action.ALLOW)), max_size=2))
        policies.append(Policy(name=name, mode=mode, scope=scope, default=default, rules=tuple(rules)))
    return PolicySet(tuple(policies))


@st.composite
def events(draw: st.DrawFn) -> dict[str, Value]:
    """An event with each applicable field present or not."""
    name = draw(st.sampled_from(EVENTS))
    out: dict[str, Value] = {"event": name}
    sources: dict[str, st.SearchStrategy[Value]] = {
        **dict.fromkeys(PATH_FIELDS, st.sampled_from(PATHS)),
        **dict.fromkeys(WORD_FIELDS, st.sampled_from(WORDS)),
        **dict.fromkeys(NUMBER_FIELDS, _numbers),
        **dict.fromkeys(FLAG_FIELDS, st.integers(0, 7)),
        "net.peer.ip": st.sampled_from(ADDRESSES),
        "net.local.ip": st.sampled_from(ADDRESSES),
        "process.ancestors.exe": st.lists(st.sampled_from(PATHS), max_size=2).map(tuple),
        "process.ancestors.name": st.lists(st.sampled_from(WORDS), max_size=2).map(tuple),
    }
    for field, values in sources.items():
        if applies(FIELD_BY_NAME[field], name) and draw(st.integers(0, 3)):
            out[field] = draw(values)
    for field, key in (("file.path", "file.object"), ("file.new_path", "file.new_object")):
        if applies(FIELD_BY_NAME[field], name):
            out[key] = draw(st.lists(st.sampled_from(OBJECTS), unique=True).map(tuple))
    return out


def sample(compiled: Compiled, walker: Walker, event: Event) -> Sample:
    """The slots of an event."""
    nums: dict[int, int | None] = {}
    strs: dict[int, bytes | None] = {}
    lineage = names = 0
    for name, value in event.items():
        if name == "process.ancestors.exe":
            assert isinstance(value, tuple)
            for executable in value:
                lineage |= walker.lineage(glob.encode(executable))
        elif name == "process.ancestors.name":
            assert isinstance(value, tuple)
            for one in value:
                names |= walker.names(glob.encode(one))
        elif name in ("file.object", "file.new_object"):
            assert isinstance(value, tuple)
            slot = abi.NUM_FILE_OBJECT if name == "file.object" else abi.NUM_NEW_OBJECT
            nums[slot] = sum(1 << compiled.objects.index(path) for path in value if path in compiled.objects)
        elif name != "event":
            field = FIELD_BY_NAME[name]
            slot = abi.CONSTANTS[field.slot]
            if field.kind is Kind.ADDRESS:
                address = ipaddress.ip_address(str(value))
                mapped = address.ipv4_mapped if address.version == 6 else None
                strs[slot] = (mapped or address).packed
            elif isinstance(value, int):
                nums[slot] = value
            else:
                strs[slot] = glob.encode(str(value))
    return Sample(nums, strs, lineage, names)

# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the shape of a tracing policy out: the classes are the schema that `shapes` reads by.

A member is a key of the format, in camel case unless it is named otherwise; one without a default is required. `OneOf`, `Bounds` and
`Long` beside a type are what the CRD asks of a value. Every part knows where it and each of its keys stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, NamedTuple

import msgspec

from bpfence.dialects.tetragon import kinds
from bpfence.dialects.tetragon.read import words
from bpfence.errors import Location


class OneOf(NamedTuple):
    """A text that is one of some words."""

    words: tuple[str, ...]
    what: str


class Bounds(NamedTuple):
    """The least and the greatest: of a number, its value; of a list, how many items it has. `hint`: what to do where there are more."""

    low: int
    high: int
    hint: str = ""


class Long(NamedTuple):
    """How many characters a text has."""

    low: int
    high: int


U32: Final = Bounds(0, 2**32 - 1)
S32: Final = Bounds(-(2**31), 2**31 - 1)
_NOWHERE: Final = Location("<none>")
Uint32 = Annotated[int, U32]
Strings = tuple[str, ...]
SetOperator = Annotated[str, OneOf(words.SET_OPERATORS, "operator")]


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is written in braces: where it begins, and where each key's value stands."""

    place: Location = _NOWHERE
    places: Mapping[str, Location] = msgspec.field(default_factory=dict)

    def at(self, key: str) -> Location:
        """Where the value of a key stands; the part itself where the key is not written."""
        return self.places.get(key, self.place)


class LabelExpression(Part, frozen=True, kw_only=True):
    key: str
    operator: Annotated[str, OneOf(words.LABEL_OPERATORS, "operator")]
    values: Strings = ()


class LabelSelector(Part, frozen=True, kw_only=True):
    match_labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    match_expressions: tuple[LabelExpression, ...] = ()


class HostSelector(Part, frozen=True, kw_only=True):
    """The host's own processes: it is empty."""


class Argument(Part, frozen=True, kw_only=True):
    index: Uint32
    type: Annotated[str, OneOf(words.TYPES, "type")] = "auto"
    size_arg_index: Annotated[int, Bounds(0, 5)] = 0
    return_copy: bool = False
    max_data: bool = False
    label: str = ""
    source: Annotated[str, OneOf(words.SOURCES, "source")] = ""
    resolve: str = ""
    btf_type: str = ""
    btf_type_module: str = ""

    @property
    def kind(self) -> str:
        """Its type's own name."""
        return words.plain(self.type)


class Pids(Part, frozen=True, kw_only=True):
    operator: SetOperator
    values: Annotated[tuple[Uint32, ...], Bounds(1, 4)]
    is_namespace_pid: bool = msgspec.field(default=False, name="isNamespacePID")
    follow_forks: bool = False


class ArgumentTest(Part, frozen=True, kw_only=True):
    operator: Annotated[str, OneOf(words.OPERATORS, "operator")]
    index: Uint32 = 0
    args: Annotated[tuple[Uint32, ...], Bounds(0, 2)] = ()
    values: Strings = ()


class Binaries(Part, frozen=True, kw_only=True):
    operator: Annotated[str, OneOf(words.BINARY_OPERATORS, "operator")]
    values: Annotated[Strings, Bounds(1, 65536)]
    follow_children: bool = False


class Namespaces(Part, frozen=True, kw_only=True):
    namespace: Annotated[str, OneOf(words.NAMESPACES, "namespace")]
    operator: SetOperator
    values: Annotated[Strings, Bounds(1, 4)]


class NamespaceChanges(Part, frozen=True, kw_only=True):
    operator: SetOperator
    values: Annotated[tuple[Annotated[str, OneOf(words.NAMESPACES, "namespace")], ...], Bounds(1, 10)]


class Capabilities(Part, frozen=True, kw_only=True):
    operator: SetOperator
    values: Annotated[Strings, Bounds(1, 64)]
    type: Annotated[str, OneOf(words.CAPABILITY_TYPES, "capability set")] = "Effective"
    is_namespace_capability: bool = False


class Workloads(Part, frozen=True, kw_only=True):
    pod_selector: LabelSelector | None = None
    container_selector: LabelSelector | None = None
    host_selector: HostSelector | None = None


class Action(Part, frozen=True, kw_only=True):
    action: Annotated[str, OneOf(words.ACTIONS, "action")]
    arg_error: Annotated[int, S32] = 0
    arg_sig: Annotated[int, Bounds(0, 64)] = 0
    arg_url: str = ""
    arg_fqdn: str = ""
    arg_sock: Uint32 = 0
    arg_index: Uint32 = 0
    arg_value: Annotated[int, Bounds(-(2**63), 2**64 - 1)] = 0
    arg_fd: Uint32 = 0
    arg_name: Uint32 = 0
    arg_regs: Strings = ()
    arg_new_symbol: str = ""
    arg_new_addr: Annotated[int, Bounds(0, 2**64 - 1)] = 0
    arg_new_offset: Annotated[int, Bounds(0, 2**64 - 1)] = 0
    rate_limit: str = ""
    rate_limit_scope: Annotated[str, OneOf(words.SCOPES, "scope")] = ""
    kernel_stack_trace: bool = False
    user_stack_trace: bool = False
    ima_hash: bool = False


Tests = Annotated[tuple[ArgumentTest, ...], Bounds(0, 5)]
Actions = Annotated[tuple[Action, ...], Bounds(0, 3)]


class Selector(Part, frozen=True, kw_only=True):
    """Filters of which all must hold. `macros`: selectors of the policy whose filters are added."""

    match_pids: Annotated[tuple[Pids, ...], Bounds(0, 4)] = msgspec.field(default=(), name="matchPIDs")
    match_args: Tests = ()
    match_data: Tests = ()
    match_return_args: Tests = ()
    match_binaries: Annotated[tuple[Binaries, ...], Bounds(0, 1, "write one filter with all binaries")] = ()
    match_parent_binaries: Annotated[tuple[Binaries, ...], Bounds(0, 1, "write one filter with all binaries")] = ()
    match_namespaces: Annotated[tuple[Namespaces, ...], Bounds(0, 10)] = ()
    match_namespace_changes: Annotated[tuple[NamespaceChanges, ...], Bounds(0, 1)] = ()
    match_capabilities: tuple[Capabilities, ...] = ()
    match_capability_changes: Annotated[tuple[Capabilities, ...], Bounds(0, 1)] = ()
    match_workloads: Workloads | None = None
    match_actions: Actions = ()
    match_return_actions: Actions = ()
    macros: Strings = ()


Selectors = Annotated[tuple[Selector, ...], Bounds(0, 5, "selectors of one hook are alternatives: split them into two policies")]
Arguments = Annotated[tuple[Argument, ...], Bounds(0, 5)]


class Ignore(Part, frozen=True, kw_only=True):
    call_not_found: bool = False


class IgnoreDigest(Part, frozen=True, kw_only=True):
    digest_verification_failure: bool = False


class Hook(Part, frozen=True, kw_only=True):
    """What all hooks have. `message` has at most 256 characters, each tag 2 to 128."""

    message: Annotated[str, Long(2, 2**20)] = ""
    tags: Annotated[tuple[Annotated[str, Long(2, 128)], ...], Bounds(0, 16)] = ()
    args: Arguments = ()
    selectors: Selectors = ()


class KProbe(Hook, frozen=True, kw_only=True):
    """A function of the kernel: an item of kprobes and fentries."""

    call: Annotated[str, Long(1, 512)]
    syscall: bool = True
    returns: bool = msgspec.field(default=False, name="return")
    return_arg: Argument | None = None
    return_arg_action: Annotated[str, OneOf(words.RETURN_ACTIONS, "action")] = ""
    data: Arguments = ()
    ignore: Ignore | None = None


class Tracepoint(Hook, frozen=True, kw_only=True):
    subsystem: Annotated[str, Long(1, 256)]
    event: Annotated[str, Long(1, 256)]
    raw: bool = False


class Digest(Part, frozen=True, kw_only=True):
    algorithm: Annotated[str, OneOf(words.DIGESTS, "algorithm")]
    digest: Annotated[str, Long(1, 256)]


class UProbe(Hook, frozen=True, kw_only=True):
    path: Annotated[str, Long(1, 4096)]
    btf_path: str = ""
    symbols: Strings = ()
    offsets: tuple[Annotated[int, Bounds(0, 2**64 - 1)], ...] = ()
    addrs: tuple[Annotated[int, Bounds(0, 2**64 - 1)], ...] = ()
    ref_ctr_offsets: tuple[Annotated[int, Bounds(0, 2**64 - 1)], ...] = ()
    data: Arguments = ()
    returns: bool = msgspec.field(default=False, name="return")
    return_arg: Argument | None = None
    binary_digests: tuple[Digest, ...] = ()
    ignore: IgnoreDigest | None = None


class Usdt(Hook, frozen=True, kw_only=True):
    path: Annotated[str, Long(1, 4096)]
    provider: Annotated[str, Long(1, 256)]
    name: Annotated[str, Long(1, 256)]
    btf_path: str = ""


class LsmHook(Hook, frozen=True, kw_only=True):
    hook: Annotated[str, Long(1, 256)]


class NamedList(Part, frozen=True, kw_only=True):
    name: Annotated[str, Long(1, 256)]
    type: Annotated[str, OneOf(words.LIST_TYPES, "type")] = ""
    values: Strings = ()
    pattern: str = ""


class Enforcer(Part, frozen=True, kw_only=True):
    calls: Annotated[Strings, Bounds(1, 65536)]


class Option(Part, frozen=True, kw_only=True):
    name: Annotated[str, OneOf(tuple(words.OPTIONS), "option")]
    value: str = ""


class Spec(Part, frozen=True, kw_only=True):
    kprobes: tuple[KProbe, ...] = ()
    fentries: tuple[KProbe, ...] = ()
    tracepoints: tuple[Tracepoint, ...] = ()
    uprobes: tuple[UProbe, ...] = ()
    usdts: tuple[Usdt, ...] = ()
    lsmhooks: tuple[LsmHook, ...] = ()
    loader: bool = False
    pod_selector: LabelSelector | None = None
    container_selector: LabelSelector | None = None
    host_selector: HostSelector | None = None
    node_selector: LabelSelector | None = None
    lists: tuple[NamedList, ...] = ()
    enforcers: Annotated[tuple[Enforcer, ...], Bounds(0, 1, "put all calls into one")] = ()
    options: tuple[Option, ...] = ()
    selectors_macros: Mapping[str, Selector] = msgspec.field(default_factory=dict)

    def hooks(self) -> tuple[tuple[str, Hook], ...]:
        """Every hook with its section, in the order of the sections."""
        sections: dict[str, tuple[Hook, ...]] = {
            "kprobes": self.kprobes, "fentries": self.fentries, "tracepoints": self.tracepoints, "uprobes": self.uprobes,
            "usdts": self.usdts, "lsmhooks": self.lsmhooks,
        }  # fmt: skip
        return tuple((section, hook) for section, hooks in sections.items() for hook in hooks)

    def option(self, name: str) -> str:
        """The value of an option; "" where it is not given."""
        return next((option.value for option in self.options if option.name == name), "")


class Metadata(Part, frozen=True, kw_only=True):
    """`namespace`: of a namespaced policy."""

    name: Annotated[str, Long(1, 253)]
    namespace: str = ""
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    annotations: Mapping[str, str] = msgspec.field(default_factory=dict)


class TracingPolicy(Part, frozen=True, kw_only=True):
    """A whole policy."""

    api_version: str
    kind: Annotated[str, OneOf((kinds.KIND, kinds.NAMESPACED_KIND), "kind")]
    metadata: Metadata
    spec: Spec

    @property
    def name(self) -> str:
        """Its name in alerts: with its namespace where it has one."""
        own = self.metadata
        return f"{own.namespace}/{own.name}" if self.kind == kinds.NAMESPACED_KIND and own.namespace else own.name

# SPDX-License-Identifier: Apache-2.0
"""What a policy language must bring: the one shape of every package in `dialects`.

The agent and the commands know languages only through these protocols, and find them in `registry`. A language that the kernel decides
completely (the native one) confirms nothing. The others let the kernel look for more than their rules match, and confirm in user space what
it lets through.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from bpfence.dialects.facts import Facts, Hosts
from bpfence.dialects.objects import ObjectKind
from bpfence.dialects.option import Option
from bpfence.documents.files import SourceFile
from bpfence.errors import Diagnostic, Location
from bpfence.policy import Policy

if TYPE_CHECKING:  # commands that only read policies do without events
    from bpfence.alerts.alert import RuleInfo, Said
    from bpfence.alerts.faults import Faults
    from bpfence.conditions.links import FindLinks
    from bpfence.events.source import Live, Observation


class Rules(Protocol):
    """The rules of one language: read, and chosen by its options, but not lowered yet."""

    @property
    def locations(self) -> Sequence[Location]:
        """Where each rule stands."""

    def policies(self, facts: Facts) -> tuple[Policy, ...]:
        """What the kernel decides of them. Rules that user space must confirm are audit rules whose `confirm` is the language's name."""

    def paths(self) -> Iterable[str]:
        """Paths in them that may lead through symbolic links."""

    def resolved(self, find: FindLinks, where: str) -> tuple[Rules, list[Diagnostic]]:
        """The same rules, whose paths also stand for what they lead to. `where`: words for the tree that was looked at."""

    def smaller(self, policy: Policy) -> Iterator[tuple[Policy, tuple[str, ...]]]:
        """Versions of one of `policies`, beginning with itself, that ask less and less of the kernel and miss nothing. With each: what it
        leaves to user space."""


class Context(NamedTuple):
    """What confirming needs of the agent. `source`: where observations come from. `kept`: of how many rule sets records may still come.

    `record`: the file to which every event that user space was asked to confirm is appended for a replay; None: none is. `report` takes
    messages for people.
    """

    source: Callable[[], Live]
    host: str
    kept: int
    record: Path | None
    report: Callable[[str], None]


class View(Protocol):
    """One observation as a language sees it, made when first asked for.

    `refused`: what decided that no candidate matches is the same for all records of the same kind by the same process (`records.kind`).
    """

    @property
    def refused(self) -> bool: ...

    def said(self, policy: str, rule: str) -> Said | None:
        """What a rule of a policy says about it, for its alert; None where rule or event are not known."""


class Confirm(Protocol):
    """What user space adds to the kernel's decisions for one language. One event never makes it raise: `faults` has what went wrong.

    `candidates` counts the observations that were looked at, `confirmed` those that some rule matched.
    """

    faults: Faults
    candidates: int
    confirmed: int

    def use(self, generation: int, rules: Any, infos: Iterable[RuleInfo]) -> None:
        """These rules are in force now, under the number of a generation: a `Rules` of this language; None: there are none."""

    def view(self, seen: Observation) -> View:
        """An observation as this language's rules see it."""

    def confirm(self, view: Any, among: Collection[str] | None) -> list[RuleInfo]:
        """The candidates that match. `among`: their names; None: they are not known, any rule may be one."""

    def refused(self, count: int, moment: int) -> None:
        """So many more candidates came of which a view has said `refused`, the last of them at `moment`, ns since boot."""

    def hosts(self) -> Hosts:
        """The addresses of the names of hosts that the rules mention, as far as they are known."""

    def start(self, changed: Callable[[], None]) -> None:
        """Begin work that goes on beside events; may be called again and again. `changed` is called, by any thread, when `hosts` has
        changed."""

    def flush(self) -> None:
        """Write what was recorded."""

    def reopen(self) -> None:
        """Log rotation."""

    def close(self) -> None:
        """Write what is waiting, and close everything."""


class Dialect(Protocol):
    """One policy language.

    `policies`: names that its rules have as policies in alerts, and that no other policy may have. `reads_processes`: confirming reads
    memory and files of other processes, so the privileges for it must be kept when others are given up after the start.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str:
        """Its files, for messages: "Falco rules"."""

    @property
    def policies(self) -> tuple[str, ...]: ...
    @property
    def reads_processes(self) -> bool: ...
    @property
    def options(self) -> Sequence[Option]: ...

    @property
    def forms(self) -> tuple[str, ...]:
        """How `test` can show matches, beside a table."""

    @property
    def objects(self) -> Sequence[ObjectKind]:
        """Its kinds of objects in a cluster, whose rules are a `decided.DecidedRules`; () where there are none, or where `k8s.policies`
        reads them itself."""

    def tools(self) -> Any:
        """What commands ask of it: a `dialects.tools.Tools`."""

    def choose(self, given: Mapping[str, Any]) -> Any:
        """Its options for `read`, made of the values of all options on the command line."""

    def claims(self, data: bytes) -> bool:
        """Whether a file is of this language. Only looks for its marks; does not read it as a document."""

    def read(self, sources: Sequence[SourceFile], options: Any) -> tuple[Rules, list[Diagnostic]]:
        """The rules of some files that it claims, in order. `options`: its own; None: the defaults. UsageError where they choose none."""

    def confirm(self, context: Context) -> Confirm | None:
        """What confirms its rules; None where the kernel decides them completely."""

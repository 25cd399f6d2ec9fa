# SPDX-License-Identifier: Apache-2.0
"""Compiled policies in, what a verdict number of any recent generation means out.

Called by the agent at every swap and for every alert. Records wait in the ring buffer across a reload and across a restart of the agent. So
the tables of the last generations are kept, in memory and in a private state file that the next agent reads back.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from bpfence.alerts.alert import RuleInfo, rule_info
from bpfence.compiler.compile import Compiled
from bpfence.compiler.plan import Family
from bpfence.events.values import escape, unescape
from bpfence.policy import Rule

KEPT: Final = 4
"""How many generations' tables are kept. Tables that come in force again, because only followed paths name other files, count once."""
SPANS: Final = 64
MAX_STATE_BYTES: Final = 256 << 20
STATE_VERSION: Final = 2
STATE_DIR: Final = Path("/run/bpfence")


class LeafMeaning(msgspec.Struct, frozen=True):
    """What a leaf stands for: the matching rules by number, and whether they only may match."""

    rules: tuple[int, ...]
    uncertain: bool


class Generation(msgspec.Struct, frozen=True):
    """The tables that give a generation's verdict numbers their meaning. `objects`: followed paths by bit, escaped.

    `earlier`: first and last number of each range of generations in which the same tables were in force before, oldest first. `since`: when
    these policies came in force, in seconds since 1970; 0: unknown. `families`: of rules, texts escaped.
    """

    number: int
    rules: tuple[RuleInfo, ...]
    verdicts: tuple[LeafMeaning, ...]
    objects: tuple[str, ...] = ()
    earlier: tuple[tuple[int, int], ...] = ()
    since: int = 0
    families: tuple[Family, ...] = ()

    def means(self, number: int) -> bool:
        """Whether these are the tables of that generation."""
        return number == self.number or any(first <= number <= last for first, last in self.earlier)

    def same_tables(self, other: Generation) -> bool:
        """Whether the numbers mean the same in both."""
        own = (self.rules, self.verdicts, self.objects, self.families)
        return own == (other.rules, other.verdicts, other.objects, other.families)

    def following(self, before: Generation) -> Generation:
        """This generation, with the numbers of an earlier one that has the same tables."""
        spans = list(before.earlier)
        if spans and spans[-1][1] + 1 == before.number:
            spans[-1] = (spans[-1][0], before.number)
        else:
            spans.append((before.number, before.number))
        return msgspec.structs.replace(self, earlier=tuple(spans[-SPANS:]))

    def before(self) -> Generation:
        """The same tables under the last of the `earlier` numbers."""
        *spans, (first, last) = self.earlier
        return msgspec.structs.replace(self, number=last, earlier=(*spans, *([(first, last - 1)] if first < last else [])))

    def family(self, event: str, rules: Collection[RuleInfo]) -> tuple[tuple[Family, Mapping[int, RuleInfo]], ...]:
        """The families on an event that these rules, which have matched for certain, belong to; with all their rules by number."""
        numbers = {number for number, rule in enumerate(self.rules) if any(rule is one for one in rules)} if self.families else ()
        return tuple(
            (_changed(family, unescape), {number: self.rules[number] for number in family.texts if number < len(self.rules)})
            for family in self.families
            if event in family.events and not family.texts.keys().isdisjoint(numbers)
        )

    def matched(self, verdicts: tuple[int, ...]) -> list[tuple[RuleInfo, bool]] | None:
        """The rules of some verdict numbers, each once, with whether they are uncertain. None where a number has no meaning in this
        generation."""
        certain: dict[int, bool] = {}
        for number in verdicts:
            if number >= len(self.verdicts):
                return None
            meaning = self.verdicts[number]
            for rule in meaning.rules:
                if rule >= len(self.rules):
                    return None
                certain[rule] = certain.get(rule, False) or not meaning.uncertain
        return [(self.rules[rule], not certain[rule]) for rule in sorted(certain)]


def generation(number: int, compiled: Compiled, since: int = 0, before: tuple[Compiled, Generation] | None = None) -> Generation:
    """The tables of a compiled policy set under its generation number, which comes in force now (`since`). `before`: another one, of which
    most rules may be the same.
    """
    known = {} if before is None else {id(rule): made for rule, made in zip(before[0].rules, before[1].rules, strict=True)}

    def about(rule: Rule, mode: str, number: int) -> RuleInfo:
        found, counter = known.get(id(rule)), compiled.counters.get(number, 0)
        return found if found is not None and (found.mode, found.counter) == (mode, counter) else rule_info(rule, mode, counter)

    return Generation(
        number,
        tuple(map(about, compiled.rules, compiled.modes, itertools.count())),
        tuple(LeafMeaning(tuple(verdict.rules), verdict.uncertain) for verdict in compiled.verdicts),
        tuple(escape(path) for path in compiled.objects),
        since=since,
        families=tuple(_changed(family, escape) for family in compiled.families),
    )


def _changed(family: Family, change: Callable[[str], str]) -> Family:
    """A family with other texts."""
    return msgspec.structs.replace(family, texts={rule: tuple(map(change, texts)) for rule, texts in family.texts.items()})


class StartCost(msgspec.Struct, frozen=True):
    """What it cost to put the engine in force: the programs that were loaded, and seconds of processor time.

    `load`: the kernel's, for its verifier above all. `compile`: making tables. `total`: all that the agent took until then, its own start
    and the reading of policies included. `unshared`: as in `kernel.engine.LoadCost`.
    """

    programs: int
    load: float
    compile: float
    total: float
    unshared: str = ""


class _State(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    boot_id: str
    generations: list[Generation]
    started: StartCost | None = None
    unplaced: tuple[str, ...] = ()


class Counted(msgspec.Struct):
    """Since the agent began: `rules`: how often each policy/rule has matched; `outputs`: how many lines each output has dropped, by
    name."""

    boot_id: str = ""
    rules: dict[str, int] = {}
    outputs: dict[str, int] = {}


class Counts:
    """What the agent itself counts, kept in a file for `bpfence status`. `path`: that of the state file."""

    def __init__(self, path: Path | None, boot_id: str = "") -> None:
        self._path = path.with_name(path.name.replace("generations-", "counts-")) if path is not None else None
        self._boot_id = boot_id
        self._matched: dict[tuple[str, str], int] = {}
        self._dropped: dict[str, int] = {}
        self._changed = False

    def add(self, rule: tuple[str, str]) -> None:
        """A rule, by its policy and its own name, has matched once more."""
        self._matched[rule] = self._matched.get(rule, 0) + 1
        self._changed = True

    def matches(self) -> dict[tuple[str, str], int]:
        """How often each rule has matched, by its policy and its own name; by any thread."""
        return dict(self._matched)

    def dropped(self, outputs: dict[str, int]) -> None:
        """How many lines each output has dropped until now."""
        self._changed |= outputs != self._dropped
        self._dropped = outputs

    def save(self) -> None:
        """Write the counts if they have changed. OSError where that is not possible."""
        if self._changed and self._path is not None:
            self._changed = False
            matched = {f"{policy}/{rule}": count for (policy, rule), count in self._matched.items()}
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(self._path, msgspec.json.encode(Counted(self._boot_id, matched, self._dropped)), 0o600)

    def read(self) -> Counted:
        """What an agent has written since this boot; nothing where that cannot be had."""
        try:
            counted = msgspec.json.decode(read_private(self._path), type=Counted) if self._path is not None else Counted()
        except (OSError, msgspec.DecodeError, UnicodeError, RecursionError):
            return Counted()
        return counted if counted.boot_id == self._boot_id else Counted()

    def remove(self) -> None:
        """Remove the file."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class Generations:
    """The last generations, newest last. `path` None: nothing is kept on disk. `started`: what the engine's start cost; None: unknown.
    `unplaced`: the sensors of the newest that have no place, in words."""

    def __init__(self, path: Path | None = None, boot_id: str = "") -> None:
        self._path = path
        self._boot_id = boot_id
        self._known: dict[int, Generation] = {}
        self.started: StartCost | None = None
        self.unplaced: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Generation]:
        return iter(self._known.values())

    @property
    def folder(self) -> Path | None:
        """Where the state file is; None where nothing is kept on disk."""
        return self._path.absolute().parent if self._path is not None else None

    def get(self, number: int) -> Generation | None:
        """The tables of a generation that is still known. Their own number may be a later one with the same tables."""
        return self._known.get(number) or next((known for known in reversed(self._known.values()) if known.means(number)), None)

    def add(self, new: Generation) -> None:
        """Add a generation; the oldest beyond KEPT are forgotten. OSError where the state file cannot be written.

        What was known under its number never came in force, because the kernel refused it. Other numbers keep their meaning.
        """
        refused = self._known.pop(new.number, None)
        if refused is not None and refused.earlier:
            self._known[refused.earlier[-1][1]] = refused.before()
        same = next((known for known in reversed(self._known.values()) if known.same_tables(new)), None)
        if same is not None:
            if same is next(reversed(self._known.values())) and same.since:
                new = msgspec.structs.replace(new, since=same.since)
            del self._known[same.number]
            new = new.following(same)
        self._known[new.number] = new
        while len(self._known) > KEPT:
            del self._known[next(iter(self._known))]
        self.save()

    def save(self) -> None:
        """Writes the state file anew, in one step."""
        if self._path is None:
            return
        data = msgspec.json.encode(_State(STATE_VERSION, self._boot_id, list(self._known.values()), self.started, self.unplaced))
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(self._path, data, 0o600)

    def restore(self) -> str:
        """Read what the agent before us kept. Returns the reason where that is impossible. Generations of another boot mean nothing."""
        if self._path is None:
            return ""
        try:
            data = read_private(self._path)
            state = msgspec.json.decode(data, type=_State)
        except FileNotFoundError:
            return "there is no state file"
        except (OSError, msgspec.DecodeError, UnicodeError, RecursionError) as error:
            return f"the state file cannot be read: {error}"
        if state.version != STATE_VERSION or state.boot_id != self._boot_id:
            return "the state file is from another boot or version"
        self._known = {known.number: known for known in state.generations[-KEPT:]}
        self.started, self.unplaced = state.started, state.unplaced
        return ""

    def remove(self) -> None:
        """Remove the state file: nothing is loaded any more."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def state_path(pin_dir: str, folder: Path = STATE_DIR) -> Path:
    """Where the state of the instance pinned at `pin_dir` is kept."""
    digest = hashlib.sha256(os.path.abspath(pin_dir).encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return folder / f"generations-{digest}.json"


def write_whole(path: Path, data: bytes, mode: int) -> None:
    """Put a file in place by rename, so that no reader ever sees a part of it. A link at the path is replaced, not followed."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read_private(path: Path, limit: int = MAX_STATE_BYTES) -> bytes:
    """A regular file of our own of at most `limit` bytes that nobody else can read or write. OSError where it is not that."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise OSError(f"{path} is not a private file of our own")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"{path} is larger than {limit >> 20} MiB")
    return data

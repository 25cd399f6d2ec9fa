# SPDX-License-Identifier: Apache-2.0
"""Rules that were loaded in, their tables in force in the kernel out: compile, attach, seed, swap, release; and followed paths kept up.

Called by the agent, at its start, at a reload, and when facts change. Nothing is released before the new tables count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from bpfence.agent import follow
from bpfence.agent.confirms import Confirms
from bpfence.agent.generations import Generation, Generations, generation
from bpfence.agent.kept import Kept
from bpfence.agent.kernel import Engine
from bpfence.agent.loading import Loaded, compile_smaller
from bpfence.agent.loop import Loop
from bpfence.compiler.compile import Compiled, compile_policies
from bpfence.dialects.native.dialect import NATIVE
from bpfence.errors import BpfenceError, KernelError
from bpfence.fields import EVENT_BY_NAME
from bpfence.host.memory import settle
from bpfence.policy import PolicySet, Probe, When
from bpfence.words import quoted
from bpfence.workloads.registry import Registry

FOLLOW_SECONDS: Final = 0.1
"""Followed paths are looked up at most this often, whoever renames files beside them."""
POLL_SECONDS: Final = 1.0
"""How often followed paths are looked up where they cannot be watched."""


def tables(
    loaded: Loaded, events: frozenset[str], containers: Registry, kept: Kept | None = None
) -> tuple[Compiled, tuple[str, ...]]:  # fmt: skip
    """Tables for the events that this kernel supports and the containers that there are, `kept` ones where they are the same; see
    `compile_smaller`.
    """
    details = any(name != NATIVE.name for name in loaded.in_force)

    def compiled(given: PolicySet) -> Compiled:
        workloads = tuple(containers.seen(given))

        def make() -> Compiled:
            return compile_policies(given, supported_events=events, details=details, workloads=workloads)

        return kept.get(given, events, workloads, make, details=details) if kept else make()

    return compile_smaller(loaded, compiled)


def _place(probe: Probe) -> str:
    """Where a policy asks for a sensor, in front of a message."""
    return f"{probe.location}: " if probe.location.line else ""


def unrefusing(reasons: Mapping[int, str], probes: Iterable[Probe]) -> dict[int, str]:
    """Of the sensors that could not be attached those that are to refuse, by their numbers."""
    refusing = (probe for probe in probes if EVENT_BY_NAME[probe.way.value].deniable)
    return {probe.number: reasons[probe.number] for probe in refusing if probe.number in reasons}


def results(compiled: Compiled) -> frozenset[str]:
    """The events that some rule wants the result of."""
    return compiled.events & {event for rule in compiled.rules if rule.when != When.DECIDED for event in rule.events}


class Tables:
    """What is in force. `changed` is called when followed paths have been put in force anew; `report` takes messages for people."""

    def __init__(
        self, engine: Engine, generations: Generations, confirms: Confirms, loop: Loop, containers: Registry, *,
        report: Callable[[str], None], changed: Callable[[], None], kept: Kept | None = None,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._generations = generations
        self._confirms = confirms
        self._loop = loop
        self._containers = containers
        self._kept = kept
        self._report = report
        self._changed = changed
        self.loaded: Loaded | None = None
        self.compile_seconds = 0.0
        """Processor seconds of this thread that went into making tables."""
        self.swaps = 0
        self.swap_seconds = 0.0
        """How often tables were put in force, and how long that took."""
        self.compiled: Compiled | None = None
        self.lookup = follow.Lookup()
        self._remembered: tuple[Compiled, Generation] | None = None
        self._watch: follow.Watch | None = None
        self._objects: follow.Objects = {}
        self._told: dict[str, tuple[str, ...]] = {}
        self._again = loop.timer(self.follow_again)
        self._followed = float("-inf")

    def put_in_force(self, loaded: Loaded, made: tuple[Compiled, tuple[str, ...]] | None = None) -> Compiled:
        """compile, where that was not `made` beside the loop; attach, seed, swap. Raises, and leaves what was in force."""
        compiled = self._compiled(loaded, made)
        if self._engine.attach(compiled.events, results(compiled), compiled.probes):
            # Some program did not load after all. The compiler says what that means for each rule: an error where it denies.
            compiled = self._compiled(loaded)
            self._engine.attach(compiled.events, results(compiled), compiled.probes)
        self._tell_unplaced(compiled, loaded.policies)
        self._engine.seed()
        self._watch_paths(compiled.objects)
        try:
            self._swap(compiled, self.lookup.resolve(compiled.objects, self._objects_of(compiled)), loaded)
        except BaseException:
            if self.compiled is not None and self.compiled is not compiled:
                self._watch_paths(self.compiled.objects)
                self._again.due = self._loop.now()  # what has happened in between was not watched
            raise
        self.loaded = loaded
        settle()
        return compiled

    def release(self) -> None:
        """Detach what the tables in force do not need, by any thread: where many processes are at work that takes seconds a program."""
        compiled = self.compiled
        if compiled is None:
            return
        try:
            self._engine.release(compiled.events, results(compiled), compiled.probes)
        except KernelError as error:
            self._report(f"programs that no rule needs any more could not all be detached: {error}")

    def _compiled(self, loaded: Loaded, made: tuple[Compiled, tuple[str, ...]] | None = None) -> Compiled:
        began = time.thread_time()
        compiled, left = made or tables(loaded, self._engine.supported_events(), self._containers, self._kept)
        self.compile_seconds += time.thread_time() - began
        self._tell(
            "left",
            tuple(dict.fromkeys((*left, *compiled.widened))),
            "the rules need larger tables than the kernel has room for: user space does tests on {}",
        )
        return compiled

    def _tell_unplaced(self, compiled: Compiled, policies: PolicySet) -> None:
        """Says which sensors could not be attached, and whose rules are not in force for that. KernelError: one that is to refuse."""
        reasons = self._engine.unplaced() if compiled.probes else {}
        refusing = unrefusing(reasons, compiled.probes)
        for policy in policies.policies:
            for probe in policy.probes:
                if probe.number in refusing:
                    what = f"{_place(probe)}policy {quoted(policy.name)} cannot refuse what it is to refuse: {reasons[probe.number]}"
                    raise KernelError(what, missing=probe.place, hint="leave the hook out, or change its action to Post")
        told = []
        for policy in policies.policies:
            missed = [probe for probe in policy.probes if probe.number in reasons]
            told += [f"{_place(probe)}policy {quoted(policy.name)}: {reasons[probe.number]}" for probe in missed]
        self._generations.unplaced = tuple(dict.fromkeys(told))
        self._tell("unplaced", self._generations.unplaced, "rules that see nothing and end nothing, everything else is in force: {}")

    def _tell(self, key: str, names: tuple[str, ...], text: str) -> None:
        """Says it where it is about others than before."""
        if names and names != self._told.get(key):
            self._report(text.format(", ".join(names)))
        self._told[key] = names

    def _swap(self, compiled: Compiled, resolved: follow.Resolved, loaded: Loaded) -> None:
        # Known before the first record of it can come, also to the agent after us if we are killed in between.
        began = time.monotonic()
        number = self._engine.next_generation()
        self._remember(number, compiled)
        with self._containers.swapping(compiled.workloads) as classes:
            actual = self._engine.swap(compiled.image, resolved.objects, classes)
        self.swaps += 1
        self.swap_seconds += time.monotonic() - began
        if actual != number:
            self._remember(actual, compiled)
        known = self._generations.get(actual)
        self._confirms.use(actual, loaded.in_force, known.rules if known else ())
        self.compiled, self._objects = compiled, resolved.objects
        self._tell("missing", resolved.missing, "followed paths that do not exist yet: {}; each is followed as soon as it is created")
        self._tell_silent(resolved.silent)
        text = "{}: more is below than is looked at for hard links; some files are followed by their names there only"
        self._tell("partly", resolved.partly, text)

    def _tell_silent(self, silent: tuple[str, ...]) -> None:
        self._tell("silent", silent, "followed paths on file systems that do not answer: {}; what they named before stays followed")
        if silent:
            # There may be no event that tells when they answer.
            self._again.due = self._loop.now() + POLL_SECONDS

    def _objects_of(self, compiled: Compiled) -> follow.Objects:
        """The identities in force, by the numbers that their paths have in other tables."""
        bits = {path: bit for bit, path in enumerate(compiled.objects)}
        numbers = {bit: bits[path] for bit, path in enumerate(self.compiled.objects if self.compiled else ()) if path in bits}
        moved = {key: sum(1 << new for old, new in numbers.items() if found >> old & 1) for key, found in self._objects.items()}
        return {key: found for key, found in moved.items() if found}

    def _remember(self, number: int, compiled: Compiled) -> None:
        try:
            made = generation(number, compiled, int(time.time()), self._remembered)
            self._remembered = compiled, made
            self._generations.add(made)
        except (OSError, ValueError) as error:
            self._report(f"the state file cannot be written: {error}; after a kill, waiting alerts would have no rule names")

    # ---- followed objects ----

    def _watch_paths(self, paths: Sequence[str]) -> None:
        self._again.due = None
        if self._watch is None and paths:
            try:
                self._watch = follow.Watch(self.lookup)
            except OSError as error:
                self._report(f"followed paths cannot be watched ({error}): they are looked up every {POLL_SECONDS:g} s")
            else:
                self._loop.on_readable(self._watch.fileno(), self._paths_changed)
        if paths and not (self._watch and self._watch.set_paths(paths)):
            self._again.due = self._loop.now() + POLL_SECONDS
        elif self._watch and not paths:
            self._watch.set_paths(())

    def _paths_changed(self) -> None:
        assert self._watch is not None
        if self._watch.changed():
            self._again.due = max(self._loop.now(), self._followed + FOLLOW_SECONDS)

    def follow_again(self, now: float) -> None:
        """Looks the followed paths up again and, if they name something else now, swaps in the same tables with the new identities."""
        assert self.compiled is not None
        assert self.loaded is not None
        self._followed = now
        self._watch_paths(self.compiled.objects)
        resolved = self.lookup.resolve(self.compiled.objects, self._objects)
        self._tell_silent(resolved.silent)
        if resolved.objects == self._objects:
            self._told["missing"] = resolved.missing
            return
        try:
            self._swap(self.compiled, resolved, self.loaded)
        except BpfenceError as error:
            self._report(f"followed paths name other files now, and these could not be put in force: {error}")
            self._again.due = now + POLL_SECONDS
            return
        self._changed()

    def swap_again(self) -> None:
        """Swaps in the same tables: what processes are is looked at anew, for containers that have another class now."""
        assert self.compiled is not None
        assert self.loaded is not None
        self._swap(self.compiled, self.lookup.resolve(self.compiled.objects, self._objects), self.loaded)

    def close(self) -> None:
        """Look at no path any more."""
        if self._watch:
            self._watch.close()

# SPDX-License-Identifier: Apache-2.0
"""Policy files in, enforcement in the kernel and lines on outputs out: the long-running process.

Called by `bpfence run` and `bpfence exec`. Start, in this order:

    read      policies and Falco rules → PolicySet, RuleSet; a mistake ends the start before anything is touched
    load      programs and maps: a new instance, or the one that an earlier agent left pinned
    compile   PolicySet → tables, for the events that this kernel supports
    attach    what the tables need, before they count; then seed process records, then swap: from here on policies are in force
    release   what the last policies needed and these do not
    drop      privileges that nothing later needs; where that fails, the start fails
    ready     the ready file, and READY=1 for systemd

Falco rules may mention names of hosts. When these have other addresses, compile and what follows it run again, for the rules as loaded.

A record is a decision (alerts of its rules, at once) or a candidate of Falco rules (which `detection` confirms), or both.
A reload runs read, compile, attach, swap and release again; when any of it fails, the old policies stay in force. Only this module
decides when; what the kernel side is, comes in as `Kernel`, and tests give their own.
"""

from __future__ import annotations

import gc
import os
import selectors
import signal
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from msgspec import UNSET

from bpfence import abi
from bpfence.agent import follow, privileges
from bpfence.agent.generations import KEPT, Counts, Generations, generation, state_path, write_whole
from bpfence.agent.loading import FalcoOptions, Loaded, compile_smaller, load, with_hosts
from bpfence.agent.remake import Made, Remake
from bpfence.alerts.acts import Acts
from bpfence.alerts.alert import Composer, Line, RuleInfo, host_name, joined
from bpfence.alerts.limit import RateLimiter
from bpfence.compiler.compile import Compiled, compile_policies
from bpfence.dialects.falco.confirm.detection import Detection, Events, KernelEvents, View
from bpfence.dialects.falco.confirm.rules import Faults, RuleSet
from bpfence.dialects.falco.lower.policies import ENFORCING
from bpfence.dialects.falco.recording import Recorder
from bpfence.errors import BpfenceError, Diagnostic, KernelError, PolicyError, UsageError
from bpfence.events.loss import grown
from bpfence.events.process import Clock, read_boot_id
from bpfence.events.records import ExecImage
from bpfence.events.source import Live, Observation
from bpfence.events.values import escape
from bpfence.host.cgroups import CgroupPaths, find_hierarchy
from bpfence.host.hostnames import Notice
from bpfence.host.links import Links
from bpfence.host.service import notify
from bpfence.host.signals import Signals
from bpfence.outputs.routes import Outputs
from bpfence.policy import Action, Condition, PolicySet, When

LOSS_SECONDS: Final = 1.0
"""How long after records came the counters of lost ones are looked at."""
QUIET_SECONDS: Final = 10.0
"""How often that, and what the kernel has skipped, is looked at when nothing comes."""
FOLLOW_SECONDS: Final = 0.1
"""Followed paths are looked up at most this often, whoever renames files beside them."""
POLL_SECONDS: Final = 1.0
"""How often followed paths are looked up where they cannot be watched."""
SETTLE_SECONDS: Final = 0.5
"""How long after one name of a host has got other addresses the tables are made anew: at first they all do."""
HOSTS_SECONDS: Final = 10.0
"""They are made anew at most this often, and so that it takes at most one part in HOSTS_SHARE of the time."""
HOSTS_SHARE: Final = 20.0
RETRY_SECONDS: Final = 60.0
"""When that is tried again if it fails."""
BATCHES: Final = 16
"""Batches of records between looks at signals."""
UNKNOWN: Final = "<unknown>"
CAN_SKIP: Final = (
    "on this kernel ({why}) enforcement can be skipped: where one task is preempted within a program, the kernel does not run that program"
    " for others on the same processor, and what is denied succeeds. Skipped runs are counted and reported. Boot with bpf in the lsm= list,"
    " which has no such gap from Linux 6.1 on, or with preempt=voluntary (Linux before 7.0)"
)
LATE_FALCO: Final = (
    "Falco rules came after what only they need was given up (CAP_SYS_PTRACE): environments, user names of containers and command lines of"
    " other users' processes stay unknown until a restart"
)


class Engine(Protocol):
    """What the agent needs of `kernel.engine.Engine`, which documents it."""

    adopted: bool

    @property
    def generation(self) -> int: ...
    @property
    def wakeup_fd(self) -> int: ...
    def next_generation(self) -> int: ...
    def supported_events(self) -> frozenset[str]: ...
    def attach(self, events: Collection[str], results: Collection[str] = ()) -> dict[str, str]: ...
    def release(self, events: Collection[str], results: Collection[str] = ()) -> tuple[str, ...]: ...
    def seed(self) -> bool: ...
    def swap(self, image: bytes, objects: Mapping[tuple[int, int], int] | None = None) -> int: ...
    def drain(self, timeout_ms: int = 0) -> list[tuple[str, bytes]]: ...
    def lost(self) -> dict[str, int]: ...
    def refused(self) -> dict[str, int]: ...
    def told(self) -> tuple[dict[str, int], dict[str, int]]: ...
    def tell(self, lost: Mapping[str, int], refused: Mapping[str, int]) -> None: ...
    def skipped(self) -> dict[str, int]: ...
    @property
    def can_skip(self) -> str: ...
    def image(self, exec_id: int) -> ExecImage | None: ...
    def close(self, unload: bool = False) -> None: ...


class Kernel(Protocol):
    """Where engines come from."""

    def load(self, pin_dir: str | None) -> Engine:
        """A new engine, or the one pinned at `pin_dir`. KernelError where this kernel or our privileges lack something."""


class LiveKernel:
    """The running kernel. `max_processes`: how many it keeps records of; None: the engine's default."""

    def __init__(self, max_processes: int | None = None) -> None:
        self._max_processes = max_processes

    def load(self, pin_dir: str | None) -> Engine:
        """Probe and load."""
        from bpfence.kernel.engine import MAX_PROCESSES  # needs libbpf, which tests do without
        from bpfence.kernel.engine import Engine as LiveEngine
        from bpfence.kernel.features import probe

        return LiveEngine.load(probe(), pin_dir=pin_dir, max_processes=self._max_processes or MAX_PROCESSES)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is to do.

    `pin_dir` None: enforcement ends with the agent. `scope` is and-ed to every rule. `keep`: what is pinned outlives a stop.
    `starts_command`: the caller starts a command and puts on it the seccomp filters that policies carry; without, that is reported.
    `record`: where Falco events that were evaluated are appended. `drop_privileges` False: nothing is given up after the start.
    """

    policies: tuple[str, ...]
    mode: str | None = None
    pin_dir: str | None = None
    keep: bool = False
    ready_file: Path | None = None
    state_dir: Path | None = None
    scope: Condition | None = None
    drop_privileges: bool = True
    starts_command: bool = False
    falco: FalcoOptions = FalcoOptions()
    record: Path | None = None


class Agent:
    """One engine, its policies and their outputs. `report` takes messages for people (standard error)."""

    def __init__(
        self, settings: Settings, outputs: Outputs, *, report: Callable[[str], None], kernel: Kernel | None = None,
        diagnose: Callable[[Iterable[Diagnostic]], None] | None = None, clock: Clock | None = None,
        monotonic: Callable[[], float] | None = None, events: Callable[[Live], Events] | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.outputs = outputs
        self._kernel = kernel or LiveKernel()
        self._report = report
        self._diagnose = diagnose or (lambda found: [report(str(diagnostic)) for diagnostic in found])  # type: ignore[func-returns-value]
        self._clock = clock or Clock()
        self._monotonic = monotonic or time.monotonic
        self._boot_id = read_boot_id()
        self._host = host_name()
        self._composer = Composer(self._host, self._clock.now)
        self._events = events
        self._detection: Detection | None = None
        self._loaded: Loaded | None = None
        self._rules: RuleSet | None = None
        self._reads_others = True
        self._limiter = RateLimiter()
        self._links = Links()
        self._acts = Acts()
        path = state_path(settings.pin_dir, *([settings.state_dir] if settings.state_dir else [])) if settings.pin_dir else None
        self.generations = Generations(path, self._boot_id)
        self._counts = Counts(path, self._boot_id)
        self._engine: Engine | None = None
        self._source: Live | None = None
        self._landlock: tuple[list[Path], list[Path]] | None = None
        self._selector = selectors.DefaultSelector()
        self._compiled: Compiled | None = None
        self._policies: tuple[str, ...] = ()
        self._lookup = follow.Lookup()
        self._watch: follow.Watch | None = None
        self._objects: follow.Objects = {}
        self._missing: tuple[str, ...] = ()
        self._silent: tuple[str, ...] = ()
        self._partly: tuple[str, ...] = ()
        self._unfiltered: tuple[str, ...] = ()
        self._left: tuple[str, ...] = ()
        self._follow_at: float | None = None
        self._followed = float("-inf")
        self._loss_at: float | None = None
        self._skipped: dict[str, int] = {}
        self._notice: Notice | None = None
        self._hosts_at: float | None = None
        self._hosts_next = float("-inf")
        self._remake: Remake | None = None
        self.stopping = False

    # ---- start, reload, stop ----

    def start(self) -> None:
        """Puts the policies in force, or raises and leaves what was in force before."""
        loaded = self._read()
        recorder = self._recorder()
        if recorder is not None and loaded.rules is None:
            self._report("--record records events of Falco rules, and there are none: nothing is recorded until a reload brings some")
        try:
            self._engine = self._kernel.load(self.settings.pin_dir)
        except BaseException:
            if recorder is not None:
                recorder.close()
            raise
        try:
            adopted = self._engine.adopted
            if why := self._engine.can_skip:
                self._report(CAN_SKIP.format(why=why))
            self._skipped = self._engine.skipped() if adopted else {}
            self._source = Live(self._engine, clock=self._clock, boot_id=self._boot_id, cgroup_path=_cgroup_path())
            self._detection = Detection(self._make_events, recorder, kept=KEPT)
            if adopted:
                self._adopted()
            if self.settings.drop_privileges:
                self._prepare_landlock(loaded)
            self._enforce(loaded)
            if self.settings.drop_privileges:
                self._drop_privileges()
        except BaseException:
            self._engine.close(unload=not self._engine.adopted)
            self._engine = None
            if recorder is not None:
                recorder.close()
            raise
        self._selector.register(self._engine.wakeup_fd, selectors.EVENT_READ, self.drain)
        self._watch_hosts()
        self._in_force("adopted" if adopted else "started")
        self._loss_at = self._monotonic() + QUIET_SECONDS
        self._ready()

    def _adopted(self) -> None:
        reason = self.generations.restore()
        if reason:
            self._report(f"taking over a running engine, but {reason}: what it has reported until now has no rule names")

    def _read(self) -> Loaded:
        hosts = self._detection.hosts() if self._detection is not None else None
        return load(self.settings.policies, self.settings.mode, self.settings.scope, self.settings.falco, hosts, self._links)

    def _recorder(self) -> Recorder | None:
        if self.settings.record is None:
            return None
        try:
            return Recorder(self.settings.record, self._host, self._report)
        except OSError as error:
            raise UsageError(f"--record {self.settings.record} cannot be opened: {error.strerror or error}") from error

    def _make_events(self) -> Events:
        assert self._source is not None
        if self._events is not None:
            return self._events(self._source)
        return KernelEvents(self._source.processes, self._clock, _cgroup_path(), self._host)

    def _enforce(self, loaded: Loaded) -> None:
        """Put policies in force that were read."""
        compiled = self._put_in_force(loaded)
        self._acts.clear()
        self._limiter.keep({(rule.policy, rule.name) for rule in compiled.rules})
        self._diagnose([*loaded.diagnostics, *compiled.unreachable])
        self._tell_filters(loaded.policies)
        if loaded.rules is not None and not self._reads_others:
            self._report(LATE_FALCO)

    def _put_in_force(self, loaded: Loaded, compiled: Compiled | None = None) -> Compiled:
        """compile, where that is not done yet; attach, seed, swap, release."""
        assert self._engine is not None
        compiled = compiled or self._compile(loaded)
        if self._engine.attach(compiled.events, _results(compiled)):
            # Some program did not load after all. The compiler says what that means for each rule: an error where it denies.
            compiled = self._compile(loaded)
            self._engine.attach(compiled.events, _results(compiled))
        self._engine.seed()
        self._watch_paths(compiled.objects)
        self._swap(compiled, self._lookup.resolve(compiled.objects, self._objects_of(compiled)), loaded.rules)
        self._engine.release(compiled.events, _results(compiled))
        self._loaded = loaded
        self._policies = tuple(policy.name for policy in loaded.policies.policies)
        # What was loaded stays for long: the collector need not walk it, for tens of milliseconds, between an event and its alert.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        return compiled

    def _compile(self, loaded: Loaded) -> Compiled:
        assert self._engine is not None
        compiled, left = _tables(loaded, self._engine.supported_events())
        self._tell_left(left)
        return compiled

    def _tell_left(self, left: tuple[str, ...]) -> None:
        if left and left != self._left:
            self._report(f"Falco's rules need larger tables than the kernel takes: tests on {', '.join(left)} are left to user space")
        self._left = left

    def _tell_filters(self, policies: PolicySet) -> None:
        """A filter is put on a command that is started here, and a host's processes are not. Said again only where it is about others."""
        carrying = tuple(policy.name for policy in policies.policies if policy.seccomp is not None)
        if carrying and carrying != self._unfiltered and not self.settings.starts_command:
            names = ", ".join(carrying)
            self._report(f"`seccomp:` of {names} is not applied: `bpfence exec` applies it to its command, `bpfence run` to nothing")
        self._unfiltered = carrying

    def _swap(self, compiled: Compiled, resolved: follow.Resolved, rules: RuleSet | None) -> None:
        assert self._engine is not None
        assert self._detection is not None
        # Known before the first record of it can come, also to the agent after us if we are killed in between.
        number = self._engine.next_generation()
        self._remember(number, compiled)
        actual = self._engine.swap(compiled.image, resolved.objects)
        if actual != number:
            self._remember(actual, compiled)
        known = self.generations.get(actual)
        self._detection.use(actual, rules, known.rules if known else ())
        self._compiled, self._objects, self._rules = compiled, resolved.objects, rules
        if resolved.missing and resolved.missing != self._missing:
            self._report(f"followed paths that name nothing now: {', '.join(resolved.missing)}; they are followed from when they are made")
        self._missing = resolved.missing
        self._tell_silent(resolved.silent)
        if resolved.partly and resolved.partly != self._partly:
            shown = ", ".join(resolved.partly)
            self._report(f"{shown}: more is below than is looked at for hard links; some files are followed by their names there only")
        self._partly = resolved.partly

    def _tell_silent(self, silent: tuple[str, ...]) -> None:
        if silent and silent != self._silent:
            self._report(f"followed paths on file systems that do not answer: {', '.join(silent)}; what they named before stays followed")
        if silent:
            # There may be no event that tells when they answer.
            self._follow_at = self._monotonic() + POLL_SECONDS
        self._silent = silent

    def _objects_of(self, compiled: Compiled) -> follow.Objects:
        """The identities in force, by the numbers that their paths have in other tables."""
        bits = {path: bit for bit, path in enumerate(compiled.objects)}
        numbers = {bit: bits[path] for bit, path in enumerate(self._compiled.objects if self._compiled else ()) if path in bits}
        moved = {key: sum(1 << new for old, new in numbers.items() if found >> old & 1) for key, found in self._objects.items()}
        return {key: found for key, found in moved.items() if found}

    def _remember(self, number: int, compiled: Compiled) -> None:
        try:
            self.generations.add(generation(number, compiled, int(time.time())))
        except (OSError, ValueError) as error:
            self._report(f"the state file cannot be written: {error}; after a kill, waiting alerts would have no rule names")

    def reload(self) -> bool:
        """Reads the policies anew and swaps them in. False where that failed: the old ones stay in force, and the reason was reported."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        self.outputs.reopen()
        if self._detection is not None:
            self._detection.reopen()
        # What was decided by the old tables is reported first.
        self.drain()
        try:
            self._enforce(self._read())
        except BpfenceError as error:
            self._report_error(error)
            self._status("reload-failed", "the policies cannot be loaded; the old ones stay in force", severity="high")
            notify("READY=1")
            return False
        self._in_force("reloaded")
        self._ready()
        return True

    def _in_force(self, status: str) -> None:
        assert self._engine is not None
        names = list(self._policies)
        self._status(status, f"{_policies(names)} in force", generation=self._engine.generation, policies=names)

    def _report_error(self, error: BpfenceError) -> None:
        if isinstance(error, PolicyError):
            self._diagnose(error.diagnostics)
        else:
            self._report(str(error))

    def _prepare_landlock(self, loaded: Loaded) -> None:
        """Finds out, before policies are in force, whether writing can be confined to a few folders afterwards.

        Rules that read processes exclude it: see `kernel.landlock`.
        """
        if loaded.rules is not None:
            return
        settings, state = self.settings, self.generations.folder
        files = [path for path in (settings.ready_file, settings.record) if path is not None]
        writable = [*self.outputs.folders(), *(path.absolute().parent for path in files), *([state] if state else [])]
        pins = Path(settings.pin_dir) if settings.pin_dir else None
        works, why = privileges.landlock_works(writable)
        if works:
            self._landlock = ([*writable, *([pins] if pins else [])], [pins.parent] if pins else [])
        elif why:
            self._report(f"the agent goes without Landlock, under which it could not write all that it must ({why})")

    def _drop_privileges(self) -> None:
        reads = self._rules is not None
        try:
            privileges.drop(reads_processes=reads, landlock=None if reads else self._landlock)
        except (BpfenceError, OSError) as error:
            hint = "with --keep-privileges bpfence runs with all that it was started with"
            raise KernelError(f"privileges could not be given up: {error}", missing="giving up privileges", hint=hint) from error
        self._reads_others = reads

    def _ready(self) -> None:
        assert self._engine is not None
        if self.settings.ready_file:
            state = {"pid": os.getpid(), "generation": self._engine.generation, "policies": self._policies}
            try:
                write_whole(self.settings.ready_file, msgspec.json.encode(state) + b"\n", 0o644)
            except OSError as error:
                self._report(f"the ready file cannot be written: {error}")
        notify(f"READY=1\nSTATUS={_policies(self._policies)} in force")

    def stop(self) -> None:
        """Reports what is still waiting, then takes enforcement away, unless it is to be kept."""
        if self._engine is None:
            return
        notify("STOPPING=1")
        self.drain()
        kept = self.settings.keep and self.settings.pin_dir is not None
        self._save_counts()
        self._report_loss()
        self._report_suppressed(everything=True)
        self._status("stopped", "stopped; enforcement goes on" if kept else "stopped; enforcement has ended", **self._counted())
        if self.settings.ready_file:
            self.settings.ready_file.unlink(missing_ok=True)
        self._engine.close(unload=not kept)
        self._engine = None
        if not kept:
            self.generations.remove()
            self._counts.remove()
        if self._watch:
            self._watch.close()
        if self._detection is not None:
            self._detection.close()
        self._unwatch_hosts()
        self._selector.close()
        self.outputs.close()

    def _counted(self) -> dict[str, int]:
        """How many candidates of Falco rules came, and how many were confirmed; nothing where there were no such rules."""
        found = self._detection
        if found is None:
            return {}
        counted = {"candidates": found.candidates, "confirmed": found.confirmed} if found.active else {}
        faults = found.faults.counts.total()
        return counted | ({"faults": faults} if faults else {})

    def abandon(self) -> None:
        """Ends after a bug: what is pinned goes on enforcing, because nobody who can make us fail may end it that way."""
        if self._engine is not None:
            self._engine.close(unload=False)
            self._engine = None
        if self._detection is not None:
            self._detection.close()
        self._unwatch_hosts()
        self.outputs.close()

    # ---- the loop ----

    def run(self) -> None:
        """Start, work until SIGTERM or SIGINT, stop. SIGHUP reloads."""
        with Signals({signal.SIGHUP, signal.SIGTERM, signal.SIGINT}) as signals:
            self.start()
            try:
                self.on_readable(signals.fileno(), lambda: self._handle(signals))
                while not self.stopping:
                    self.step()
            except BaseException:
                self.abandon()
                raise
            self.stop()

    def _handle(self, signals: Signals) -> None:
        for number in signals.take():
            if number == signal.SIGHUP:
                self.reload()
            else:
                self.stopping = True

    def on_readable(self, descriptor: int, then: Callable[[], Any]) -> None:
        """Have `then` called by `step` whenever `descriptor` is readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, then)

    def step(self, timeout: float | None = None) -> None:
        """Waits for the next thing to do, at most `timeout` seconds, and does it. An idle agent sleeps until something comes."""
        if self._detection is not None and self._notice is not None:
            self._detection.start(self._notice.tell)
        for key, _ in self._selector.select(self._until_due(timeout)):
            key.data()
        now = self._monotonic()
        if self._loss_at is not None and now >= self._loss_at:
            self._loss_at = now + QUIET_SECONDS
            self._save_counts()
            self._report_loss()
        if self._follow_at is not None and now >= self._follow_at:
            self._follow_again(now)
        if self._hosts_at is not None and now >= self._hosts_at:
            self._resolve_again()
        self._report_suppressed()

    def _until_due(self, timeout: float | None) -> float | None:
        now = self._monotonic()
        moments = [self._loss_at, self._follow_at, self._hosts_at, self._limiter.next_report(now)]
        due = [moment for moment in (*moments, None if timeout is None else now + timeout) if moment is not None]
        return max(0.0, min(due) - now) if due else None

    # ---- events ----

    def drain(self) -> None:
        """Turns waiting records into lines. Returns after BATCHES batches even if more are waiting."""
        assert self._source is not None
        for _ in range(BATCHES):
            batch = self._source.read(0)
            if not batch:
                break
            self._write([line for seen in batch for line in self._contained(seen)])
            if self._detection is not None:
                self._detection.flush()
                self._report_faults(self._detection.faults)
        # Also when nothing came out: records that could not be decoded are loss.
        soon = self._monotonic() + LOSS_SECONDS
        self._loss_at = soon if self._loss_at is None else min(soon, self._loss_at)

    def _contained(self, seen: Observation) -> list[Line]:
        """The lines of an observation. Whoever causes an event must not be able to end the agent, whatever is wrong with us."""
        try:
            return self._lines(seen)
        except Exception as error:
            assert self._detection is not None
            self._detection.faults.add("", f"an event {seen.event} could not be turned into a line: it is not reported", error)
            return []

    def _report_faults(self, faults: Faults) -> None:
        for fault in faults.take():
            self._status("fault", fault.text, severity="high", rule=escape(fault.rule) if fault.rule else UNSET)

    def _lines(self, seen: Observation) -> list[Line]:
        if seen.telemetry:
            return [self._composer.event(seen)]
        assert self._detection is not None
        known = self.generations.get(seen.generation)
        matched = known.matched(seen.verdicts) if known else None
        view = self._detection.view(seen)
        found: list[tuple[RuleInfo, bool]] = []
        carried: dict[tuple[str, str], dict[str, Any]] = {}
        candidate = bool(seen.flags & abi.EVENT_RESULT)
        decided = not candidate or bool(seen.flags & abi.EVENT_DECISION)
        if decided:
            found = [pair for pair in matched if When.DECIDED in pair[0].when] if matched else [(self._nameless(seen), True)]
        found, others = joined(found)
        if found:
            assert self._source is not None
            seen = self._source.described(seen)
            found = self._acts.new(seen, found)
        if candidate:
            found += self._confirmed(view, matched)
        if not found:
            return []
        now = self._monotonic()
        for rule, _ in found:
            self._counts.add(rule.policy, rule.rule)
        found = [pair for pair in found if self._limiter.allow(pair[0].key, pair[0].rate, pair[0].burst, now)]
        for rule, _ in found:
            said = view.details(rule.rule) if rule.confirm or rule.policy == ENFORCING else None
            if said is not None:
                carried[rule.key] = said
        assert self._source is not None
        seen = self._source.described(seen) if found else seen
        return [alert for _, alert in self._composer.alerts(seen, found, known.objects if known else (), carried, others)]

    def _confirmed(self, view: View, matched: list[tuple[RuleInfo, bool]] | None) -> list[tuple[RuleInfo, bool]]:
        """Falco rules that really match, among the candidates where those are known. User space has decided them: none is uncertain."""
        assert self._detection is not None
        among = None if matched is None else {rule.rule for rule, _ in matched if rule.confirm}
        return [(rule, False) for rule in self._detection.confirm(view, among)]

    def _nameless(self, seen: Observation) -> RuleInfo:
        """A stand-in for rules whose names went with an earlier agent's memory: the event is reported all the same."""
        action = Action(seen.action) if seen.action in Action._value2member_map_ else Action.NONE
        text = f"{{event}} was decided by generation {seen.generation}, whose rules are not known any more"
        return RuleInfo(UNKNOWN, UNKNOWN, "enforce" if action >= Action.DENY else "audit", action, action, "high", message=text)

    def _write(self, lines: Sequence[Line]) -> None:
        self.outputs.write(lines)

    def _status(self, status: str, text: str, **more: Any) -> None:
        self._write([self._composer.status(status, text, **more)])

    def _save_counts(self) -> None:
        try:
            self._counts.save()
        except OSError as error:
            self._report(f"the counts by rule cannot be written: {error}")

    def _report_loss(self) -> None:
        assert self._source is not None
        loss = self._source.loss()
        if loss:
            self._write([self._composer.loss(loss)])
        self._report_skips()

    def _report_skips(self) -> None:
        assert self._engine is not None
        now = self._engine.skipped()
        found = grown(self._skipped, now)
        self._skipped = now
        if found:
            text = f"the kernel has left out {sum(found.values())} runs of programs that were preempted: acts may have passed undecided"
            self._status("skipped", text, severity="critical", skipped=found)

    def _report_suppressed(self, *, everything: bool = False) -> None:
        for policy, rule, count in self._limiter.reports(self._monotonic(), everything=everything):
            text = f"{count} more alerts of {policy}/{rule} were left out by its rate limit"
            self._status("suppressed", text, severity="medium", policy=policy, rule=rule, suppressed=count)

    # ---- followed objects ----

    def _watch_paths(self, paths: Sequence[str]) -> None:
        self._follow_at = None
        if self._watch is None and paths:
            try:
                self._watch = follow.Watch(self._lookup)
            except OSError as error:
                self._report(f"followed paths cannot be watched ({error}): they are looked up every {POLL_SECONDS:g} s")
            else:
                self._selector.register(self._watch.fileno(), selectors.EVENT_READ, self._paths_changed)
        if paths and not (self._watch and self._watch.set_paths(paths)):
            self._follow_at = self._monotonic() + POLL_SECONDS
        elif self._watch and not paths:
            self._watch.set_paths(())

    def _paths_changed(self) -> None:
        assert self._watch is not None
        if self._watch.changed():
            self._follow_at = max(self._monotonic(), self._followed + FOLLOW_SECONDS)

    def _follow_again(self, now: float) -> None:
        """Looks the followed paths up again and, if they name something else now, swaps in the same tables with the new identities."""
        assert self._engine is not None
        assert self._compiled is not None
        self._followed = now
        self._watch_paths(self._compiled.objects)
        resolved = self._lookup.resolve(self._compiled.objects, self._objects)
        self._tell_silent(resolved.silent)
        if resolved.objects == self._objects:
            self._missing = resolved.missing
            return
        try:
            self._swap(self._compiled, resolved, self._rules)
        except BpfenceError as error:
            self._report(f"followed paths name other files now, which could not be put in force: {error}")
            self._follow_at = now + POLL_SECONDS
            return
        self._status("followed", "followed paths name other files now", generation=self._engine.generation)

    # ---- names of hosts ----

    def _watch_hosts(self) -> None:
        self._notice, self._remake = Notice(), Remake()
        self._selector.register(self._notice.fileno(), selectors.EVENT_READ, self._hosts_changed)
        self._selector.register(self._remake.fileno(), selectors.EVENT_READ, self._remade)

    def _unwatch_hosts(self) -> None:
        for one in (self._notice, self._remake):
            if one is not None:
                one.close()

    def _hosts_changed(self) -> None:
        assert self._notice is not None
        if self._notice.take() and self._hosts_at is None:
            self._hosts_at = max(self._monotonic() + SETTLE_SECONDS, self._hosts_next)

    def _resolve_again(self) -> None:
        """Begins to make the tables of the rules in force for the addresses that names of hosts have now."""
        assert self._engine is not None
        assert self._loaded is not None
        assert self._detection is not None
        assert self._remake is not None
        if self._remake.busy:
            self._hosts_at = self._monotonic() + HOSTS_SECONDS
            return
        self._hosts_at = None
        base, events, hosts, settings = self._loaded, self._engine.supported_events(), self._detection.hosts(), self.settings

        def work() -> Made | None:
            made = with_hosts(base, settings.mode, settings.scope, hosts)
            if made.policies == base.policies:
                return None
            return Made(base, events, made, *_tables(made, events))

        self._remake.begin(work)

    def _remade(self) -> None:
        """Puts what was made in force, where it is still about the rules that are. Which rules these are does not change: no status."""
        assert self._engine is not None
        assert self._remake is not None
        try:
            made = self._remake.take()
            if made is not None and (made.base is not self._loaded or made.events != self._engine.supported_events()):
                self._hosts_at = self._monotonic()  # policies were loaded in the meantime
            elif made is not None:
                # What was decided by the old tables is reported first.
                self.drain()
                self._tell_left(made.left)
                self._put_in_force(made.loaded, made.compiled)
        except BpfenceError as error:
            self._report_error(error)
            self._report("names of hosts have other addresses now, which could not be put in force; the old ones stay")
            self._hosts_at = self._monotonic() + RETRY_SECONDS
        self._hosts_next = self._monotonic() + max(HOSTS_SECONDS, HOSTS_SHARE * self._remake.seconds)


def _tables(loaded: Loaded, events: frozenset[str]) -> tuple[Compiled, tuple[str, ...]]:
    """Tables for the events that this kernel supports; see `compile_smaller`."""
    details = loaded.rules is not None
    return compile_smaller(loaded.policies, lambda given: compile_policies(given, supported_events=events, details=details))


def _results(compiled: Compiled) -> frozenset[str]:
    """The events that some rule wants the result of."""
    return compiled.events & {event for rule in compiled.rules if rule.when != When.DECIDED for event in rule.events}


def _cgroup_path() -> Callable[[int], str | None] | None:
    """Cgroup ids to the paths that rules see; None where they cannot be had."""
    try:
        hierarchy = find_hierarchy()
        return CgroupPaths(hierarchy.root).path if hierarchy.whole else None
    except (BpfenceError, OSError):
        return None


def _policies(names: Sequence[str]) -> str:
    return "1 policy" if len(names) == 1 else f"{len(names)} policies"



# SPDX-License-Identifier: Apache-2.0
"""Policy files in, enforcement in the kernel and lines on outputs out: the long-running process.

Called by `bpfence run` and `bpfence exec`. Start, in this order:

    read      policy files of any language → policies, rules; a mistake ends the start before anything is touched
    load      programs and maps: a new instance, or the one that an earlier agent left pinned
    compile   PolicySet → tables, for the events that this kernel supports
    attach    what the tables need, before they count; then seed process records, then swap: from here on policies are in force
    release   what the last policies needed and these do not
    drop      privileges that nothing later needs; where that fails, the start fails
    ready     the ready file, and READY=1 for systemd

A reload runs read, compile and attach beside the loop, which goes on to turn records into lines; then swap; and release beside it again.
When any of it fails, the old policies stay in force. Rules may mention names of hosts: when these have other addresses, compile and what
follows run again for the rules as loaded. Only this module decides when; what the kernel side is, comes in as `Kernel`, and tests give
their own.

    tables    what is in force          pipeline   observations → lines      confirms   what user space confirms, by language
    containers  those of this machine, fed by the sources of `workloads/`
    loop      descriptors and timers    remake     work beside the loop
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
from msgspec import UNSET

from bpfence.agent import privileges
from bpfence.agent.confirms import Confirms
from bpfence.agent.feed import Choice, Chosen, Feed, alike
from bpfence.agent.generations import KEPT, Counts, Generations, StartCost, state_path, write_whole
from bpfence.agent.kept import Kept
from bpfence.agent.kernel import CAN_SKIP, REPLACES, Engine, Kernel, LiveKernel
from bpfence.agent.loading import (
    NO_FACTS,
    Loaded,
    Modes,
    Options,
    is_confirmed,
    load,
    locking_out,
    narrowed,
    own_programs,
    with_facts,
)
from bpfence.agent.loop import Loop
from bpfence.agent.metrics import InForce, Meter, Metrics
from bpfence.agent.pipeline import Pipeline
from bpfence.agent.remake import Made, Remake
from bpfence.agent.tables import Tables, results, tables, unrefusing
from bpfence.alerts.alert import Composer, host_name
from bpfence.alerts.containers import Belonging
from bpfence.compiler.compile import Compiled
from bpfence.dialects.dialect import Context
from bpfence.dialects.facts import Facts
from bpfence.dialects.registry import DIALECTS, Dialects
from bpfence.errors import BpfenceError, Diagnostic, KernelError, PolicyError
from bpfence.events.loss import grown
from bpfence.events.process import Clock, read_boot_id
from bpfence.events.source import Live
from bpfence.events.values import escape
from bpfence.host.cgroups import CgroupPaths, find_hierarchy
from bpfence.host.descriptors import raise_limit
from bpfence.host.hostnames import Notice
from bpfence.host.links import Links
from bpfence.host.service import notify, watchdog_seconds
from bpfence.host.signals import Signals
from bpfence.kernel.measured import Measured
from bpfence.outputs.routes import Outputs
from bpfence.outputs.scrape import Scrapes
from bpfence.policy import Condition, Policy, PolicySet
from bpfence.workloads.registry import Registry, Sources

LOSS_SECONDS: Final = 1.0
"""How many seconds after records came the counters of lost ones are looked at."""
QUIET_SECONDS: Final = 10.0
"""How often these counters, and what the kernel has skipped, are looked at when no records come."""
SETTLE_SECONDS: Final = 0.5
"""How many seconds after a host's name has got other addresses the tables are made anew. At the start all names do."""
HOSTS_SECONDS: Final = 10.0
"""The tables are made anew for addresses at most this often; and so seldom that it takes at most one part in HOSTS_SHARE of the time."""
HOSTS_SHARE: Final = 20.0
CLASSES_SECONDS: Final = 0.1
"""Processes are looked at anew for changes of containers at most this often, and so seldom that it takes one part in CLASSES_SHARE of
the time at most."""
CLASSES_SHARE: Final = 4.0
FEED_SECONDS: Final = 0.05
"""How many seconds after a feed has something new tables are made: many changes at once count as one."""
ATTACH_TRIES: Final = 4
"""Each leaves the events out whose programs did not load the time before."""
RETRY_SECONDS: Final = 60.0
"""How many seconds later this is tried again if it fails."""
DRAIN_SECONDS: Final = 0.1
"""For how many seconds records are read between looks at signals."""
GATHER_SECONDS: Final = 0.002
"""Records that come so soon after others are read together: to look at each by itself takes three times as long."""
LAST_SECONDS: Final = 0.5
"""For how many seconds records that wait at the end are made lines of; what is left then is told as lost."""
NO_MODES: Final[Modes] = MappingProxyType({})
LATE: Final = (
    "{} came after what only they need was given up (CAP_SYS_PTRACE): environments, user names of containers and command lines of other"
    " users' processes stay unknown until a restart"
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent is to do.

    `pin_dir` None: enforcement ends with the agent. `scope` is and-ed to every rule. `keep`: what is pinned outlives a stop.
    `starts_command`: the caller starts a command and puts on it the seccomp filters that policies carry; without, that is reported.
    `options`: of policy languages, by their names. `record`: where events that user space was asked to confirm are appended.
    `drop_privileges` False: nothing is given up after the start. `listens`: the feed makes a socket after the start.
    """

    policies: tuple[str, ...]
    mode: str | None = None
    pin_dir: str | None = None
    keep: bool = False
    ready_file: Path | None = None
    state_dir: Path | None = None
    scope: Condition | None = None
    drop_privileges: bool = True
    listens: bool = False
    starts_command: bool = False
    options: Options = {}
    record: Path | None = None


class Agent:
    """One engine, its policies and their outputs. `report` takes messages for people. `sources`: who tells of containers. `feed`: where
    policies come from beside files. `scrapes`: who asks for metrics. `modes`: of single policies, instead of what the settings say; for any
    thread. `metered`: count what metrics tell, for others than scrapes."""

    def __init__(
        self,
        settings: Settings,
        outputs: Outputs,
        *,
        report: Callable[[str], None],
        kernel: Kernel | None = None,
        diagnose: Callable[[Iterable[Diagnostic]], None] | None = None,
        clock: Clock | None = None,
        monotonic: Callable[[], float] | None = None,
        dialects: Dialects = DIALECTS,
        sources: Sources | None = None,
        feed: Feed | None = None,
        scrapes: Scrapes | None = None,
        modes: Callable[[], Modes] | None = None,
        metered: bool = False,
    ) -> None:
        self.settings = settings
        self.outputs = outputs
        self._kernel = kernel or LiveKernel()
        self._report = report
        self._diagnose = diagnose or (lambda diagnostics: [report(str(diagnostic)) for diagnostic in diagnostics])  # type: ignore[func-returns-value]
        self._clock = clock or Clock()
        self._boot_id = read_boot_id()
        self._dialects = dialects
        self._host = host_name()
        self._links = Links()
        self.loop = Loop(monotonic or time.monotonic)
        self.confirms = Confirms(Context(self._live, self._host, KEPT, settings.record, report), dialects)
        path = state_path(settings.pin_dir, *([settings.state_dir] if settings.state_dir else [])) if settings.pin_dir else None
        self.generations = Generations(path, self._boot_id)
        self.kept = Kept(settings.pin_dir, *([settings.state_dir] if settings.state_dir else [])) if settings.pin_dir else None
        self._counts = Counts(path, self._boot_id)
        self._life: _Life | None = None
        self._notice, self._remake = Notice(), Remake()
        self._containers_notice = Notice()
        self.containers = Registry(self._containers_notice.tell, _cgroup_number(), report)
        self._composer = Composer(self._host, self._clock.now, Belonging(self.containers.lately, lambda: self.containers.version))
        self._containers_version = 0
        self._sources = sources
        self._scrapes = scrapes
        self.meter = self._meter = Meter() if scrapes is not None or metered else None
        self._metrics = Metrics(self, self._meter) if scrapes is not None and self._meter is not None else None
        self._modes = modes or (lambda: NO_MODES)
        self._feed = feed
        self._feed_notice = Notice()
        self._choice = Choice(feed, self._links, self.kept) if feed is not None else None
        self._feeds = self.loop.timer(self._look_at_feed)
        self._begun = False
        self._classes = self.loop.timer(self._look_at_classes)
        self._classes_next = float("-inf")
        self._for_classes = self._for_feed = False
        self._read_at = float("-inf")
        self._loss = self.loop.timer(self._look_at_losses)
        self._hosts = self.loop.timer(self._resolve_again)
        self._watchdog = self.loop.timer(self._alive)
        self._hosts_next = float("-inf")
        self._wanted = False
        self._landlock: tuple[list[Path], list[Path]] | None = None
        self._reads_others = True
        self._unfiltered: tuple[str, ...] = ()
        self.stopping = False

    @property
    def life(self) -> _Life:
        """What exists between start and stop; an error outside of that."""
        if self._life is None:
            raise RuntimeError("the agent has not been started")
        return self._life

    @property
    def loaded(self) -> Loaded | None:
        """What is in force now; None: nothing yet, or nothing any more. For any thread."""
        life = self._life
        return life.tables.loaded if life is not None else None

    @property
    def generation(self) -> int:
        """Number of the tables in force; 0: none are. For any thread."""
        life = self._life
        return life.engine.generation if life is not None else 0

    def supported_events(self) -> frozenset[str]:
        """The events that this kernel offers; none before the start and after the end. For any thread."""
        life = self._life
        return life.engine.supported_events() if life is not None else frozenset()

    def _live(self) -> Live:
        return self.life.source

    # ---- start and stop ----

    def start(self, loaded: Loaded | None = None) -> None:
        """Put the policies in force, or raise and leave in force what was before. `loaded`: what was read already, with no scope."""
        settings = self.settings
        loaded = self._load(NO_FACTS) if loaded is None else with_facts(loaded, settings.mode, settings.scope, NO_FACTS, self._modes())
        if not settings.starts_command:  # which would be given the limit
            raise_limit()
        try:
            if self._sources is not None:
                self._sources.ask(self.containers)
            if self._feed is not None:
                self._feed.ask()
            self.confirms.record()
            if settings.record is not None and not any(map(is_confirmed, loaded.policies.policies)):
                self._report("--record: no rule is confirmed in user space, so nothing is recorded until a reload brings one that is")
            self._begin(self._kernel.load(self.settings.pin_dir), loaded)
        except BaseException:
            self.confirms.close()
            self._close_sources()
            raise
        life = self.life
        self.loop.on_readable(life.engine.wakeup_fd, self._records_wait)
        self.loop.on_readable(self._notice.fileno(), self._hosts_changed)
        self.loop.on_readable(self._remake.fileno(), self._remade)
        self.loop.on_readable(self._containers_notice.fileno(), self._containers_changed)
        self.loop.on_readable(self._feed_notice.fileno(), self._feed_changed)
        self._in_force("adopted" if life.engine.adopted else "started")
        if not life.engine.adopted:
            self._keep_cost()
        self._loss.due = self.loop.now() + QUIET_SECONDS
        self._composer.belonging.json("/")  # the first look at a cgroup makes what takes ten alerts' time: not when alerts wait
        self._ready()
        self._alive(self.loop.now())

    def _alive(self, now: float) -> None:
        """Tell the service manager that the loop goes round, twice as often as it wants to hear it."""
        if seconds := watchdog_seconds():
            notify("WATCHDOG=1")
            self._watchdog.due = now + seconds / 2

    def _begin(self, engine: Engine, loaded: Loaded) -> None:
        """Put what was loaded in force in an engine, and give up privileges. The engine is closed where that fails."""
        try:
            if engine.replaces:
                self._report(REPLACES.format(abi=", ".join(f"ABI {version}" for version in sorted(set(engine.replaces)))))
            if why := engine.can_skip:
                self._report(CAN_SKIP.format(why=why))
            self._life = _Life(self, engine)
            self.containers.use(engine)
            if engine.adopted and (reason := self.generations.restore()):
                self._report(f"taking over what an earlier agent left in force, but {reason}: alerts that waited have no rule names")
            if self.settings.drop_privileges:
                self._prepare_landlock(loaded)
            if self._choice is None:
                self._enforce(loaded)
            else:
                chosen = self._chosen(loaded)
                self._enforce(chosen.loaded, (chosen.compiled, chosen.left))
                self._choice.in_force(chosen.outcomes)
            if self.settings.drop_privileges:
                self._drop_privileges()
        except BaseException:
            self.containers.use(None)
            engine.close(unload=not engine.adopted)
            self._life = None
            raise
        # Last: what another version has in force goes only when this start cannot fail any more.
        self.life.tables.release()

    def _keep_cost(self) -> None:
        """Note for `bpfence status` what this start has cost."""
        cost = self.life.engine.load_cost
        load, compiling, total = (round(n, 3) for n in (cost.seconds, self.life.tables.compile_seconds, time.process_time()))
        self.generations.started = StartCost(cost.programs, load, compiling, total, cost.unshared)
        try:
            self.generations.save()
        except OSError as error:
            self._report(f"the state file cannot be written: {error}; `bpfence status` will not tell what the start has cost")

    def _load(self, facts: Facts) -> Loaded:
        settings = self.settings
        return load(settings.policies, settings.mode, settings.scope, settings.options, facts, self._links, self._dialects, self._modes())

    def _confirmed(self, loaded: Loaded) -> list[str]:
        """The titles of languages that have rules whose confirmation looks at other processes."""
        return [self._dialects[name].title for name in loaded.rules if self._dialects[name].reads_processes]

    def _enforce(self, loaded: Loaded, made: tuple[Compiled, tuple[str, ...]] | None = None, *, tell: bool = True) -> None:
        """Put policies that were read in force. `tell` False: what rules cannot match was told already."""
        locked_out = locking_out(loaded.policies, own_programs())
        compiled = self.life.tables.put_in_force(loaded, made)
        self.life.pipeline.acts.clear()
        self.life.source.processes.forget_subjects()  # what rules that are gone have found out
        self.life.pipeline.limiter.keep({(rule.policy, rule.name) for rule in compiled.rules})
        self._diagnose([*loaded.diagnostics, *(compiled.unreachable if tell else ()), *locked_out])
        self._tell_filters(loaded.policies)
        if not self._reads_others and (late := self._confirmed(loaded)):
            self._report(LATE.format(" and ".join(late)))

    def _tell_filters(self, policies: PolicySet) -> None:
        """Report filters that are not applied: they go on a command that is started here, not on processes of the host. Reported again only
        where the policies are others."""
        carrying = tuple(policy.name for policy in policies.policies if policy.seccomp is not None)
        if carrying and carrying != self._unfiltered and not self.settings.starts_command:
            names = ", ".join(carrying)
            self._report(f"`seccomp:` of {names} is not applied: `bpfence exec` applies it to its command, `bpfence run` to nothing")
        self._unfiltered = carrying

    def _names(self) -> tuple[str, ...]:
        loaded = self.life.tables.loaded
        return tuple(policy.name for policy in loaded.policies.policies) if loaded is not None else ()

    def _in_force(self, status: str) -> None:
        names = list(self._names())
        self._status(status, f"{_policies(names)} in force", generation=self.life.engine.generation, policies=names)

    def _report_error(self, error: BpfenceError) -> None:
        if isinstance(error, PolicyError):
            self._diagnose(error.diagnostics)
        else:
            self._report(str(error))

    def _prepare_landlock(self, loaded: Loaded) -> None:
        """Find out, before policies are in force, whether writing can be confined to a few folders afterwards.

        Rules that read processes exclude it: see `kernel.landlock`.
        """
        if self._confirmed(loaded):
            return
        settings, state = self.settings, self.generations.folder
        files = [path for path in (settings.ready_file, settings.record) if path is not None]
        writable = [*self.outputs.folders(), *(path.absolute().parent for path in files), *([state] if state else [])]
        writable += self._feed.folders() if self._feed is not None else []
        writable += self._scrapes.folders() if self._scrapes is not None else []
        pins = Path(settings.pin_dir) if settings.pin_dir else None
        works, why = privileges.landlock_works(writable)
        if works:
            self._landlock = ([*writable, *([pins] if pins else [])], [pins.parent] if pins else [])
        elif why:
            self._report(f"the agent goes without Landlock, under which it could not write all that it must ({why})")

    def _drop_privileges(self) -> None:
        loaded = self.life.tables.loaded
        reads = loaded is not None and bool(self._confirmed(loaded))
        try:
            privileges.drop(reads_processes=reads, listens=self.settings.listens, landlock=None if reads else self._landlock)
        except (BpfenceError, OSError) as error:
            hint = "with --keep-privileges bpfence runs with all that it was started with"
            raise KernelError(f"privileges could not be given up: {error}", missing="giving up privileges", hint=hint) from error
        self._reads_others = reads

    def _ready(self) -> None:
        names = self._names()
        if self.settings.ready_file:
            state = {"pid": os.getpid(), "generation": self.life.engine.generation, "policies": names}
            try:
                write_whole(self.settings.ready_file, msgspec.json.encode(state) + b"\n", 0o644)
            except OSError as error:
                self._report(f"the ready file cannot be written: {error}")
        notify(f"READY=1\nSTATUS={_policies(names)} in force")

    def stop(self) -> None:
        """Take enforcement away, unless it is to be kept, and report what is still waiting: each act that was denied by then."""
        if self._life is None:
            return
        notify("STOPPING=1")
        kept = self.settings.keep and self.settings.pin_dir is not None
        if not kept:
            with contextlib.suppress(KernelError):  # `close` tells what stands in the way
                self.life.engine.end()
        self.drain(LAST_SECONDS)
        if not kept:  # else it waits for the next agent
            self.life.source.give_up()
        self._save_counts()
        self._report_loss()
        self._report_suppressed(everything=True)
        self._status("stopped", "stopped; enforcement goes on" if kept else "stopped; enforcement has ended", **self.confirms.counted())
        if self.settings.ready_file:
            self._remove("the ready file", lambda path=self.settings.ready_file: path.unlink(missing_ok=True))  # type: ignore[misc]
        self._close(unload=not kept)
        if kept:
            self._save_counts()  # lines that outputs dropped at the very end
        else:
            self._remove("the state file", self.generations.remove)
            self._remove("the file of counts", self._counts.remove)

    def _remove(self, what: str, remove: Callable[[], object]) -> None:
        """Remove a file. Where that is not possible, because its folder is another's, that is reported and the stop goes on."""
        try:
            remove()
        except OSError as error:
            self._report(f"{what} cannot be removed: {error}")

    def abandon(self) -> None:
        """End after a bug. What is pinned goes on enforcing: nobody who can make us fail may end enforcement by it."""
        self._close(unload=False)

    def _close_sources(self) -> None:
        if self._sources is not None:
            self._sources.close()
        if self._feed is not None:
            self._feed.close()
        if self._scrapes is not None:
            self._scrapes.close()

    def _close(self, *, unload: bool) -> None:
        self._close_sources()
        self.containers.use(None)
        if self._life is not None:
            self._life.engine.close(unload=unload)
            self._life.tables.close()
            self._life = None
        self.confirms.close()
        self._notice.close()
        self._containers_notice.close()
        self._feed_notice.close()
        self._remake.close()
        self.loop.close()
        self.outputs.close()

    # ---- the loop ----

    def run(self) -> None:
        """Start, work until SIGTERM or SIGINT, stop. SIGHUP reloads."""
        with Signals({signal.SIGHUP, signal.SIGTERM, signal.SIGINT}) as signals:
            self.start()
            try:
                self.loop.on_readable(signals.fileno(), lambda: self._handle(signals))
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

    def step(self, timeout: float | None = None) -> None:
        """Waits for the next thing to do, at most `timeout` seconds, and does it."""
        self.outputs.start()
        self.confirms.start(self._notice.tell)
        if not self._begun:
            self._begun = True
            if self._sources is not None:
                self._sources.start(self.containers)
            if self._feed is not None:
                self._feed.start(self._feed_notice.tell)
        if self._scrapes is not None and self._metrics is not None:
            self._scrapes.start(self._metrics.text)
        report = self.life.pipeline.limiter.next_report(self.loop.now())
        if report is not None:
            timeout = min(report - self.loop.now(), timeout) if timeout is not None else report - self.loop.now()
        self.loop.step(timeout)
        self._report_faults()
        self._report_suppressed()

    def _records_wait(self) -> None:
        soon = self._read_at + GATHER_SECONDS - self.loop.now()
        if soon > 0:
            time.sleep(min(soon, GATHER_SECONDS))
        self._read_at = self.loop.now()
        self.drain()

    def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Turn waiting records into lines, for so many seconds where there are always more."""
        life = self.life
        if self._containers_version != self.containers.version:
            self._containers_version = self.containers.version
            life.source.processes.forget_subjects()  # what languages have found out of their containers
        until = self.loop.now() + seconds
        while batch := life.source.read(0):
            lines = [line for seen in batch for line in life.pipeline.lines(seen)]
            self.outputs.write(lines)
            if self._meter is not None:
                self._meter.batch(batch, lines, self._clock.now())
            self.confirms.flush()
            self._report_faults()
            if self.loop.now() >= until:
                break
        # Also when nothing came out: records that could not be decoded count as lost.
        self._loss.by(self.loop.now() + LOSS_SECONDS)

    # ---- reloads ----

    def reload(self) -> None:
        """Begin to read the policies again, beside the loop. They are put in force when they are compiled. Where that fails, the old
        policies stay in force and the reason is reported."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        self.outputs.reopen()
        self.confirms.reopen()
        self._wanted = True
        self._begin_reload()

    @property
    def reloading(self) -> bool:
        """Whether a reload was asked for that has not ended yet."""
        return self._wanted or self._remake.reloads

    def _begin_reload(self) -> None:
        if self._remake.busy or not self._wanted:
            return
        self._wanted = False
        engine, facts = self.life.engine, Facts(self.confirms.hosts())
        events = engine.supported_events()

        def work() -> Made:
            loaded = self._load(facts)
            if self._choice is not None:
                chosen = self._chosen(loaded)
                return Made(None, engine.supported_events(), *chosen)
            compiled, left = tables(loaded, events, self.containers, self.kept)
            # Programs that the kernel has to check first, for as long as they take. The tables in force say nothing about their events.
            engine.attach(compiled.events, results(compiled), compiled.probes, again=True)
            return Made(None, events, loaded, compiled, left)

        self._remake.begin(work, reloads=True)

    def _remade(self) -> None:
        """Put in force what was made beside the loop, then begin what was asked for meanwhile."""
        reloads, for_classes, for_feed = self._remake.reloads, self._for_classes, self._for_feed
        self._for_classes = self._for_feed = False
        cause = "reload" if reloads else "containers" if for_classes else "cluster" if for_feed else "hosts"
        result, seconds = "failed", self._remake.seconds
        try:
            made = self._remake.take()
            if made is not None:
                self._put_in_force(made, reloads)
            result = "ok" if made is not None else ""
        except BpfenceError as error:
            self._remake_failed(error, reloads, for_classes, for_feed)
        except Exception as error:  # a bug of ours: whatever is written in a policy must not end the agent
            text = f"{type(error).__name__}: {error}. This is a fault of bpfence; please report it"
            self._remake_failed(BpfenceError(text), reloads, for_classes, for_feed)
        if self._meter is not None and result:
            self._meter.update(cause, result, seconds)
        if not (reloads or for_classes or for_feed):
            self._hosts_next = self.loop.now() + max(HOSTS_SECONDS, HOSTS_SHARE * self._remake.seconds)
        self._begin_reload()
        if self.containers.due:
            self._containers_changed()

    def _put_in_force(self, made: Made, reloads: bool) -> None:
        stale = made.events != self.life.engine.supported_events()
        if made.outcomes is not None and made.base is not None:
            self._put_feed_in_force(made, stale)
            return
        if not reloads and (stale or made.base is not self.life.tables.loaded):
            self._hosts.due = self.loop.now()  # policies were loaded in the meantime
            return  # a class that is still waited for is seen to when this work is done
        # What the old tables have decided is reported first.
        self.drain()
        compiled = None if stale else (made.compiled, made.left)
        if reloads:
            self._enforce(made.loaded, compiled)
            if self._choice is not None and made.outcomes is not None:
                self._choice.in_force(made.outcomes)
            self._in_force("reloaded")
            self._ready()
            self._remake.begin(self.life.tables.release, reloads=True)
        else:
            self.life.tables.put_in_force(made.loaded, compiled)
            self.life.tables.release()

    def _remake_failed(self, error: BpfenceError, reloads: bool, for_classes: bool, for_feed: bool) -> None:
        self._report_error(error)
        if for_feed:
            self._report("policies that have changed could not be put in force: what was in force stays")
            self._feeds.due = self.loop.now() + RETRY_SECONDS
        elif for_classes:
            self._report("containers of a new kind could not be put in the tables: they stay unknown")
            self.containers.give_up()
        elif reloads:
            self._status("reload-failed", "the policies cannot be loaded; the old ones stay in force", severity="high")
            notify("READY=1")
        else:
            self._report("names of hosts have other addresses now, and these could not be put in force: the old addresses stay in force")
            self._hosts.due = self.loop.now() + RETRY_SECONDS

    # ---- policies of a feed ----

    def _feed_changed(self) -> None:
        self._feed_notice.take()
        self._feeds.by(self.loop.now() + FEED_SECONDS)

    def _look_at_feed(self, now: float) -> None:
        """Begin to put in force what a feed offers now, beside the policies of files as they were read last."""
        base = self.life.tables.loaded
        if self._remake.busy or base is None or self._choice is None:
            self._feeds.due = now + FEED_SECONDS
            return
        engine, facts, settings = self.life.engine, Facts(self.confirms.hosts()), self.settings

        def work() -> Made | None:
            files = with_facts(base._replace(more=(), fed={}, diagnostics=[]), settings.mode, settings.scope, facts, self._modes())
            return Made(base, engine.supported_events(), *self._chosen(files))

        self._for_feed = True
        self._remake.begin(work)

    def _chosen(self, files: Loaded) -> Chosen:
        """What can be in force of a feed beside policies of files; the programs that it needs are attached."""
        assert self._choice is not None
        engine, settings, modes = self.life.engine, self.settings, self._modes()

        def narrow(policy: Policy) -> Policy:
            return narrowed(policy, modes.get(policy.name, settings.mode), settings.scope)

        unplaced: dict[int, str] = {}
        for _ in range(ATTACH_TRIES):
            chosen = self._choice.choose(files, narrow, engine.supported_events(), self.containers, unplaced)
            failed = engine.attach(chosen.compiled.events, results(chosen.compiled), chosen.compiled.probes, again=True)
            missed = unrefusing(engine.unplaced(), chosen.compiled.probes)
            if not failed and missed.keys() <= unplaced.keys():
                break
            # Some program did not load after all, or has no place: the policies that cannot do without are refused.
            unplaced |= missed
        return chosen

    def _put_feed_in_force(self, made: Made, stale: bool) -> None:
        assert self._choice is not None
        assert made.base is not None
        assert made.outcomes is not None
        if stale or made.base is not self.life.tables.loaded:
            self._feeds.due = self.loop.now()
            return
        if not alike(made.loaded, made.base):
            self.drain()
            self._enforce(made.loaded, (made.compiled, made.left), tell=False)
            self._in_force("reloaded")
            self._ready()
            self._remake.begin(self.life.tables.release)
        self._choice.in_force(made.outcomes)

    # ---- names of hosts ----

    def _hosts_changed(self) -> None:
        if self._notice.take() and self._hosts.due is None:
            self._hosts.due = max(self.loop.now() + SETTLE_SECONDS, self._hosts_next)

    def _resolve_again(self, now: float) -> None:
        """Begin to make the tables of the rules in force again, for the addresses that names of hosts have now."""
        base = self.life.tables.loaded
        if self._remake.busy or base is None:
            self._hosts.due = now + HOSTS_SECONDS
            return
        events, facts, settings = self.life.engine.supported_events(), Facts(self.confirms.hosts()), self.settings

        def work() -> Made | None:
            made = with_facts(base, settings.mode, settings.scope, facts, self._modes())
            return None if made.policies == base.policies else Made(base, events, made, *tables(made, events, self.containers, self.kept))

        self._remake.begin(work)

    # ---- containers ----

    def _containers_changed(self) -> None:
        self._containers_notice.take()
        if self.containers.due:
            self._classes.by(self.loop.now() if self.containers.urgent else max(self.loop.now(), self._classes_next))

    def _look_at_classes(self, now: float) -> None:
        """Put what has changed about containers in force: by tables with their classes, or by looking at processes anew."""
        if self._remake.busy:
            return  # a swap would wait for the programs that are loaded there; seen to when it is done
        if self.containers.wants_classes:
            self._make_classes()
        elif self.containers.due:
            try:
                self.drain()
                self.life.tables.swap_again()
            except BpfenceError as error:
                self._report(f"changes of containers could not be put in force: {error}")
                self._classes.due = now + RETRY_SECONDS
            self._classes_next = self.loop.now() + max(CLASSES_SECONDS, CLASSES_SHARE * (self.loop.now() - now))

    def _make_classes(self) -> None:
        base = self.life.tables.loaded
        assert base is not None
        events = self.life.engine.supported_events()
        self._for_classes = True
        self._remake.begin(lambda: Made(base, events, base, *tables(base, events, self.containers, self.kept)))

    # ---- what metrics ask for, in a thread of their own ----

    def matches(self) -> dict[tuple[str, str], int]:
        """How often each rule has matched, by its policy and its own name."""
        return self._counts.matches()

    def in_force(self) -> InForce | None:
        """What is in force; None before the start and after the end."""
        life = self._life
        loaded = life.tables.loaded if life is not None else None
        if life is None or loaded is None:
            return None
        policies, tables = loaded.policies.policies, life.tables
        return InForce(
            modes=tuple(policy.mode for policy in policies),
            rules=sum(len(policy.rules) for policy in policies),
            generation=life.engine.generation,
            compile_seconds=tables.compile_seconds,
            swaps=tables.swaps,
            swap_seconds=tables.swap_seconds,
            can_skip=bool(life.engine.can_skip),
        )

    def measured(self) -> Measured | None:
        """What the kernel has counted; None where that cannot be read now."""
        life = self._life
        return life.engine.measured() if life is not None else None

    # ---- what is told of bpfence itself ----

    def _status(self, status: str, text: str, **more: Any) -> None:
        self.outputs.write([self._composer.status(status, text, **more)])

    def _followed(self) -> None:
        self._status("followed", "followed paths name other files now", generation=self.life.engine.generation)

    def _look_at_losses(self, now: float) -> None:
        self._loss.due = now + QUIET_SECONDS
        self._save_counts()
        self._report_loss()
        self.life.engine.forget_counted()

    def _save_counts(self) -> None:
        self._counts.dropped(self.outputs.lost_lines())
        try:
            self._counts.save()
        except OSError as error:
            self._report(f"what `bpfence status` counts cannot be written: {error}")

    def _report_loss(self) -> None:
        life = self.life
        loss = life.source.loss()
        if loss:
            self.outputs.write([self._composer.loss(loss)])
            if self._meter is not None:
                self._meter.loss(loss)
        now = life.engine.skipped()
        skipped, life.skipped = grown(life.skipped, now), now
        if skipped:
            runs = sum(skipped.values())
            text = f"the kernel skipped {runs} runs of programs that were preempted: acts may have passed without a decision"
            self._status("skipped", text, severity="critical", skipped=skipped)

    def _report_faults(self) -> None:
        for fault in self.confirms.take_faults():
            if self._meter is not None:
                self._meter.faults += 1
            self._status("fault", fault.text, severity="high", rule=escape(fault.rule) if fault.rule else UNSET)

    def _report_suppressed(self, *, everything: bool = False) -> None:
        for left in self.life.pipeline.limiter.reports(self.loop.now(), everything=everything):
            if self._meter is not None:
                self._meter.suppressed += left.alerts
            self._status("suppressed", left.text, severity="medium", policy=left.policy, rule=left.rule, suppressed=left.alerts)


class _Life:
    """What an agent has between its start and its stop: the engine, what is in force in it, and the pipeline of its records."""

    def __init__(self, agent: Agent, engine: Engine) -> None:
        self.engine = engine
        self.source = Live(
            engine,
            clock=agent._clock,
            boot_id=agent._boot_id,
            cgroup_path=_cgroup_path(agent.containers.path_of),
            container=agent.containers.lately,
        )
        self.tables = Tables(
            engine,
            agent.generations,
            agent.confirms,
            agent.loop,
            agent.containers,
            report=agent._report,
            changed=agent._followed,
            kept=agent.kept,
        )
        self.pipeline = Pipeline(self.source, agent.generations, agent.confirms, agent._composer, agent._counts, agent.loop.now)
        self.skipped: dict[str, int] = engine.skipped() if engine.adopted else {}


def _cgroup_path(of_container: Callable[[int], str | None]) -> Callable[[int], str | None] | None:
    """Cgroup ids to the paths that rules see; None where they cannot be had. `of_container`: of what may be gone by now."""
    try:
        hierarchy = find_hierarchy()
    except (BpfenceError, OSError):
        return None
    if not hierarchy.whole:
        return None
    path = CgroupPaths(hierarchy.root).path
    return lambda number: path(number) or of_container(number)


def _cgroup_number() -> Callable[[str], int]:
    """The number of a cgroup by its path; 0 where it is gone, and everywhere where cgroups cannot be seen as the kernel's programs do."""
    try:
        hierarchy = find_hierarchy()
    except (BpfenceError, OSError):
        return lambda _: 0

    def number(path: str) -> int:
        try:
            return os.stat(f"{hierarchy.root}{path}").st_ino if hierarchy.whole else 0
        except (OSError, ValueError):
            return 0

    return number


def _policies(names: Sequence[str]) -> str:
    return "1 policy" if len(names) == 1 else f"{len(names)} policies"

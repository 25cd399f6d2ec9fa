# SPDX-License-Identifier: Apache-2.0
"""Images of tables in, records and counters out: the BPF side of the agent.

Called by the agent, and by `bpfence exec`, `status`, `unload` and `doctor`. One Engine holds one instance: a set of maps, the programs
attached with them, and (where a pin folder is given) their pins in bpffs, so that enforcement outlives the process that loaded it.

    load or adopt ─▶ attach(events) ─▶ seed() ─▶ swap(image, objects) ─▶ release(events)
                                                   drain() … drain() …            ▲ the same three again for a new policy set

Under the pin folder an instance is `abi<ABI version>-<ABI hash>-<object digest>-<flavour>/` (of ABI 1 without the first part), with
`map_<name>` and `link_<program>`. An instance that this version made is adopted on restart; another version's enforces on until ours does,
then it goes. What its maps hold is read by no version but its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import mmap
import os
import re
import struct
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bpfence import abi
from bpfence.errors import KernelError
from bpfence.fields import EVENT_BY_NAME, EVENTS
from bpfence.kernel import libbpf, sensors, uprobes
from bpfence.kernel.features import MEANING_BY_NAME, Answer, Features
from bpfence.kernel.hooks import ENDED, KNOWN, MOVES, Kind
from bpfence.kernel.libbpf import Drain, LoadFailure, Map, NoDescriptorsError, Object
from bpfence.kernel.measured import FILLED, Measured
from bpfence.kernel.pids import host_pid
from bpfence.kernel.pins import Pins, instances, link_names, open_map, pinned_links
from bpfence.kernel.pins import unload as _unload
from bpfence.kernel.programs import Choice, Plan, calls, plan, sensed, supported_events, text_arguments
from bpfence.kernel.sharing import OBJECT as SHARED
from bpfence.kernel.sharing import Sharing, decides, wants
from bpfence.kernel.symbols import addresses
from bpfence.policy import Probe, Way
from bpfence.syscalls import table as syscalls
from bpfence.syscalls.architectures import Arch

OBJECT: Final = Path(__file__).with_name("bpfence.bpf.o")
PIN_DIR: Final = "/sys/fs/bpf/bpfence"
BATCH_RECORDS: Final = 32
"""An alert waits for the rest of its batch: this many take 2 ms at most in user space, and what a batch costs by itself is little."""
BATCH_BYTES: Final = 1 << 20

_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_ENDS_AT: Final = abi.COUNTED_OFFSETS["ends"]
COUNTED_AT_ONCE: Final = 4096
_OBJECT_KEY: Final = abi.OBJECT_KEY_STRUCT
MAX_OBJECTS: Final = 65536
"""Followed identities of one policy set."""
RINGS: Final = ("decisions", "candidates", "telemetry")
"""The ring buffers, in the order of RING_* and in which they are read."""
_GENERATION: Final = abi.CONTROL_OFFSETS["generation"]
SLOTS_OF_CPU: Final = 2
"""Scratch memory that belongs to a processor: SCRATCH_OWN of bpf/engine.h."""
SPARES: Final = 24
SPARES_OF_CPU: Final = 8
"""Scratch memory that any processor may take: for tasks that are preempted within a hook. One takes 36 KiB."""
MAX_SLOTS: Final = 65535
"""Slots have numbers of 16 bits in the records of events."""
MAX_PROCESSES: Final = 262144
"""Processes that are kept records of by default: at most so many, and no more than the kernel has tasks."""
_THREADS_MAX: Final = Path("/proc/sys/kernel/threads-max")
_ENDED: Final = 1024
"""Programs whose processes have ended that are kept records of: GRAVEYARD of bpf/maps.h."""
_LONG_SHARE: Final = 8
"""Of so many programs one may have a path that does not fit into its record."""
_ARGS_SHARE: Final = 2
"""The same for arguments."""
_FILTER_BYTES: Final = 1 << 13
_FILTER_FACTOR: Final = 0x9E3779B97F4A7C15
"""As object_bit of bpf/path.h."""
_COUNTS: Final = ("rename_lock", "mount_lock")
"""Where the kernel counts renames and mounts."""
_PER_SLOT: Final = ("scratches", "emit_spaces", "image_spaces", "sequences")
_PER_PROCESS: Final = {"processes": 1, "images": 1, "long_exes": _LONG_SHARE, "long_args": _ARGS_SHARE}
_FRAMES: Final = "frames"
"""It takes 1.2 MiB, and programs of sensors that wait for returns alone use it: made small, and anew before the first of them."""

_BEYOND_REACH: Final = "the decision engine is not in it, and the kernel does not give the program out that it would be put into"
_REFUSED: Final = {
    "memory": (abi.CNT_REFUSED_MEMORY, abi.TOLD_REFUSED_MEMORY),
    "table": (abi.CNT_REFUSED_TABLE, abi.TOLD_REFUSED_TABLE),
    "engine": (abi.CNT_REFUSED_ENGINE, abi.TOLD_REFUSED_ENGINE),
}
"""Causes of denials that have no record -> their counter, and their place in the map `told`."""
_NUMBER: Final = 0xFFFFFFFF
"""The number of a sensor, in the cookie of an attachment."""
_AGENT_PID: Final = abi.CONTROL_OFFSETS["agent_pid"]
_REMEMBERS: Final = abi.CONTROL_OFFSETS["remembers"]
_NEEDED: Final = abi.CONTROL_OFFSETS["needed"]


class ProcessRecord(msgspec.Struct, frozen=True):
    """A process as the kernel keeps it (struct process_record). Times are ns since boot."""

    concern: int
    generation: int
    uid: int
    gid: int
    flags: int
    cgroup: int
    exec_id: int
    start_time: int
    pid: int
    ppid: int
    workload: int
    subject: tuple[int, ...]


class ExecImage(msgspec.Struct, frozen=True):
    """An executed program as the kernel keeps it (struct exec_image). Strings are what the kernel wrote: hostile, any bytes."""

    exec_id: int
    parent_exec_id: int
    time: int
    pid: int
    flags: int
    uid: int
    gid: int
    exe_ino: int
    exe_dev: int
    comm: bytes
    args: bytes
    exe: bytes


class LeftOut(msgspec.Struct, frozen=True):
    """A place in the kernel without a program of ours. `covered`: the events lose nothing by it."""

    hook: str
    program: str
    events: tuple[str, ...]
    reason: str
    covered: bool = False


class Status(msgspec.Struct, frozen=True):
    """What is loaded. `abi`: of the version that loaded it; of another one than ours, what its maps have counted is not read.

    `instances` lists every instance under the pin folder, ours included; `skipped` the runs that the kernel has not made
    of a program because it was at work on that processor already.
    """

    flavour: str
    generation: int
    pin_dir: str
    adopted: bool
    agent_pid: int
    attached: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    counters: dict[str, int]
    lost: dict[str, int]
    image_pages: int
    processes: int
    libbpf: str
    instances: tuple[str, ...] = ()
    skipped: dict[str, int] = {}
    abi: int = abi.ABI_VERSION


class LoadCost(msgspec.Struct, frozen=True, omit_defaults=True):
    """Programs that this process has loaded, and the seconds of processor time that went into it, most of them the kernel's verifier's.

    `unshared`: why each program has a decision engine of its own, "" where they share one.
    """

    programs: int
    seconds: float
    unshared: str = ""


class Engine:
    """A loaded instance. Made by `load` or `adopt`. `drain` is for one thread; the rest is guarded by a lock."""

    def __init__(self, features: Features, flavour: str, object_path: Path, pins: Pins | None, max_processes: int | None = None) -> None:
        self._features = features
        self._max_processes = max_processes or _processes()
        self._agent_pid = 0
        self._loaded = 0
        self._loading = 0.0
        self._programs: dict[str, int] = {}
        self._object_path = object_path
        self._pins = pins
        self._maps: dict[str, Map] = {}
        self._followed: Map | None = None
        self._links: dict[str, int] = {}
        self._sensing: dict[str, int] = {}
        self._described: set[int] = set()
        self._sites: dict[int, dict[str, bytes]] = {}
        self._placeless: dict[int, KernelError] = {}
        self._unplaced: dict[int, str] = {}
        self._failed: dict[str, str] = {}
        self._skipped: dict[str, int] = {}
        self._control: mmap.mmap | None = None
        self._drain: Drain | None = None
        self._iterator = -1
        self._tracking_due = False
        self._sharing = Sharing(features)
        self._attach_asked = False
        self._swapped = False
        self._counting = False  # the tables in force have rules that count
        self._may_have_counted = True
        self._counted: list[bytes] = []  # keys that are to be looked at
        self._closed = False
        self._begun = False
        self._lock = threading.RLock()
        self.flavour = flavour
        self.adopted = False
        with Object(object_path, maps_only=True) as parsed:
            _check_abi(parsed)
            self._map_names = tuple(parsed.maps)
            self.plan: Plan = plan(features, flavour, parsed.programs)

    # ---- life ----

    @classmethod
    def load(
        cls, features: Features, *, pin_dir: str | Path | None = PIN_DIR, object_path: Path | None = None, flavour: str | None = None,
        max_processes: int | None = None,
    ) -> Engine:  # fmt: skip
        """A running instance: the one pinned by an earlier agent of this version, else a new one with room for `max_processes`; None: for
        as many as there can be, up to MAX_PROCESSES.

        Without `pin_dir` nothing is pinned, and all is gone when this process ends. KernelError where the kernel lacks what every
        instance needs, or another agent holds the pin folder.
        """
        flavour, object_path = flavour or _flavour(features), object_path or OBJECT
        if not object_path.exists():
            hint = "run `make bpf`, or install bpfence again"
            raise KernelError(f"the BPF object {object_path} is missing", missing="bpfence.bpf.o", hint=hint)
        agent_pid = host_pid()  # or refuse, before anything is touched
        pins = Pins.open(Path(pin_dir), instance_name(object_path, flavour)) if pin_dir else None
        try:
            engine = cls(features, flavour, object_path, pins, max_processes)
        except BaseException:
            if pins:
                pins.close()
            raise
        engine._agent_pid = agent_pid
        try:
            with libbpf.telling_descriptors("starting"):
                if not engine._adopt():
                    engine._create()
                engine._start()
        except BaseException:
            if pins and engine._begun:
                with contextlib.suppress(KernelError):  # why it did not start is what counts
                    pins.remove_own()
            engine.close()
            raise
        return engine

    @classmethod
    def adopt(cls, features: Features, pin_dir: str | Path = PIN_DIR, *, object_path: Path | None = None) -> Engine | None:
        """The instance pinned by an earlier agent of this version, or None. KernelError where only another version's is there."""
        object_path = object_path or OBJECT
        folder = Path(pin_dir)
        present = instances(folder)
        for flavour in ("lsm", "fmod_ret"):
            if instance_name(object_path, flavour) in present:
                return cls.load(features, pin_dir=folder, object_path=object_path, flavour=flavour)
        if present:
            raise KernelError(
                f"{folder} holds what another version of bpfence has loaded: {', '.join(map(_version, present))}",
                missing="matching pins",
                hint="`bpfence run` replaces it without a gap; `bpfence unload` removes it",
            )
        return None

    def _adopt(self) -> bool:
        """Takes over the pins of our own instance, if they are complete and in force. KernelError leaves them as they are."""
        if not self._pins:
            return False
        maps = self._pins.maps(self._map_names)
        if maps is None:
            if attached := self._pins.attached():
                # Maps are pinned before links, and go after them: these programs may be in force.
                message = f"maps of {self._pins.folder / self._pins.instance} are gone, where {len(attached)} programs are attached"
                raise KernelError(message, missing="complete pins", hint="`bpfence unload` takes them away, and ends what they enforce")
            self._pins.remove_own()
            return False
        self._maps = maps
        self._map_control()
        if not self.generation:
            # Its agent died before the first policy was in force.
            self._close_maps()
            self._pins.remove_own()
            return False
        self._links = self._pins.links()
        self._programs = _programs(self._links)
        self._adopt_sensors()
        self._sharing.adopt(self._pins.engines(), self.plan.choices)
        self._attach_asked = self._swapped = True
        self.adopted = True
        return True

    def _adopt_sensors(self) -> None:
        """The programs of sensors that an earlier agent has attached: they can be attached to more."""
        for program in itertools.chain.from_iterable(sensors.PROGRAMS.values()):
            if program in self._programs:
                self._sensing[program] = self._programs.pop(program)

    def _create(self) -> None:
        """Makes the maps. What tracks processes is loaded with the first events' programs: what each load costs by itself is much."""
        self._begun = True
        self._load_programs(())
        self._tracking_due = True

    def _need_tracking(self) -> None:
        tracking = [choice for choice in self.plan.for_events(()) if choice.row.essential]
        if missing := [choice.program for choice in tracking if choice.program not in self._links]:
            reasons = "; ".join(f"{program}: {self._failed.get(program, 'not loaded')}" for program in missing)
            message = f"processes cannot be tracked on this kernel: {reasons}"
            raise KernelError(message, missing="process tracking", hint="see `bpfence doctor`")
        self._tracking_due = False

    def _start(self) -> None:
        if not self._control:
            self._map_control()
        libbpf.store_u32(self._control_memory(), _AGENT_PID, self._agent_pid)
        self._drain = Drain([self._maps[name] for name in RINGS], max_records=BATCH_RECORDS, max_bytes=BATCH_BYTES)

    def end(self) -> None:
        """Ends enforcement, and removes the pins. What the programs have written and counted by then can be read until `close`; nothing can
        be attached any more.

        The programs do nothing from now on; the kernel detaches those that were pinned some time later. To wait for that would take seconds
        for each of them while many processes are at work in the kernel.
        """
        with self._lock:
            self._closed = True
            if self._control and (generation := self.generation):
                libbpf.store_u32(self._control_memory(), _GENERATION, 0)
                with contextlib.suppress(KernelError, OSError):  # for want of memory or descriptors
                    # Returns when no program is at work any more with what was in force: see `swap`.
                    os.close(self._put_page(next_generation(generation), 0, memoryview(b"")))
            if self._pins:
                for fd in self._links.values():
                    os.close(fd)
                self._links = {}
                self._sharing.close()
                self._pins.remove_own(wait=False)

    def close(self, unload: bool = False) -> None:
        """Lets go of everything. What is pinned goes on, unless `unload`; what is not ends here."""
        with self._lock:
            if self._control:
                libbpf.store_u32(self._control_memory(), _AGENT_PID, 0)
            if self._drain:
                self._drain.close()
                self._drain = None
            try:
                if unload:
                    self.end()
                    if self._pins:
                        self._pins.remove_folder()  # another version's enforces until ours does, also where that never comes
            finally:
                self._let_go()

    def _let_go(self) -> None:
        self._closed = True
        for fd in (*self._links.values(), *self._programs.values(), *self._sensing.values()):
            os.close(fd)
        self._links, self._programs, self._sensing = {}, {}, {}
        self._sharing.close()
        if self._iterator >= 0:
            os.close(self._iterator)
            self._iterator = -1
        self._close_maps()
        if self._pins:
            self._pins.close()
            self._pins = None

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _close_maps(self) -> None:
        if self._control:
            self._control.close()
            self._control = None
        for table in (*self._maps.values(), *((self._followed,) if self._followed else ())):
            table.close()
        self._maps, self._followed = {}, None

    def _map_control(self) -> None:
        self._control = mmap.mmap(self._maps["control"].fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)

    def _control_memory(self) -> memoryview:
        if not self._control:
            raise ValueError("the engine is closed")
        return memoryview(self._control)

    # ---- programs ----

    def supported_events(self) -> frozenset[str]:
        """Events (full names) all of whose hooks have a program, as far as is known before `attach` or `try_all` loads them."""
        return frozenset(name for name, reason in supported_events(self.plan, self._failed).items() if not reason)

    def unsupported_events(self) -> dict[str, str]:
        """The other events, each with the reason."""
        return {name: reason for name, reason in supported_events(self.plan, self._failed).items() if reason}

    def left_out(self) -> tuple[LeftOut, ...]:
        """Every hook without a program, with its reason."""
        out = [LeftOut(gap.hook, gap.program, gap.events, gap.reason, gap.covered) for gap in self.plan.gaps]
        out += [
            LeftOut(choice.row.hook, choice.program, choice.events, self._failed[choice.program])
            for choice in self.plan.choices
            if choice.program in self._failed
        ]
        return tuple(out)

    def attached(self) -> tuple[str, ...]:
        """Names of the attached programs."""
        return tuple(sorted(self._links))

    def attach(
        self, events: Collection[str], results: Collection[str] = (), probes: Collection[Probe] = (), *, again: bool = False
    ) -> dict[str, str]:  # fmt: skip
        """Loads and attaches what `events` (full names) need and is not attached yet, for `results` the ends of the system calls that
        these events are the work of, and of `probes` those whose event is among `events`; detaches nothing that was attached before.
        `again`: sensors that had no place are tried once more, which can take seconds.

        Returns the events of these that cannot be relied on, with the reason: for an enforcing rule that is an error. KeyError: no
        such event. ValueError: the engine is closed. KernelError: processes cannot be tracked, or descriptors have run out, and what was
        attached is as before. Sensors without a place: `unplaced`.
        """
        with self._lock:
            if self._closed:
                raise ValueError("the engine is closed")
            before = set(self._links)
            try:
                with libbpf.telling_descriptors("attaching programs"):
                    return self._attach_all(events, results, probes, again=again)
            except NoDescriptorsError:
                for program in self._links.keys() - before:  # else nothing is left for the agent's own work
                    self._detach(program)
                raise

    def _attach_all(
        self, events: Collection[str], results: Collection[str], probes: Collection[Probe], *, again: bool
    ) -> dict[str, str]:  # fmt: skip
        choices = self.plan.for_events(events, results)
        wanted = [choice for choice in choices if not self._in_place(choice, choices)]
        self._load_programs(
            [choice for choice in wanted if self._tracking_due or choice.row.kind is not Kind.ITERATOR],
            self._sharing.lacking((choice for choice in choices if choice.program in self._links), events),
            events,
        )
        if self._tracking_due:
            self._need_tracking()
        if again:
            self._placeless.clear()
            self._described.difference_update(self._sites)  # files may have changed
        self._put_sensors([probe for probe in probes if probe.way.value in events])
        self._remember()
        self._put_calls()
        self._attach_asked = True
        reasons = self.unsupported_events()
        return {event: reasons[event] for event in events if event in reasons}

    def _put_sensors(self, probes: Iterable[Probe]) -> None:
        """Attaches the sensors that are not there yet. One that cannot be keeps no other from it."""
        self._unplaced = {}
        hints = sensors.Hints()
        for probe in probes:
            if probe.way is not Way.LSM and any(program not in self._sensing for program in sensors.PROGRAMS[probe.way]):
                continue  # its event is not supported, which is told
            error = self._placeless.get(probe.number) or self._sensor_error(probe, hints)
            if error is not None and not (probe.optional and isinstance(error, sensors.NoPlaceError)):
                self._unplaced[probe.number] = f"{error}{f' ({error.hint})' if error.hint else ''}"

    def _sensor_error(self, probe: Probe, hints: sensors.Hints) -> KernelError | None:
        """Why a sensor cannot be attached, which is remembered; None: it is."""
        try:
            self._put_sensor(probe, hints)
        except NoDescriptorsError:
            raise
        except KernelError as error:
            self._placeless[probe.number] = error.with_traceback(None)  # which would keep all that was at work
            return error
        return None

    def _put_sensor(self, probe: Probe, hints: sensors.Hints) -> None:
        if probe.way in uprobes.WAYS:
            if probe.number not in self._described:
                self._put_on_file(probe, hints)
            return
        if probe.way is Way.LSM:
            self._put_on_hook(probe, hints)
            return
        self._describe(probe, hints)
        attached: list[str] = []
        try:
            for name, program in zip(sensors.link_names(probe), sensors.PROGRAMS[probe.way], strict=True):
                if name not in self._links:
                    self._keep_link(name, sensors.attach(probe, program, self._sensing[program], self._features.machine, hints))
                    attached.append(name)
        except KernelError:
            self._give_up(attached)
            raise

    def _put_on_hook(self, probe: Probe, hints: sensors.Hints) -> None:
        """Loads a program that is aimed at the hook, and attaches it with the engine in it."""
        (name,) = sensors.link_names(probe)
        row = next((choice.row for choice in self.plan.choices if choice.row.kind is Kind.PLACED), None)
        target = sensors.lsm_target(probe, self.flavour, self._features, hints)
        self._describe(probe, hints)
        if name in self._links or row is None:  # without the row its event is not supported, which is told
            return
        (program,) = sensors.PROGRAMS[probe.way]
        fd = self._load_aimed(Choice(program, target, row), sensors.described(probe))
        try:
            self._keep_link(name, libbpf.attach_aimed(fd, probe.number, modify_return=self.flavour == "fmod_ret"))
        except BaseException:
            os.close(fd)
            raise
        self._programs[name] = fd  # what the kernel skips of it is counted

    def _load_aimed(self, choice: Choice, what: str) -> int:
        """A descriptor of a program that is loaded for the hook that it is aimed at. KernelError: it does not load."""
        with Object(self._path(shared=self._sharing.takes(choice))) as parsed:
            parsed.share(self._maps)
            parsed.choose(choice.program)
            if self.flavour == "fmod_ret":
                parsed.modify_return(choice.program, choice.target)
            else:
                parsed.aim_hook(choice.program, choice.target.removeprefix(sensors.LSM_HOOK))
            began = time.thread_time()
            failed = parsed.load()
            self._loading += time.thread_time() - began
            if failed and failed.number in libbpf.NO_DESCRIPTORS:
                raise libbpf.failure(failed.number, f"loading {what}")
            if failed:
                raise KernelError(f"{what} cannot be loaded: {failed.reason}", missing="that program")
            self._loaded += 1
            return os.dup(parsed.fd(choice.program))

    def _describe(self, probe: Probe, hints: sensors.Hints) -> None:
        if probe.number not in self._described:
            # Of one that an earlier agent has attached, too: that may have had it read in another way.
            self._maps["sensors"].put(_U64.pack(probe.number), sensors.descriptor_of(probe, hints))
            self._described.add(probe.number)

    def _put_on_file(self, probe: Probe, hints: sensors.Hints) -> None:
        """Attaches a sensor to the places that its file has now. Links to what had the file's name before stay until `release`."""
        attached: list[str] = []
        try:
            with uprobes.found(probe, hints) as (file, sites):
                self._describe(probe, hints)
                keys = {}
                for name, program, site in uprobes.link_names(probe, sites):
                    keys[name] = _U64.pack(site.cookie(probe))
                    self._maps["user_values"].put(keys[name], site.values)
                    if name not in self._links:
                        self._keep_link(name, uprobes.attach(probe, program, self._sensing[program], file, site))
                        attached.append(name)
        except KernelError:
            self._described.discard(probe.number)
            self._give_up(attached)
            raise
        self._sites[probe.number] = keys

    def _give_up(self, attached: Iterable[str]) -> None:
        """Detaches some of the links of a sensor whose others cannot be: one program of two sees nothing."""
        for name in reversed(list(attached)):
            self._detach(name)

    def unplaced(self) -> dict[int, str]:
        """The sensors (by `Probe.number`) that the last call of `attach` could not attach, with reasons; none that is optional and has no
        place on this kernel."""
        return dict(self._unplaced)

    def _keep_link(self, name: str, link: int) -> None:
        if self._pins:
            try:
                self._pins.pin_link(name, link)
            except BaseException:
                os.close(link)
                raise
        self._links[name] = link

    def release(self, events: Collection[str], results: Collection[str] = (), probes: Collection[Probe] = ()) -> tuple[str, ...]:
        """Detaches what neither `events` nor `results` nor `probes` nor process tracking need: for after a swap. Returns the detached
        programs. What other versions have in force goes here, too: by then nothing can go wrong with this one any more."""
        with self._lock:
            if self._closed:
                return ()
            self._retire()
            placed = {name: probe for probe in probes if probe.way.value in events for name in sensors.link_names(probe)}
            kept = {choice.program for choice in self.plan.for_events(events, results)} | placed.keys()
            # What was attached last sees more than the first.
            gone = [link for link in reversed(self._links) if sensors.of_sensor(link) not in kept or self._is_past(link, placed)]
            self._put_calls(kept)
            self._remember(kept)
            for program in gone:
                self._detach(program)
            if self._sensing or self._described:
                self._release_sensors(kept, {probe.number for probe in placed.values()})
            if ENDED not in kept:
                self._maps["ended_calls"].delete(_U32.pack(0))
            return tuple(gone)

    def _is_past(self, link: str, placed: Mapping[str, Probe]) -> bool:
        """Whether a link is to a place that a sensor's file has no more."""
        probe = placed.get(sensors.of_sensor(link))
        sites = self._sites.get(probe.number) if probe else None
        return sites is not None and link not in sites

    def _detach(self, program: str) -> None:
        if self._pins:
            self._pins.remove_link(program)
        os.close(self._links.pop(program))
        self._sharing.drop(program)
        if program in self._programs:
            os.close(self._programs.pop(program))

    def _release_sensors(self, kept: Collection[str], numbers: Collection[int]) -> None:
        for program in self._sensing.keys() - set(kept):
            os.close(self._sensing.pop(program))
        self._described.intersection_update(numbers)
        self._placeless = {number: error for number, error in self._placeless.items() if number in numbers}
        for key in self._maps["sensors"].all_keys():
            if _U64.unpack(key)[0] not in numbers:
                self._maps["sensors"].delete(key)
        self._sites = {number: keys for number, keys in self._sites.items() if number in numbers}
        cookies = {key for keys in self._sites.values() for key in keys.values()}
        for key in self._maps["user_values"].all_keys():
            number = _U64.unpack(key)[0] & _NUMBER
            if number not in numbers or (number in self._sites and key not in cookies):
                self._maps["user_values"].delete(key)

    def _in_place(self, choice: Choice, choices: Iterable[Choice]) -> bool:
        """Whether a program of `choices` need not be loaded."""
        if choice.row.kind is Kind.SENSOR:
            return choice.program in self._sensing
        if choice.row.kind is Kind.PLACED:
            return True  # each sensor loads its own
        if choice.row.kind is not Kind.TAIL:
            return choice.program in self._links
        used = any(self._sharing.continues(other) and other.row.tail == choice.program for other in choices)
        return not used or bool(self._maps and self._maps["ended_calls"].get(_U32.pack(0)))

    def _remember(self, staying: Collection[str] = (KNOWN,)) -> None:
        """Lets programs use maps `known_files` and `folders` as long as the one is attached that ends the truth of what is there. What was
        noted before an interruption carries another number.
        """
        attached = self._remembers() and KNOWN in self._links and KNOWN in staying
        since = libbpf.load_u32(self._control_memory(), _REMEMBERS)
        if attached != bool(since & 1):
            libbpf.store_u32(self._control_memory(), _REMEMBERS, (since + 1) % (1 << 32))

    def _remembers(self) -> bool:
        """Whether programs are loaded so that they can use map `known_files`: where none of an LSM hook is ever skipped, and the processor
        keeps the order of stores, as bpf/known.h wants it.
        """
        needs = ("inode_storage", "lsm_not_skipped")
        return (
            self.flavour == "lsm"
            and self._features.machine == "x86_64"
            and all(self._features.answer(probe) is Answer.YES for probe in needs)
        )

    def _put_calls(self, staying: Collection[str] | None = None) -> None:
        """Tells the programs which system calls their events may be the work of, and whose end is seen."""
        attached = self._links.keys() if staying is None else self._links.keys() & set(staying)
        seen = sensed(attached)
        for call, events in calls().items():
            number = syscalls.number(Arch.X86_64, call)
            if number is not None and number < abi.CALLS_MAX:
                flags = abi.CALL_SENSED if call in seen else 0
                self._maps["calls"].put(_U32.pack(number), _call(events, flags, text_arguments(call)))

    @property
    def load_cost(self) -> LoadCost:
        return LoadCost(self._loaded, self._loading, self._sharing.refused)

    def try_all(self) -> dict[str, str]:
        """Loads every program without attaching it, for `bpfence doctor`: the events that are not supported, with the reason."""
        with self._lock:
            self._load_programs(self.plan.choices, attach=False)
            return self.unsupported_events()

    def shares(self, choice: Choice) -> bool:
        """Whether a program is loaded without an engine of its own."""
        return self._sharing.takes(choice)

    @contextlib.contextmanager
    def prepared(self, choice: Choice, *, extended: bool = False) -> Iterator[Object]:
        """The object with one program chosen, over the maps of this instance: for a look at how it loads. `extended`: and the engine that
        is put into it, where that is shared. KernelError: it cannot be.
        """
        with Object(self._path(shared=self._sharing.takes(choice))) as parsed:
            parsed.share(self._maps)
            if not self._choose(parsed, {choice.program: choice}):
                raise KernelError(f"{choice.program}: {self._failed[choice.program]}")
            if extended and self._sharing.takes(choice):
                self._sharing.aim(parsed, [choice], {})
            yield parsed

    def _path(self, *, shared: bool) -> Path:
        return self._object_path.with_name(SHARED) if shared else self._object_path

    def _load_programs(
        self, choices: Collection[Choice], without: Collection[Choice] = (), events: Collection[str] = (), *, attach: bool = True
    ) -> None:
        """Loads `choices` in as few objects as can be, and puts the engine into those of them that `events` (full names) want it in, and
        into attached ones that are `without`; a program that fails is left out and the rest tried again.
        """
        remaining = {choice.program: choice for choice in choices if choice.program not in self._failed}
        late = {choice: self._programs[choice.program] for choice in without if choice.program in self._programs}
        for choice in without:
            if choice not in late:
                self._failed[choice.program] = _BEYOND_REACH
        waiting = {*sensors.PROGRAMS[Way.KRETPROBE], *sensors.PROGRAMS[Way.URETPROBE]}
        returns = not waiting.isdisjoint(remaining)
        if returns and self._maps:
            self._make_frames()
        while remaining or late or not self._maps:
            batch = {program: choice for program, choice in remaining.items() if self._sharing.takes(choice)}
            shared = bool(batch or late or not remaining)
            batch = batch if shared else dict(remaining)
            with Object(self._path(shared=shared), maps_only=not (batch or late)) as parsed:
                if not self._maps:
                    self._set_constants(parsed)
                    self._size_maps(parsed, returns=returns)
                parsed.share(self._maps)
                if not self._choose(parsed, batch):
                    remaining = {program: choice for program, choice in remaining.items() if program not in self._failed}
                    continue
                asked = (choice for choice in batch.values() if shared)
                deciding = [choice for choice in asked if (wants(choice, events) if attach else decides(choice))]
                extensions = self._sharing.aim(parsed, deciding, late)
                began = time.thread_time()
                failed = parsed.load()
                self._loading += time.thread_time() - began
                if failed:
                    self._blame(failed, batch, extensions)
                    remaining = {program: choice for program, choice in remaining.items() if program not in self._failed}
                    if failed.program in extensions:
                        self._failed |= {choice.program: self._sharing.refused for choice in late}
                        late = {}
                    continue
                self._loaded += len(batch) + len(extensions)
                if not self._maps:
                    self._keep_maps(parsed)
                if shared:
                    self._sharing.keep(parsed, extensions)
                    self._extend(late)
                if attach:
                    self._attach(parsed, batch.values(), deciding)
            remaining = {program: choice for program, choice in remaining.items() if program not in batch}
            late = {}

    def _blame(self, failed: LoadFailure, batch: Collection[str], extensions: Collection[str]) -> None:
        """Leaves out what did not load. An engine that cannot be shared is no loss to what is not attached yet: that gets its own."""
        if failed.number in libbpf.NO_DESCRIPTORS:
            raise libbpf.failure(failed.number, f"loading {failed.program or 'the BPF object'}")
        if failed.program in extensions:
            self._sharing.refused = f"{failed.program}: {failed.reason}"
        elif failed.program in batch:
            self._failed[failed.program] = failed.reason
        else:
            raise libbpf.failure(failed.number, "loading the BPF object", failed.reason)

    def _extend(self, late: Mapping[Choice, int]) -> None:
        for choice, fd in late.items():
            try:
                self._sharing.extend(choice, fd, self._pins)
            except NoDescriptorsError:
                raise
            except KernelError as error:
                self._failed[choice.program] = str(error)

    def _choose(self, parsed: Object, remaining: dict[str, Choice]) -> bool:
        """Marks what is to be loaded; False where one had to be left out."""
        for program, choice in list(remaining.items()):
            try:
                parsed.choose(program)
                if choice.row.kind in (Kind.HOOK, Kind.PLACED) and self.flavour == "fmod_ret":
                    parsed.modify_return(program, choice.target)
            except KernelError as error:
                self._failed[program] = str(error)
                del remaining[program]
                return False
        return True

    def _set_constants(self, parsed: Object) -> None:
        for name in parsed.constants():
            if name.lower().startswith("have_"):
                value = self._remembers() if name == "have_inode_storage" else self._features.constant(name)
                parsed.set_constant(name, value)
        for symbol, address in addresses(_COUNTS).items():
            if f"{symbol}_address" in parsed.constants():
                parsed.set_constant(f"{symbol}_address", address)

    def _size_maps(self, parsed: Object, *, returns: bool) -> None:
        own, slots = _slots()
        parsed.set_constant("first_spare", own)
        for name in _PER_SLOT:
            parsed.resize(name, slots)
        parsed.resize("spares", slots - own)
        for name, share in _PER_PROCESS.items():
            parsed.resize(name, -(-self._max_processes // share))
        if not returns:
            parsed.resize(_FRAMES, 1)
        if self._features.answer("entry_allocator") is Answer.YES:
            parsed.allocate_late("held")
        if not self._remembers():
            parsed.replace_map("known_files")

    def _keep_maps(self, parsed: Object) -> None:
        maps = parsed.take_maps()
        for spare in range(*_slots()):
            maps["spares"].push(_U32.pack(spare))
        if self._pins:
            self._pins.pin_maps(maps)
        self._maps = maps

    def _make_frames(self) -> None:
        """Gives map `frames` its own size, before the first program that uses it is loaded."""
        small = self._maps[_FRAMES]
        if small.max_entries > 1:
            return
        with Object(self._path(shared=True), maps_only=True) as parsed:
            parsed.share({name: table for name, table in self._maps.items() if name != _FRAMES})
            if failed := parsed.load():
                raise libbpf.failure(failed.number, f"making map {_FRAMES}", failed.reason)
            made = parsed.take_maps()
        whole = made.pop(_FRAMES)
        for table in made.values():
            table.close()
        try:
            if self._pins:
                self._pins.replace_map(whole)
        except BaseException:
            whole.close()
            raise
        self._maps[_FRAMES] = whole
        small.close()

    def _attach(self, parsed: Object, choices: Collection[Choice], deciding: Collection[Choice]) -> None:
        """`deciding`: those that the shared engine is put into before."""
        for choice in choices:
            try:
                if choice.row.kind is Kind.TAIL:
                    self._maps["ended_calls"].put(_U32.pack(0), _U32.pack(parsed.fd(choice.program)))
                    continue
                if choice.row.kind is Kind.SENSOR:
                    self._sensing[choice.program] = os.dup(parsed.fd(choice.program))
                    continue
                if choice in deciding:
                    self._sharing.extend(choice, parsed.fd(choice.program), self._pins)
                link = parsed.attach(choice.program)
            except KernelError as error:
                self._sharing.drop(choice.program)
                if self._pins:
                    self._pins.remove_link(choice.program)
                if isinstance(error, NoDescriptorsError):
                    raise
                self._failed[choice.program] = str(error)
                continue
            if choice.row.kind is Kind.ITERATOR:
                self._iterator = link
                continue
            self._keep_link(choice.program, link)
            self._programs[choice.program] = os.dup(parsed.fd(choice.program))

    def seed(self) -> bool:
        """Gives the processes that were there before a record. Once a load; False where there was nothing to do or no iterator."""
        with self._lock:
            if self._iterator < 0:
                return False
            libbpf.run_iterator(self._iterator)
            libbpf.run_iterator(self._iterator)  # links those to their parents that came first
            os.close(self._iterator)
            self._iterator = -1
            return True

    # ---- tables ----

    @property
    def generation(self) -> int:
        """The generation in force; 0 before the first swap."""
        return libbpf.load_u32(self._control_memory(), _GENERATION)

    def next_generation(self) -> int:
        """The number that the next swap will give."""
        return next_generation(self.generation)

    def swap(
        self, image: bytes, objects: Mapping[tuple[int, int], int] | None = None, workloads: Mapping[int, int] | None = None
    ) -> int:  # fmt: skip
        """Puts a compiled image in force by one atomic store, and returns its generation.

        `objects`: (inode, device) -> bit set; `workloads`: cgroup id of a container -> class that the image has for it. KernelError
        leaves the old generation in force.
        """
        with self._lock:
            current = self.generation
            generation = next_generation(current)
            stamped = memoryview(_stamp(image, generation))
            pages = [stamped[at : at + abi.IMAGE_PAGE_BYTES] for at in range(0, len(stamped), abi.IMAGE_PAGE_BYTES)]
            self._drop_pages(generation, everything=True)  # what an agent that was killed here has left
            first = -1
            followed: Map | None = None
            try:
                for number, page in reversed(list(enumerate(pages))):
                    descriptor = self._put_page(generation, number, page)
                    if number:
                        os.close(descriptor)
                    else:
                        first = descriptor
                followed = self._put_objects(objects or {}, generation)
                self._put_workloads(workloads or {}, generation)
                if generation & abi.CONCERN_TAG_MASK < current & abi.CONCERN_TAG_MASK:
                    self._forget_concerns(generation)
                needed = struct.unpack_from(f"<{abi.NEEDED_EVENTS}I", image, abi.IMAGE_HEADER_OFFSETS["needed"])
                for number, bits in enumerate(needed, abi.NEEDED_EVENTS * (generation & 1)):
                    libbpf.store_u32(self._control_memory(), _NEEDED + 4 * number, bits)
                libbpf.store_u32(self._control_memory(), _GENERATION, generation)
                # Storing page 0 again waits until no program is still at work with the old generation: the kernel does so after every
                # update of a map of maps (v4.20, 1ae80cf31938). Only then may the old tables and objects go. It must be the same map:
                # another would free the one in use, on kernels without 876673364161 at once.
                self._maps["tables"].put(_page_key(generation, 0), _U32.pack(first))
            except BaseException:
                if self.generation != generation:
                    self._drop_pages(generation, everything=True)
                    self._drop_objects(generation)
                if followed:
                    followed.close()
                raise
            finally:
                if first >= 0:
                    os.close(first)
            if current:
                self._drop_pages(current)
            self._drop_objects(current)
            if self._followed:
                self._followed.close()
            self._followed = followed
            self._maps["workloads"].delete_many(b"".join(key for key in self._classes() if _U64.unpack(key)[0] not in (workloads or {})))
            self._swapped = True
            self._counting = bool(_U32.unpack_from(image, abi.IMAGE_HEADER_OFFSETS["features"])[0] & abi.IMAGE_COUNTS)
            self._may_have_counted |= self._counting
            return generation

    def _put_page(self, generation: int, number: int, data: memoryview) -> int:
        """Returns the page's descriptor, for the caller to close."""
        page = libbpf.new_page("image", abi.IMAGE_PAGE_BYTES, data)
        try:
            self._maps["tables"].put(_page_key(generation, number), _U32.pack(page))
        except BaseException:
            os.close(page)
            raise
        return page

    def _drop_pages(self, generation: int, everything: bool = False) -> None:
        """From the last page to the first, so that an agent that is killed here leaves pages that can be counted. `everything`: also what
        stands behind a gap.
        """
        tables = self._maps["tables"]
        for number in reversed(range(abi.IMAGE_MAX_PAGES if everything else _image_pages(tables, generation))):
            if not everything or tables.get(_page_key(generation, number)) is not None:
                tables.delete(_page_key(generation, number))

    def _forget_concerns(self, generation: int) -> None:
        """Clears the words of map `concerns`, which tell generations apart by 15 bits only. The versions beside them only ever go up: to
        more than any count can have come to since the last time.
        """
        concerns = self._maps["concerns"]
        for index in range(abi.CONCERN_ENTRIES):
            concerns.put(_U32.pack(index), abi.CONCERN_STRUCT.pack(*[0] * abi.CONCERN_WORDS, generation << 32))

    def _put_objects(self, objects: Mapping[tuple[int, int], int], generation: int) -> Map | None:
        """The table of a generation's followed identities, for the caller to close; None: there are none."""
        self._maps["object_filters"].put(_U32.pack(generation & 1), object_filter(objects))
        if not objects:
            self._drop_objects(generation)  # what an agent that was killed here has left
            return None
        if len(objects) > MAX_OBJECTS:
            hint = f"the kernel's table holds {MAX_OBJECTS} of them"
            raise KernelError(f"{len(objects)} followed objects do not fit", missing="room in map objects", hint=hint)
        table = libbpf.new_table("objects", _OBJECT_KEY.size, _U64.size, len(objects))
        try:
            keys = b"".join(_OBJECT_KEY.pack(ino, dev, generation) for ino, dev in objects)
            table.put_many(keys, b"".join(_U64.pack(mask) for mask in objects.values()))
            self._maps["objects"].put(_U32.pack(generation & 1), _U32.pack(table.fd))
        except BaseException:
            table.close()
            raise
        return table

    def _drop_objects(self, generation: int) -> None:
        self._maps["objects"].delete(_U32.pack(generation & 1))

    def _classes(self) -> list[bytes]:
        return self._maps["workloads"].all_keys()

    def forget_counted(self) -> None:
        """Takes away what rules have counted for those of whom nothing counts any more. It looks at COUNTED_AT_ONCE of them, and at others
        the next time.
        """
        target = self._maps.get("counted")
        if target is None or not self._may_have_counted:
            return
        if not self._counted:
            self._counted = target.all_keys()
            self._may_have_counted = self._counting or bool(self._counted)
        now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        looked_at = [self._counted.pop() for _ in range(min(COUNTED_AT_ONCE, len(self._counted)))]
        target.delete_many(b"".join(key for key in looked_at if (found := target.get(key)) and _U64.unpack_from(found, _ENDS_AT)[0] < now))

    def _put_workloads(self, workloads: Mapping[int, int], generation: int) -> None:
        """Beside the class that the generation in force goes by, which stays. Of containers that are gone from `workloads` too."""
        target = self._maps["workloads"]
        for key in {*self._classes(), *map(_U64.pack, workloads)}:
            self._put_class(target, key, workloads.get(_U64.unpack(key)[0], abi.WORKLOAD_UNKNOWN), (generation & 1,))

    @staticmethod
    def _put_class(target: Map, key: bytes, number: int, places: Collection[int]) -> None:
        found = target.get(key)
        classes = list(abi.WORKLOAD_STRUCT.unpack(found)) if found else [abi.WORKLOAD_UNKNOWN] * 2
        for place in places:
            classes[place] = number
        value = abi.WORKLOAD_STRUCT.pack(*classes)
        if value != found:
            target.put(key, value)

    def put_workload(self, cgroup: int, number: int) -> None:
        """Gives a container's cgroup its class in the tables in force: for processes that begin a program, or come to it, from now on.
        Those in it keep theirs until the next swap. KernelError where the map is full. Does not wait for programs that are being loaded;
        the caller sees to it that no swap happens meanwhile.
        """
        self._put_class(self._maps["workloads"], _U64.pack(cgroup), number, (0, 1))

    def drop_workload(self, cgroup: int) -> None:
        """A cgroup is no container's any more. As `put_workload`."""
        self._maps["workloads"].delete(_U64.pack(cgroup))

    @property
    def replaces(self) -> tuple[int, ...]:
        """The ABI versions of the instances of others that enforce until this one does."""
        if not self._pins:
            return ()
        return tuple(abi_of(name) for name in instances(self._pins.folder) if name != self._pins.instance)

    def _retire(self) -> None:
        """Removes other versions' instances once this one is in force: its programs attached and its tables switched on."""
        if self._pins and self._attach_asked and self._swapped:
            self._pins.remove_others()

    # ---- records ----

    @property
    def wakeup_fd(self) -> int:
        """Readable (for selectors) when there are records to drain."""
        return self._ready().fileno()

    def drain(self, timeout_ms: int = 0) -> list[tuple[str, bytes]]:
        """One batch of records, (one of RINGS, bytes of struct event_header and its body), decisions first.

        Waits up to `timeout_ms` (-1: for ever) where there is none. At most BATCH_RECORDS records; call again while it returns any.
        """
        return self._ready().read(timeout_ms)

    def _ready(self) -> Drain:
        if not self._drain:
            raise ValueError("the engine is closed")
        return self._drain

    def counters(self) -> dict[str, int]:
        """Counters by name in lower case without CNT_, summed over processors."""
        counted = _read_counters(self._maps["counters"])
        counted["drain_failed"] = self._drain.failed() if self._drain else 0
        return counted

    def lost(self) -> dict[str, int]:
        """Records that found no room in a ring buffer, by event, where there are any."""
        return _read_lost(self._maps["lost"])

    def refused(self) -> dict[str, int]:
        """Denials that have no record, because there was no memory for one or the tables contradict themselves, by cause."""
        table = self._maps["counters"]
        return {cause: _sum(table, counter) for cause, (counter, _) in _REFUSED.items()}

    def told(self) -> tuple[dict[str, int], dict[str, int]]:
        """What was put by `tell`, by this agent or one before it, in the forms of `lost` and `refused`."""
        table = self._maps["told"]
        lost = {event.name: _get(table, abi.EVENT_ID[event.id]) for event in EVENTS}
        refused = {cause: _get(table, key) for cause, (_, key) in _REFUSED.items()}
        return {name: count for name, count in lost.items() if count}, refused

    def tell(self, lost: Mapping[str, int], refused: Mapping[str, int]) -> None:
        """Notes in the kernel that these losses, as `lost` and `refused` gave them, have been told. A later agent begins there."""
        table = self._maps["told"]
        for event in EVENTS:
            if event.name in lost:
                table.put(_U32.pack(abi.EVENT_ID[event.id]), _U64.pack(lost[event.name]))
        for cause, (_, key) in _REFUSED.items():
            table.put(_U32.pack(key), _U64.pack(refused.get(cause, 0)))

    def measured(self) -> Measured | None:
        """What the kernel has counted until now, by any thread. None where the engine is closed, or busy with its programs: nobody waits.

        Descriptors of its own: the engine may be closed or swapped meanwhile, and nobody waits for this either.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            if self._closed:
                return None
            generation = self.generation
            with contextlib.ExitStack() as opened:
                there = {**self._maps, "objects": self._followed}
                asked = ((name, there.get(name)) for name in (*FILLED, "counters", "lost", "tables"))
                copies = {name: table.copy() for name, table in asked if table}
                for table in copies.values():
                    opened.callback(table.close)
                programs = {name: os.dup(fd) for name, fd in {**self._programs, **self._sensing}.items()}
                for fd in programs.values():
                    opened.callback(os.close, fd)
                rest = opened.pop_all()
        finally:
            self._lock.release()
        with rest:
            return Measured(
                counters=_read_counters(copies["counters"]),
                lost=_read_lost(copies["lost"]),
                skipped=_skips(programs),
                programs={name: libbpf.runs(fd) for name, fd in programs.items()},
                fill={name: (copies[name].count(), copies[name].max_entries) for name in FILLED if name in copies},
                pages=(_image_pages(copies["tables"], generation), abi.IMAGE_MAX_PAGES),
            )

    def skipped(self) -> dict[str, int]:
        """Runs of attached programs that the kernel has skipped, because the program was at work on that processor already; where any.

        As they were the last time while programs are being attached or detached by another thread, which takes long: nobody waits for it.
        """
        if self._lock.acquire(blocking=False):
            try:
                self._skipped = _skips({**self._programs, **self._sensing})
            finally:
                self._lock.release()
        return self._skipped

    @property
    def can_skip(self) -> str:
        """Why the kernel may skip programs that enforce, "" where it cannot: fmod_ret programs, and LSM programs of some kernels, that can
        be preempted.
        """
        probes = self._features.probes
        runs, probe = probes.get("lsm_not_skipped"), probes.get("no_preemption")
        if (self.flavour == "lsm" and (runs is None or runs.answer is Answer.YES)) or (probe and probe.answer is Answer.YES):
            return ""
        why = f"preemption: {probe.detail}" if probe and probe.detail else "whether it preempts programs cannot be told"
        return f"{self.flavour} programs, {why}"

    def record(self, pid: int) -> ProcessRecord | None:
        """The kernel's record of a process (tgid in the initial pid namespace)."""
        value = self._maps["processes"].get(_U32.pack(pid))
        return decode_process_record(value) if value else None

    def image(self, exec_id: int) -> ExecImage | None:
        """The kernel's record of an executed program."""
        key = _U64.pack(exec_id)
        value = self._maps["images"].get(key)
        long_exe, long_args = self._maps["long_exes"].get(key), self._maps["long_args"].get(key)
        return decode_exec_image(exec_id, value, long_exe, long_args) if value else None

    def processes(self) -> list[int]:
        """Process ids that have a record."""
        return [_U32.unpack(key)[0] for key in self._maps["processes"].all_keys()]

    def status(self) -> Status:
        """What is loaded and what it has counted."""
        with self._lock:
            memory = self._control_memory()
            generation = self.generation
            return Status(
                flavour=self.flavour,
                generation=generation,
                pin_dir=str(self._pins.folder) if self._pins else "",
                adopted=self.adopted,
                agent_pid=libbpf.load_u32(memory, _AGENT_PID),
                attached=self.attached(),
                left_out=self.left_out(),
                counters=self.counters(),
                lost=self.lost(),
                image_pages=_image_pages(self._maps["tables"], generation),
                processes=len(self._maps["processes"].all_keys()),
                libbpf=libbpf.version(),
                instances=instances(self._pins.folder) if self._pins else (),
                skipped=self.skipped(),
            )


# ---- without an engine ----


def inspect(pin_dir: str | Path = PIN_DIR) -> tuple[Status, ...]:
    """What is pinned under `pin_dir`, one Status an instance, running agent or not. Changes and locks nothing."""
    folder = Path(pin_dir)
    found = instances(folder)
    return tuple(_inspect(folder, name, found) for name in found)


def _inspect(folder: Path, instance: str, all_instances: tuple[str, ...]) -> Status:
    if abi_of(instance) != abi.ABI_VERSION:
        return Status(
            flavour=instance.rpartition("-")[2], generation=0, pin_dir=str(folder), adopted=False, agent_pid=0,
            attached=link_names(folder, instance), left_out=(), counters={}, lost={}, image_pages=0, processes=0,
            libbpf=libbpf.version(), instances=all_instances, abi=abi_of(instance),
        )  # fmt: skip
    maps = {name: open_map(folder, instance, name) for name in ("control", "counters", "lost", "tables", "processes")}
    try:
        control = maps["control"].get(_U32.pack(0)) or bytes(abi.CONTROL_SIZE)
        generation = _U32.unpack_from(control, _GENERATION)[0]
        return Status(
            flavour=instance.rpartition("-")[2],
            generation=generation,
            pin_dir=str(folder),
            adopted=False,
            agent_pid=_U32.unpack_from(control, _AGENT_PID)[0],
            attached=link_names(folder, instance),
            left_out=(),
            counters=_read_counters(maps["counters"]),
            lost=_read_lost(maps["lost"]),
            image_pages=_image_pages(maps["tables"], generation),
            processes=len(maps["processes"].all_keys()),
            libbpf=libbpf.version(),
            instances=all_instances,
            skipped=_pinned_skips(folder, instance),
        )
    finally:
        for table in maps.values():
            table.close()


def _pinned_skips(folder: Path, instance: str) -> dict[str, int]:
    links = pinned_links(folder, instance)
    programs = _programs(links)
    try:
        return _skips(programs)
    finally:
        for fd in (*links.values(), *programs.values()):
            os.close(fd)


def _skips(programs: Mapping[str, int]) -> dict[str, int]:
    """Skipped runs by program, of those whose work is missed: without MOVES an event costs more, and nothing else."""
    found = {name: libbpf.misses(fd) for name, fd in programs.items() if name not in MOVES}
    return {name: number for name, number in found.items() if number}


def _programs(links: Mapping[str, int]) -> dict[str, int]:
    """Descriptors of the programs of links, by name, one of all sensors that share it, and of sensors with programs of their own by the
    names of their links; nothing where we may not have them (without CAP_SYS_ADMIN)."""
    found: dict[str, int] = {}
    try:
        for name, link in links.items():
            program = name.partition(sensors.APART)[0]
            if program in sensors.PROGRAMS[Way.LSM]:
                program = name
            try:
                if program not in found:
                    found[program] = libbpf.program_of(link)
            except NoDescriptorsError:
                raise
            except KernelError:
                continue
    except BaseException:
        for fd in found.values():
            os.close(fd)
        raise
    return found


def unload(pin_dir: str | Path = PIN_DIR) -> tuple[str, ...]:
    """Takes away everything pinned under `pin_dir`; the instances that were there. KernelError while an agent runs."""
    return _unload(Path(pin_dir))


def instance_name(object_path: Path, flavour: str) -> str:
    """The folder of the instance that this object makes in this flavour."""
    shared = object_path.with_name(SHARED)
    digest = hashlib.blake2b(object_path.read_bytes(), digest_size=8)  # a tenth of SHA-256's cost, where the processor has no help for that
    if shared.exists():
        digest.update(shared.read_bytes())
    return f"abi{abi.ABI_VERSION}-{abi.ABI_HASH}-{digest.hexdigest()}-{flavour}"


def abi_of(instance: str) -> int:
    """The ABI version of an instance, by the name of its folder."""
    found = re.match(r"abi(\d+)-", instance)
    return int(found[1]) if found else 1


def object_filter(objects: Iterable[tuple[int, int]]) -> bytes:
    """The filter in front of map `objects`, struct object_filter: a bit of each (inode, device)."""
    bits = bytearray(_FILTER_BYTES)
    for ino, dev in objects:
        bit = ((ino ^ dev << 32) * _FILTER_FACTOR) % (1 << 64) >> 48
        bits[bit // 8] |= 1 << bit % 8
    return bytes(bits)


def _version(instance: str) -> str:
    return f"{instance} (ABI {abi_of(instance)}, this is ABI {abi.ABI_VERSION})"


def _flavour(features: Features) -> str:
    if features.flavour:
        return features.flavour
    lacking = [name.upper() for name in ("cap_bpf", "cap_perfmon") if features.answer(name) is Answer.NO]
    if lacking:
        detail = features.probes[lacking[0].lower()].detail
        message = f"loading BPF programs needs CAP_BPF and CAP_PERFMON; this process lacks {' and '.join(lacking)}"
        raise KernelError(f"{message} ({detail})" if detail else message, missing=" ".join(lacking), hint="run as root of the host")
    asked = [(name, features.probes[name]) for name in ("lsm_active", "lsm_load", "fmod_ret") if name in features.probes]
    seen = "; ".join(
        f"{MEANING_BY_NAME[name].title}: {probe.answer.value}{', ' + probe.detail if probe.detail else ''}"
        for name, probe in asked
        if probe.answer is not Answer.YES
    )
    if features.enforces is Answer.UNKNOWN:
        message = f"bpfence could not find out whether it can enforce on this kernel ({seen})"
        raise KernelError(message, missing="lsm or fmod_ret", hint="`bpfence doctor` tells what stood in the way")
    raise KernelError(
        f"bpfence cannot enforce on this kernel, which loads neither LSM nor fmod_ret programs ({seen})",
        missing="lsm or fmod_ret",
        hint="`bpfence doctor` tells what is missing and what helps",
    )


def _check_abi(parsed: Object) -> None:
    try:
        found = f"{parsed.constant('bpfence_abi_hash'):016x}"
    except KeyError:
        found = "unknown"
    if found != abi.ABI_HASH:
        raise KernelError(
            f"the BPF object {parsed.path} was built from another abi.h ({found}) than bpfence.abi ({abi.ABI_HASH})",
            missing="a matching BPF object",
            hint="run `make generate bpf`, or install bpfence again",
        )


def _call(events: Collection[str], flags: int, texts: Sequence[int]) -> bytes:
    """struct call: the events (full names) that a system call may be, and which of its arguments are texts."""
    mask = sum(1 << abi.EVENT_ID[EVENT_BY_NAME[event].id] for event in events)
    return abi.CALL_STRUCT.pack(
        *(mask >> 64 * word & (1 << 64) - 1 for word in range(abi.ABI_EVENT_WORDS)), flags, bytes(texts[: abi.CALL_TEXTS])
    )


def _stamp(image: bytes, generation: int) -> bytes:
    """The image with its generation in the header. KernelError: it is no image of this ABI."""
    if len(image) < abi.IMAGE_HEADER_SIZE or len(image) > abi.IMAGE_MAX_PAGES * abi.IMAGE_PAGE_BYTES:
        raise KernelError(f"an image of {len(image)} bytes cannot be loaded; the largest is {abi.IMAGE_MAX_PAGES} pages of 1 MiB")
    magic, version = struct.unpack_from("<II", image)
    if magic != abi.IMAGE_MAGIC or version != abi.ABI_VERSION:
        raise KernelError(f"not an image of tables: magic {magic:#x}, ABI {version}")
    stamped = bytearray(image)
    _U32.pack_into(stamped, abi.IMAGE_HEADER_OFFSETS["generation"], generation)
    return bytes(stamped)


def next_generation(current: int) -> int:
    """The generation after `current`: never 0, odd and even in turn."""
    return current + 1 if current < 0xFFFFFFFF else 2


def _slots() -> tuple[int, int]:
    """How many slots of scratch memory belong to processors, and how many there are with the spare ones."""
    cpus = libbpf.cpu_ids()
    own = SLOTS_OF_CPU * cpus
    return own, min(MAX_SLOTS, own + SPARES + SPARES_OF_CPU * cpus)


def _processes() -> int:
    """How many processes there can be now, with those that have ended, up to MAX_PROCESSES."""
    try:
        return min(MAX_PROCESSES, int(_THREADS_MAX.read_text(encoding="ascii")) + _ENDED)
    except (OSError, ValueError):
        return MAX_PROCESSES


def _page_key(generation: int, number: int) -> bytes:
    """The place of a page in map `tables`."""
    return _U32.pack((generation & 1) * abi.IMAGE_MAX_PAGES + number)


def _image_pages(tables: Map, generation: int) -> int:
    """Pages of a generation."""
    pages = range(abi.IMAGE_MAX_PAGES) if generation else range(0)
    return next((number for number in pages if tables.get(_page_key(generation, number)) is None), len(pages))


def _sum(table: Map, key: int) -> int:
    return sum(_U64.unpack(value)[0] for value in table.get_per_cpu(_U32.pack(key)))


def _get(table: Map, key: int) -> int:
    value = table.get(_U32.pack(key))
    return int(_U64.unpack(value)[0]) if value else 0


def _read_counters(table: Map) -> dict[str, int]:
    names = {number: name.removeprefix("CNT_").lower() for name, number in abi.COUNTER_ID.items() if name != "CNT_MAX"}
    return {name: _sum(table, number) for number, name in names.items()}


def _read_lost(table: Map) -> dict[str, int]:
    found = {event.name: _sum(table, abi.EVENT_ID[event.id]) for event in EVENTS}
    return {name: count for name, count in found.items() if count}


def decode_process_record(value: bytes) -> ProcessRecord:
    """struct process_record as a ProcessRecord."""
    at = abi.PROCESS_RECORD_OFFSETS

    def u32(name: str) -> int:
        return int(_U32.unpack_from(value, at[name])[0])

    def u64(name: str) -> int:
        return int(_U64.unpack_from(value, at[name])[0])

    return ProcessRecord(
        concern=int.from_bytes(value[at["concern"] : at["concern"] + 8 * abi.ABI_EVENT_WORDS], "little"),
        generation=u32("generation"),
        uid=u32("uid"),
        gid=u32("gid"),
        flags=u32("flags"),
        cgroup=u64("cgroup"),
        exec_id=u64("exec_id"),
        start_time=u64("start_time"),
        pid=u32("pid"),
        ppid=u32("ppid"),
        workload=u32("workload"),
        subject=struct.unpack_from(f"<{abi.ABI_MAX_GROUPS}I", value, at["subject"]),
    )


def _text(short: bytes, long: bytes | None, length: int) -> bytes:
    return short[:length] if length < len(short) else (long or b"")[:length]


def decode_exec_image(exec_id: int, value: bytes, long_exe: bytes | None = None, long_args: bytes | None = None) -> ExecImage:
    """struct exec_image, and what maps `long_exes` and `long_args` have for it, as an ExecImage; lengths that do not fit are cut."""
    at = abi.EXEC_IMAGE_OFFSETS

    def u32(name: str) -> int:
        return int(_U32.unpack_from(value, at[name])[0])

    def u64(name: str) -> int:
        return int(_U64.unpack_from(value, at[name])[0])

    args, exe, comm = at["args"], at["exe"], at["comm"]
    return ExecImage(
        exec_id=exec_id,
        parent_exec_id=u64("parent_exec_id"),
        time=u64("time"),
        pid=u32("pid"),
        flags=u32("flags"),
        uid=u32("uid"),
        gid=u32("gid"),
        exe_ino=u64("exe_ino"),
        exe_dev=u64("exe_dev"),
        comm=value[comm : comm + abi.ABI_COMM_LEN].partition(b"\0")[0],
        args=_text(value[args : args + abi.ABI_ARGS_SHORT], long_args, u32("args_len")),
        exe=_text(value[exe : exe + abi.ABI_EXE_SHORT], long_exe, u32("exe_len")),
    )

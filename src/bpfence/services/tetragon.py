# SPDX-License-Identifier: Apache-2.0
"""Calls of Tetragon's client in, events, policies and their state out: `bpfence run --tetragon-socket PATH`.

For the agent it is a feed of tracing policies, and the form and the place of an output. Calls run in threads of the server (`rpc.server`):
whoever adds a policy waits there until it is in force or refused, with the checks of policies in files. Nothing is kept across a restart.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import msgspec

from bpfence.agent.feed import Candidate, Offer, Outcome
from bpfence.agent.loading import Loaded
from bpfence.alerts.alert import Line, StatusLine
from bpfence.dialects.tetragon import wire
from bpfence.dialects.tetragon.dialect import TETRAGON, TetragonRules
from bpfence.dialects.tetragon.filters import FieldFilters, FilterError, Filters
from bpfence.dialects.tetragon.lower.policies import LANGUAGE, Mode
from bpfence.dialects.tetragon.show import line_as_json
from bpfence.documents.files import SourceFile
from bpfence.errors import BpfenceError, Diagnostic, Location
from bpfence.rpc.messages import unknown
from bpfence.rpc.server import Call, CallError, Listeners, Method, UnixServer
from bpfence.workloads.model import Container, Pod
from bpfence.workloads.registry import Registry

NAME: Final = "tetragon-socket"
FILE: Final = "<added>"
MAX_POLICIES: Final = 1024
MAX_BYTES: Final = 16 << 20
"""Of all policies that were added."""
SECONDS: Final = 60.0
"""How long a call waits until what it asks for is in force."""
CONTAINER_SECONDS: Final = 5.0
_MODES: Final = {Mode.ENFORCE: "TP_MODE_ENFORCE", Mode.MONITOR: "TP_MODE_MONITOR", Mode.MONITOR_ONLY: "TP_MODE_MONITOR_ONLY"}
_MONITORS: Final = {1: False, 2: True}
"""Numbers of TracingPolicyMode that can be asked for."""


class _Held(msgspec.Struct):
    """A policy that was added. `text`: its document; `monitors`: None where it says so itself; `version` tells its states apart."""

    id: int
    name: str
    text: bytes
    rules: TetragonRules
    place: Location
    version: str
    monitors: bool | None = None
    enabled: bool = True
    outcome: Outcome | None = None

    @property
    def key(self) -> str:
        """Its key among the offers of all feeds."""
        return f"tetragon-socket {self.name}"

    @property
    def in_force(self) -> bool:
        """Whether it is, as it is now."""
        return self.outcome is not None and self.outcome.version == self.version


class TetragonService:
    """The service. `report` takes messages for people; `version`: what clients are told; `seconds`: how long calls wait at most;
    `form`: the events."""

    def __init__(
        self,
        server: UnixServer,
        report: Callable[[str], None],
        version: str,
        *,
        seconds: float = SECONDS,
        form: Callable[[Line], bytes] = line_as_json,
    ) -> None:
        self._server = server
        self._form = form
        self._report = report
        self._version = version
        self._seconds = seconds
        self._changed: Callable[[], None] = lambda: None
        self._loaded: Callable[[], Loaded | None] = lambda: None
        self._containers: Registry | None = None
        self._turn = threading.Lock()
        self._state = threading.Condition(threading.Lock())
        self._policies: dict[str, _Held] = {}
        self._told: frozenset[str] = frozenset()
        self._number = 0
        self._closed = self._fault_told = False
        self.clients = Listeners(NAME, report)

    def join(self, loaded: Callable[[], Loaded | None], containers: Registry) -> None:
        """Learn from the agent what is in force beside what was added here, and where containers are told to."""
        self._loaded, self._containers = loaded, containers

    def form(self, line: Line) -> bytes:
        """A line as clients get it; nothing where nobody listens, or where Tetragon has no such event."""
        return self._form(line) if self.clients and not isinstance(line, StatusLine) else b""

    # ---- the agent's feed ----

    def ask(self) -> None:
        """Make the folder of the socket, while there are privileges."""
        self._server.prepare()

    def start(self, changed: Callable[[], None]) -> None:
        """Answer from now on."""
        self._changed = changed
        try:
            classes = wire.messages()
            answers = {name: getattr(self, f"_{_snake(name)}") for name in wire.METHODS}
            methods = {
                name: Method(classes[request], classes[response], answers[name], streams=name == "GetEvents")
                for name, (request, response) in wire.METHODS.items()
            }
            self._server.start({wire.SERVICE: methods})
        except (OSError, RuntimeError) as error:
            self._report(f"{NAME}: nobody is answered there: {error}")

    def offers(self) -> Sequence[Offer]:
        """The policies that were added and are enabled."""
        with self._state:
            return [
                Offer(held.key, (Candidate(held.version, held.rules, held.place, LANGUAGE),))
                for held in self._policies.values()
                if held.enabled
            ]

    def told(self, outcomes: Mapping[str, Outcome]) -> None:
        """Wake whoever waits for it."""
        with self._state:
            self._told = frozenset(outcomes)
            for held in self._policies.values():
                outcome = outcomes.get(held.key)
                if outcome is None or outcome.version == held.version or held.version in outcome.errors:
                    held.outcome = outcome
            self._state.notify_all()

    def folders(self) -> Sequence[Path]:
        """Where the socket is made."""
        return self._server.folders()

    def close(self) -> None:
        """End all calls."""
        with self._state:
            self._closed = True
            self._state.notify_all()
        self.clients.close()
        self._server.close()

    # ---- events ----

    def _get_events(self, request: Any, call: Call) -> Iterator[Any]:
        filters, fields = _filters_of(request)
        listener = self.clients.add()
        try:
            if not call.on_end(listener.end):
                return
            call.begin()
            while (taken := listener.take()) is not None:
                lines, dropped = taken
                for line in lines:
                    event = msgspec.json.decode(line)
                    if filters.pass_(event):
                        made = self._message(fields.shown(event))
                        dropped += made is None
                        if made is not None:
                            yield made
                if dropped:
                    yield self._message({"rate_limit_info": {"number_of_dropped_process_events": str(dropped)}})
        finally:
            self.clients.remove(listener)

    def _message(self, event: Mapping[str, Any]) -> Any:
        """An event as the interface has it. None where it cannot be, which is a fault of ours and costs this event alone."""
        from google.protobuf import json_format

        try:
            return json_format.ParseDict(event, wire.messages()["GetEventsResponse"](), ignore_unknown_fields=True)
        except json_format.ParseError as error:
            if not self._fault_told:
                self._fault_told = True
                self._report(f"{NAME}: an event could not be sent, which is a bug in bpfence: {error}; please report it")
            return None

    # ---- policies ----

    def _add_tracing_policy(self, request: Any) -> Any:
        text = request.yaml.encode()
        rules = _read(text)
        names = list(rules.names())
        if len(names) != 1:
            raise CallError("INVALID_ARGUMENT", f"one policy at a time: there are {len(names)} in this text")
        [name] = names
        with self._taking_turns():
            with self._state:
                if name in self._policies:
                    raise CallError("ALREADY_EXISTS", f"there is a policy {name!r} already")
                if len(self._policies) >= MAX_POLICIES or sum(len(held.text) for held in self._policies.values()) + len(text) > MAX_BYTES:
                    raise CallError("RESOURCE_EXHAUSTED", f"at most {MAX_POLICIES} policies of {MAX_BYTES >> 20} MiB in all can be added")
                self._number += 1
                held = _Held(self._number, name, text, rules, rules.locations[0], f"{self._number}")
                self._policies[name] = held
            try:
                self._put_in_force(held)
            except CallError:
                with self._state:
                    del self._policies[name]
                self._changed()  # it may come in force after all otherwise
                raise
        return self._empty()

    def _delete_tracing_policy(self, request: Any) -> Any:
        with self._taking_turns():
            held = self._of(request)
            with self._state:
                del self._policies[held.name]
            self._take_away(held)
        return self._empty()

    def _configure_tracing_policy(self, request: Any) -> Any:
        self._configure(request, request.enable if request.HasField("enable") else None, request.mode if request.HasField("mode") else None)
        return self._empty()

    def _enable_tracing_policy(self, request: Any) -> Any:
        self._configure(request, True, None)
        return self._empty()

    def _disable_tracing_policy(self, request: Any) -> Any:
        self._configure(request, False, None)
        return self._empty()

    def _configure(self, request: Any, enable: bool | None, mode: int | None) -> None:
        """What is asked for, whole or not at all."""
        with self._taking_turns():
            held = self._of(request)
            before = msgspec.structs.replace(held)
            monitors = held.monitors
            if mode is not None:
                if mode not in _MONITORS:
                    raise CallError("INVALID_ARGUMENT", "the mode must be TP_MODE_ENFORCE or TP_MODE_MONITOR")
                if held.rules.modes.get(held.name) is Mode.MONITOR_ONLY:
                    raise CallError("FAILED_PRECONDITION", f"{held.name} has no actions but those that tell: it has no mode")
                monitors = _MONITORS[mode]
            rules = held.rules if monitors == held.monitors else _read(held.text, monitors)
            with self._state:
                self._number += 1
                held.rules, held.monitors, held.version, held.outcome = rules, monitors, f"{self._number}", None
                held.enabled = held.enabled if enable is None else enable
            try:
                if held.enabled:
                    self._put_in_force(held)
                elif before.enabled:
                    self._take_away(held)
            except CallError:
                with self._state:
                    self._policies[held.name] = before
                self._changed()
                raise

    def _list_tracing_policies(self, _: Any) -> Any:
        classes = wire.messages()
        loaded = self._loaded()
        given = {policy.name: policy for policy in loaded.policies.policies} if loaded is not None else {}
        with self._state:
            added = list(self._policies.values())
        made = [self._status(held.name, held.id, held.rules, _state(held), _why(held), "added by gRPC", given) for held in added]
        for name, rules in _others(loaded, {held.name for held in added}):
            made.append(self._status(name, 0, rules, "TP_STATE_ENABLED", "", "from a file or the cluster", given))
        return classes["ListTracingPoliciesResponse"](policies=made)

    def _status(self, name: str, id: int, rules: TetragonRules, state: str, error: str, info: str, given: Mapping[str, Any]) -> Any:
        mode = rules.modes.get(name, Mode.MONITOR_ONLY)
        if mode is Mode.ENFORCE and name in given and given[name].mode == "audit":  # --mode
            mode = Mode.MONITOR
        namespace, _, own = name.rpartition("/")
        return wire.messages()["TracingPolicyStatus"](
            id=id,
            name=own,
            namespace=namespace,
            info=info,
            sensors=[rule.name for policy in rules.policy_set.policies if policy.name == name for rule in policy.rules],
            enabled=state == "TP_STATE_ENABLED",
            error=error,
            state=wire.ENUMS["TracingPolicyState"][state],
            mode=wire.ENUMS["TracingPolicyMode"][_MODES[mode]],
        )

    def _list_sensors(self, request: Any) -> Any:
        classes = wire.messages()
        listed = self._list_tracing_policies(request).policies
        made = [classes["SensorStatus"](name=rule, enabled=one.enabled, collection=one.name) for one in listed for rule in one.sensors]
        return classes["ListSensorsResponse"](sensors=made)

    def _of(self, request: Any) -> _Held:
        """The policy that is asked for. CallError where there is none, or where it came otherwise."""
        name = f"{request.namespace}/{request.name}" if request.namespace else request.name
        with self._state:
            held = self._policies.get(name)
        if held is not None:
            return held
        if any(name == other for other, _ in _others(self._loaded(), set())):
            raise CallError("FAILED_PRECONDITION", f"the policy {name!r} was not added here: change its file, or its object in the cluster")
        raise CallError("NOT_FOUND", f"there is no policy {name!r}")

    def _taking_turns(self) -> _Turn:
        return _Turn(self._turn, self._seconds)

    def _put_in_force(self, held: _Held) -> None:
        """Wait until it is. CallError where it is refused, or takes too long."""
        self._changed()
        self._wait(lambda: held.outcome is not None)
        outcome = held.outcome
        assert outcome is not None
        if not held.in_force:
            self._refuse(outcome.errors.get(held.version, ()))

    def _take_away(self, held: _Held) -> None:
        """Wait until it is in force no more."""
        with self._state:
            gone = held.key not in self._told
        self._changed()
        if not gone:
            self._wait(lambda: held.key not in self._told)

    def _wait(self, done: Callable[[], bool]) -> None:
        with self._state:
            self._state.wait_for(lambda: done() or self._closed, self._seconds)
            if not done():
                raise CallError("UNAVAILABLE", "bpfence stops" if self._closed else "it was not put in force in time")

    @staticmethod
    def _refuse(found: Sequence[Diagnostic]) -> NoReturn:
        raise CallError("INVALID_ARGUMENT", "\n".join(map(str, found)) or "it cannot be put in force")

    # ---- about the agent ----

    def _empty(self) -> Any:
        return wire.messages()["Empty"]()

    def _get_health(self, _: Any) -> Any:
        classes = wire.messages()
        status = classes["HealthStatus"](event=1, status=1, details="running")
        return classes["GetHealthStatusResponse"](health_status=[status])

    def _get_version(self, _: Any) -> Any:
        return wire.messages()["GetVersionResponse"](version=self._version)

    def _get_info(self, _: Any) -> Any:
        return wire.messages()["GetInfoResponse"](version=self._version, name="bpfence")

    def _get_debug(self, request: Any) -> Any:
        if request.flag != wire.ENUMS["ConfigFlag"]["CONFIG_FLAG_LOG_LEVEL"]:
            raise CallError("UNIMPLEMENTED", "bpfence keeps no cache of processes that could be shown")
        return wire.messages()["GetDebugResponse"](flag=request.flag, level=wire.ENUMS["LogLevel"]["LOG_LEVEL_INFO"])

    def _runtime_hook(self, request: Any) -> Any:
        told = request.createContainer
        if not told.cgroupsPath.startswith("/") or "/../" in f"{told.cgroupsPath}/":
            raise CallError("INVALID_ARGUMENT", "cgroupsPath must be the path of the container's cgroup, from the root of the hierarchy")
        if self._containers is None:
            raise CallError("UNAVAILABLE", "containers are not known")
        pod = Pod(told.podName, told.podNamespace, told.podUID) if told.podName else None
        container = Container(told.containerID, told.cgroupsPath, name=told.containerName, image=told.containerImage, pod=pod)
        try:
            self._containers.register(container, CONTAINER_SECONDS)
        except BpfenceError as error:
            raise CallError("UNAVAILABLE", str(error)) from None
        return self._empty()


class _Turn:
    """One change of policies at a time; whoever waits too long for it is refused."""

    def __init__(self, lock: threading.Lock, seconds: float) -> None:
        self._lock = lock
        self._until = time.monotonic() + seconds

    def __enter__(self) -> None:
        if not self._lock.acquire(timeout=max(self._until - time.monotonic(), 0)):
            raise CallError("UNAVAILABLE", "another change of policies takes too long")

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


def _read(text: bytes, monitors: bool | None = None) -> TetragonRules:
    """The policies of a document. CallError with all that is wrong."""
    if not TETRAGON.claims(text):
        raise CallError("INVALID_ARGUMENT", "this is no tracing policy: apiVersion must be cilium.io/v1alpha1")
    rules, found = TETRAGON.read_as([SourceFile(FILE, text)], monitors=monitors)
    errors = [one for one in found if one.severity == "error"]
    if errors:
        raise CallError("INVALID_ARGUMENT", "\n".join(map(str, errors)))
    return rules


def _filters_of(request: Any) -> tuple[Filters, FieldFilters]:
    """What a client asks for. CallError where that is not understood whole."""
    from google.protobuf import json_format

    shown = partial(json_format.MessageToDict, preserving_proto_field_name=True)
    if (number := unknown(request)) is not None:
        raise CallError(
            "INVALID_ARGUMENT", f"the request has a field with number {number}, which is not known here: filters are not passed over"
        )
    try:
        filters = Filters([shown(one) for one in request.allow_list], [shown(one) for one in request.deny_list])
        fields = FieldFilters([shown(one) for one in request.field_filters])
    except (FilterError, json_format.SerializeToJsonError) as error:
        raise CallError("INVALID_ARGUMENT", str(error)) from None
    return filters, fields


def _state(held: _Held) -> str:
    if not held.enabled:
        return "TP_STATE_DISABLED"
    if held.outcome is None:
        return "TP_STATE_LOADING"
    return "TP_STATE_ENABLED" if held.in_force else "TP_STATE_LOAD_ERROR"


def _why(held: _Held) -> str:
    """Why a policy is not in force."""
    outcome = held.outcome
    return "" if outcome is None or held.in_force else "\n".join(map(str, outcome.errors.get(held.version, ())))


def _others(loaded: Loaded | None, added: set[str]) -> Iterator[tuple[str, TetragonRules]]:
    """Tracing policies in force that were not added here."""
    rules = loaded.in_force.get(LANGUAGE) if loaded is not None else None
    if isinstance(rules, TetragonRules):
        yield from ((name, rules) for name in rules.names() if name not in added)

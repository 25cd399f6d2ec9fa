# SPDX-License-Identifier: Apache-2.0
"""Requests of the control socket in, the agent's state, its lines and changes of its policies out: `bpfence run --control-socket`.

For the agent it is a feed of policies, modes of single policies, and one more output. Who connects may look; root, the agent's own user and
`users` may change. A change goes the way of a reload: read and checked whole, compiled and loaded beside the loop, swapped; who asks waits
until it is in force or refused, and what was in force stays where it is refused. Nothing is kept across a restart.
"""

from __future__ import annotations

import fnmatch
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from bpfence.agent.feed import Candidate, Offer, Outcome
from bpfence.agent.loading import NO_FACTS, Loaded, Modes, is_confirmed
from bpfence.agent.metrics import kernel_keeps_statistics
from bpfence.alerts.alert import SEVERITIES, Composer, Line, encode, host_name
from bpfence.compiler.compile import compile_policies
from bpfence.dialects.decided import DecidedRules
from bpfence.dialects.registry import DIALECTS, claimed
from bpfence.dialects.tools import diagnostic_as_json
from bpfence.documents.files import SourceFile
from bpfence.errors import BpfenceError, Diagnostic, PolicyError, UsageError
from bpfence.events.values import escape, printable
from bpfence.host.sockets import Peer
from bpfence.kernel.hooks import PROGRAMS
from bpfence.kernel.measured import Measured
from bpfence.policy import Action, Policy, PolicySet
from bpfence.rpc.lines import Later, LineServer, Stream
from bpfence.rpc.server import MAX_LISTENERS, CallError, Listeners
from bpfence.services import requests
from bpfence.services.requests import VERSION, Request

if TYPE_CHECKING:
    from bpfence.agent.agent import Agent

NAME: Final = "control-socket"
MAX_POLICIES: Final = 1024
MAX_BYTES: Final = 16 << 20
"""Of the texts of all policies that were added."""
MAX_WAITING: Final = 4096, 1 << 20
"""Lines and bytes that wait for one client that follows."""
LAST_BYTES: Final = 1 << 20
SECONDS: Final = 60.0
"""How long a change waits until it is in force."""
COUNT_SECONDS: Final = 1.0
"""What the kernel has counted is read at most this often."""
MAX_LISTED: Final = 4096
"""Policies in an answer."""
EVENTS_OF: Final[Mapping[str, tuple[str, ...]]] = {
    variant.program: row.events for row in PROGRAMS if not row.tracking for variant in row.variants
}
"""The events that each program of the kernel side serves; none of those that only keep records of processes."""


class _Added(msgspec.Struct):
    """Policies that were added together. `version` tells its states apart; `size`: bytes of their text."""

    number: int
    language: str
    rules: DecidedRules
    size: int
    version: str
    outcome: Outcome | None = None

    @property
    def key(self) -> str:
        return f"{NAME} {self.number}"

    @property
    def in_force(self) -> bool:
        return self.outcome is not None and self.outcome.version == self.version


class _Lines(Listeners):
    """The place of the agent's lines: those who follow, and the last ones for those who ask later."""

    def __init__(self, report: Callable[[str], None], wake: Callable[[], None]) -> None:
        super().__init__(NAME, report, *MAX_WAITING)
        self._wake = wake
        self._turn = threading.Lock()
        self._last: deque[bytes] = deque()
        self._size = 0

    def write(self, lines: Sequence[bytes]) -> int:
        """Never waits."""
        with self._turn:
            for line in lines:
                self._last.append(line)
                self._size += len(line)
            while self._last and (len(self._last) > requests.MAX_LAST or self._size > LAST_BYTES):
                self._size -= len(self._last.popleft())
            written = super().write(lines)
        self._wake()
        return written

    def last(self) -> list[bytes]:
        """The last lines, the newest at the end."""
        with self._turn:
            return list(self._last)

    def begun(self) -> tuple[list[bytes], Any]:
        """The last lines, and a listener for all that follow them."""
        with self._turn:
            return list(self._last), self.add()


class ControlService:
    """The service. `report` takes messages for people; `version`: what clients are told; `users`: numbers of those who may change policies
    beside root; `seconds`: how long changes wait at most."""

    def __init__(
        self,
        server: LineServer,
        report: Callable[[str], None],
        version: str,
        *,
        users: Collection[int] = (),
        seconds: float = SECONDS,
    ) -> None:
        self._server = server
        self._report = report
        self._version = version
        self._users = frozenset((0, os.geteuid(), *users))
        self._seconds = seconds
        self._changed: Callable[[], None] = lambda: None
        self._agent: Agent | None = None
        self._state = threading.Condition(threading.Lock())
        self._added: list[_Added] = []
        self._modes: Modes = MappingProxyType({})
        self._told = 0
        self._number = 0
        self._closed = False
        self._since = time.time()
        self._composer = Composer(host_name(), time.time_ns)
        self._measured: tuple[float, Measured] = float("-inf"), Measured()
        self.clients = _Lines(report, server.wake)
        server.busy = _refused("too many changes wait already: try again")

    def join(self, agent: Agent) -> None:
        """The agent that this is about."""
        self._agent = agent

    @staticmethod
    def form(line: Line) -> bytes:
        """Lines as clients get them: the native form."""
        return encode(line)

    def modes(self) -> Modes:
        """Modes that were set, by the names of policies. For any thread."""
        return self._modes

    # ---- the agent's feed ----

    def ask(self) -> None:
        """Make the socket, while there are privileges. KernelError where that is not possible."""
        self._server.prepare()

    def start(self, changed: Callable[[], None]) -> None:
        """Answer from now on."""
        self._changed = changed
        try:
            self._server.start(self._answer)
        except RuntimeError as error:
            self._report(f"{NAME}: nobody is answered there: {error}")

    def offers(self) -> Sequence[Offer]:
        """The policies that were added."""
        with self._state:
            return [
                Offer(one.key, (Candidate(one.version, one.rules, one.rules.locations[0], one.language),))
                for one in self._added
                if one.rules.locations
            ]

    def told(self, outcomes: Mapping[str, Outcome]) -> None:
        """Wake whoever waits for it, and tell what is in force no more without being removed."""
        gone: list[str] = []
        with self._state:
            for one in self._added:
                outcome, was = outcomes.get(one.key), one.in_force
                if outcome is None or outcome.version == one.version or one.version in outcome.errors:
                    one.outcome = outcome
                if was and not one.in_force:
                    why = "; ".join(error.message for error in _errors(one)) or "it is waited for"
                    gone.append(f"{NAME}: in force no more: {', '.join(map(printable, one.rules.names()))}, added here: {printable(why)}")
            self._told += 1
            self._state.notify_all()
        for text in gone:
            self._report(text)

    def folders(self) -> Sequence[Path]:
        """Where the socket is removed from at the end."""
        return [self._server.path.absolute().parent]

    def close(self) -> None:
        """End all answers."""
        with self._state:
            self._closed = True
            self._state.notify_all()
        self.clients.close()
        self._server.close()

    # ---- requests ----

    def _answer(self, line: bytes, who: Peer) -> bytes | Later | Stream:
        try:
            request = requests.decoded(line)
            match request:
                case requests.Events():
                    return self._events(request, who)
                case requests.Status():
                    return _result(self._status())
                case requests.Counters():
                    return _result(self._counters())
                case requests.Policies():
                    return _result({"policies": self._policies()})
                case requests.Show():
                    return _result(self._show(request.name))
            if who.uid not in self._users:
                raise UsageError("only root may change policies here, and who is named by --control-user of `bpfence run`")
            return Later(lambda: self._change(request, who))
        except (BpfenceError, CallError) as error:
            return _refused(error)

    def _change(self, request: Request, who: Peer) -> bytes:
        """Make a change, in the server's second thread: one at a time."""
        try:
            match request:
                case requests.Add():
                    result, what = self._add(request.files), "added"
                case requests.Remove():
                    result, what = self._remove(request.names), "removed"
                case requests.SetMode():
                    result, what = self._set_mode(request.names, request.mode), f"set to {request.mode}"
                case _:
                    raise UsageError("this changes nothing")
        except (BpfenceError, CallError) as error:
            return _refused(error)
        except RecursionError:
            return _refused("these policies are nested too deeply")
        self._report(f"{NAME}: user {who.uid} (pid {who.pid}) has {what}: {', '.join(map(printable, result['policies']))}")
        return _result(result)

    # ---- what is told ----

    @property
    def _loaded(self) -> Loaded | None:
        return self._agent.loaded if self._agent is not None else None

    def _in_force(self) -> tuple[Policy, ...]:
        loaded = self._loaded
        return loaded.policies.policies if loaded is not None else ()

    def _by_name(self) -> dict[str, list[Policy]]:
        """Policies in force by name; one in doubt about containers is there more than once."""
        found: dict[str, list[Policy]] = {}
        for policy in self._in_force():
            found.setdefault(policy.name, []).append(policy)
        return found

    def _languages(self) -> dict[str, str]:
        loaded = self._loaded
        rules = loaded.in_force if loaded is not None else {}
        found = {name: language for language, own in rules.items() if isinstance(own, DecidedRules) for name in own.names()}
        return found | {name: language for language, dialect in DIALECTS.items() for name in dialect.policies}

    def _policies(self) -> list[dict[str, Any]]:
        languages, added, matches = self._languages(), self._names_added() - self._of_files(), self._matches()
        found = list(self._by_name().items())[:MAX_LISTED]
        return [
            {
                "name": escape(name),
                "mode": policies[0].mode,
                "set": name in self._modes,
                "language": languages.get(name, "native"),
                "rules": len(policies[0].rules),
                "matched": sum(matches.get(name, {}).values()),
                "added": name in added,
                "place": escape(str(policies[0].location)),
            }
            for name, policies in found
        ]

    def _of_files(self) -> set[str]:
        """The names of policies that come from files, which go before those that were added."""
        rules = self._loaded.rules.values() if self._loaded is not None else ()
        return {name for own in rules if isinstance(own, DecidedRules) for name in own.names()}

    def _names_added(self) -> set[str]:
        with self._state:
            return {name for one in self._added for name in one.rules.names()}

    def _matches(self) -> dict[str, dict[str, int]]:
        """How often each rule has matched, by policy and rule."""
        found: dict[str, dict[str, int]] = {}
        for (policy, rule), count in (self._agent.matches() if self._agent is not None else {}).items():
            found.setdefault(policy, {})[rule] = count
        return found

    def _show(self, name: str) -> dict[str, Any]:
        policies = self._by_name().get(name)
        if policies is None:
            raise self._unknown(name)
        own = self._matches().get(name, {})
        [about] = [one for one in self._policies() if one["name"] == escape(name)] or [{}]
        return about | {
            "severity": policies[0].severity,
            "tags": [escape(tag) for tag in policies[0].tags],
            "rules": [
                {
                    "name": escape(rule.name),
                    "on": list(rule.events),
                    "action": _effective(policies[0], rule.action).name.lower(),
                    "declared": rule.action.name.lower(),
                    "message": escape(rule.message),
                    "matched": own.get(rule.name, 0),
                    "place": escape(str(rule.location)),
                }
                for rule in policies[0].rules
            ],
        }

    def _status(self) -> dict[str, Any]:
        agent = self._agent
        assert agent is not None
        return {
            "agent": self._version,
            "pid": os.getpid(),
            "seconds": round(time.time() - self._since),
            "generation": agent.generation,
            "policies": len(self._by_name()),
            "added": sorted(map(escape, self._names_added() - self._of_files())),
            "modes": {escape(name): mode for name, mode in self._modes.items()},
            "containers": len(agent.containers.containers()),
            "outputs": [
                {"name": escape(one.name), "written": one.written, "dropped": one.dropped, "waiting": one.lines}
                for one in agent.outputs.queues()
            ],
        }

    def _counters(self) -> dict[str, Any]:
        agent = self._agent
        assert agent is not None
        now = time.monotonic()
        read, measured = self._measured
        if now - read >= COUNT_SECONDS:
            measured = agent.measured() or measured
            self._measured = now, measured
        meter = agent.meter
        by_name, matches = self._by_name(), self._matches()
        costs = _costs(measured, by_name)
        policies = []
        for name, own in list(by_name.items())[:MAX_LISTED]:
            effective = {rule.name: _effective(own[0], rule.action) for rule in own[0].rules}
            counts = matches.get(name, {})
            denied = sum(count for rule, count in counts.items() if effective.get(rule, Action.AUDIT) >= Action.DENY)
            spent = round(costs.get(name, 0.0))
            policies.append({"name": escape(name), "mode": own[0].mode, "matched": sum(counts.values()), "denied": denied, "spent": spent})
        return {
            "time": time.monotonic_ns(),
            "events": dict(meter.events) if meter is not None else {},
            "decisions": {name: measured.counters.get(name, 0) for name in ("denied", "audited", "killed")},
            "lost": sum(measured.lost.values()),
            "statistics": kernel_keeps_statistics(),
            "programs": {name: list(both) for name, both in measured.programs.items() if both[0]},
            "policies": policies,
        }

    # ---- lines ----

    def _events(self, request: requests.Events, who: Peer) -> bytes | Stream:
        passes = _filter(request)
        if not request.follow:
            return _result({"follow": False}) + _some(self.clients.last(), passes, request.last)
        self._server.make_room(MAX_LISTENERS, who)
        last, listener = self.clients.begun()

        def shown(lines: list[bytes], dropped: int) -> bytes:
            if dropped:
                text = f"{dropped} lines are missing here: they were not taken in time"
                missing = self._composer.status("dropped", text, severity="high", output=NAME, dropped=dropped)
                lines = [*lines, encode(missing)]
            return b"".join(line + b"\n" for line in lines if passes(line))

        first = _result({"follow": True}) + _some(last, passes, request.last)
        return Stream(first, listener, shown, lambda: self.clients.remove(listener))

    # ---- changes ----

    def _add(self, files: Sequence[requests.Text]) -> dict[str, Any]:
        sources = [SourceFile(one.name, one.text.encode("utf-8", "surrogatepass")) for one in files]
        by_language = claimed(sources)
        if len(by_language) != 1:
            raise UsageError("policies of one language at a time can be added")
        [(language, given)] = by_language.items()
        agent = self._agent
        assert agent is not None
        rules, found = DIALECTS[language].read(given, agent.settings.options.get(language))
        if any(one.severity == "error" for one in found):
            raise PolicyError(found)
        if not isinstance(rules, DecidedRules):
            raise UsageError(f"{DIALECTS[language].title} cannot be added here: they come from files, which SIGHUP has read again")
        names = list(rules.names())
        size = sum(len(one.data) for one in sources)
        with self._state:
            if not names:
                raise UsageError("there is no policy in this text")
            taken = {name for one in self._added for name in one.rules.names()}
            if again := next((name for name in names if name in taken), None):
                raise UsageError(f"the policy {printable(again)!r} was added already: remove it first")
            if len(taken) + len(names) > MAX_POLICIES or sum(one.size for one in self._added) + size > MAX_BYTES:
                raise UsageError(f"at most {MAX_POLICIES} policies of {MAX_BYTES >> 20} MiB in all can be added")
            self._number += 1
            added = _Added(self._number, language, rules, size, "1")
            self._added.append(added)

        def back() -> None:
            self._added.remove(added)

        self._make_so(back, lambda: added.outcome is not None, lambda: _errors(added))
        warnings = [diagnostic_as_json(one) for one in (*found, *(added.outcome.warnings if added.outcome is not None else ()))]
        return {"policies": names, "findings": warnings}

    def _remove(self, names: Sequence[str]) -> dict[str, Any]:
        with self._state:
            before = [msgspec.structs.replace(one) for one in self._added]
            modes = self._modes
            concerned = [one for one in self._added if set(names) & set(one.rules.names())]
            known = {name for one in concerned for name in one.rules.names()}
            if unknown := next((name for name in names if name not in known), None):
                raise self._unknown(unknown)
            for one in concerned:
                one.rules = one.rules.without(set(names))
                one.version, one.outcome = f"{int(one.version) + 1}", None
            left = [one for one in concerned if one.rules.locations]
            self._added = [one for one in self._added if one.rules.locations]
            self._modes = MappingProxyType({name: mode for name, mode in modes.items() if name not in names})

        def back() -> None:
            self._added = before
            self._modes = modes

        def done() -> bool:
            return all(one.outcome is not None for one in left) and not set(names) & self._by_name().keys() - self._of_files()

        self._make_so(back, done, lambda: next(filter(None, map(_errors, left)), ()))
        return {"policies": list(names)}

    def _set_mode(self, names: Sequence[str], mode: str) -> dict[str, Any]:
        by_name = self._by_name()
        wanted: dict[str, str] = {}
        for name in names:
            if name not in by_name:
                raise self._unknown(name)
            if any(map(is_confirmed, by_name[name])):
                raise UsageError(f"{printable(name)!r} only watches: user space confirms its matches, so it has no mode")
            wanted[name] = mode
        now_declared = self._declared()
        becomes = {name: mode if mode != "declared" else now_declared.get(name, "") for name in names}
        self._check(policy for name in names for policy in by_name[name] if becomes[name] == "enforce" != policy.mode)
        with self._state:
            before, told = self._modes, self._told
            kept = {name: own for name, own in before.items() if name in by_name and name not in wanted}
            self._modes = MappingProxyType(kept | (wanted if mode != "declared" else {}))

        def back() -> None:
            self._modes = before

        def done() -> bool:
            now = self._by_name()
            return self._told > told and all(
                policy.mode == (becomes[name] or policy.mode) for name in names for policy in now.get(name, ())
            )

        self._make_so(back, done, lambda: ())
        return {"policies": list(names), "mode": mode}

    def _declared(self) -> dict[str, str]:
        """The modes that policies have where none was set here, by name. Those of a cluster's native policies are not known."""
        loaded, agent = self._loaded, self._agent
        assert agent is not None
        with self._state:
            own = [policy for one in self._added for policy in one.rules.policies(NO_FACTS)]
        read = [policy for rules in (loaded.in_force if loaded is not None else {}).values() for policy in rules.policies(NO_FACTS)]
        return {policy.name: agent.settings.mode or policy.mode for policy in (*own, *read)}

    def _check(self, policies: Iterator[Policy]) -> None:
        """Whether the kernel can enforce policies, each for itself. CompileError."""
        agent = self._agent
        assert agent is not None
        enforced = tuple(msgspec.structs.replace(policy, mode="enforce") for policy in policies)
        for policy in enforced:
            compile_policies(PolicySet((policy,)), supported_events=agent.supported_events())

    def _make_so(self, back: Callable[[], None], done: Callable[[], bool], errors: Callable[[], Sequence[Diagnostic]]) -> None:
        """Wait until what was changed is in force; else take it `back`, under the lock. CallError, PolicyError."""
        self._changed()
        until = time.monotonic() + self._seconds
        with self._state:
            while not done() and not self._closed and time.monotonic() < until:
                self._state.wait(min(1.0, max(0.0, until - time.monotonic())))
            found = errors()
            if done() and not found:
                return
            back()
        self._changed()  # it may come in force after all otherwise
        if found:
            raise PolicyError(found)
        raise UsageError("the agent is stopping" if self._closed else f"this was not in force after {self._seconds:.0f} seconds: given up")

    def _unknown(self, name: str) -> UsageError:
        shown = repr(printable(name))
        if name in self._by_name():
            return UsageError(f"the policy {shown} was not added here: change its file, or its object in the cluster")
        return UsageError(f"there is no policy {shown} in force")


def _errors(added: _Added) -> Sequence[Diagnostic]:
    outcome = added.outcome
    if outcome is None or added.in_force:
        return ()
    return outcome.errors.get(added.version) or (Diagnostic(added.rules.locations[0], "this could not be put in force"),)


def _effective(policy: Policy, action: Action) -> Action:
    return Action.AUDIT if policy.mode == "audit" and action > Action.AUDIT else action


def _costs(measured: Measured, by_name: Mapping[str, Sequence[Policy]]) -> dict[str, float]:
    """Nanoseconds that programs have taken, by policy: of each program, equal parts for the policies with rules on its events."""
    asking: dict[str, set[str]] = {}
    for name, policies in by_name.items():
        for policy in policies:
            for event in (*policy.default, *(event for rule in policy.rules for event in rule.events)):
                asking.setdefault(event, set()).add(name)
    found: dict[str, float] = {}
    for program, (runs, spent) in measured.programs.items():
        sharing = {name for event in EVENTS_OF.get(program, ()) for name in asking.get(event, ())} if runs else set()
        for name in sharing:
            found[name] = found.get(name, 0.0) + spent / len(sharing)
    return found


# ---- lines of answers ----


def _result(result: object) -> bytes:
    return msgspec.json.encode({"version": VERSION, "result": result}) + b"\n"


def _refused(error: Exception | str) -> bytes:
    found = [diagnostic_as_json(one) for one in error.diagnostics] if isinstance(error, PolicyError) else []
    told = {"message": printable(str(error).split("\n", 1)[0])[:4096], "findings": found}
    return msgspec.json.encode({"version": VERSION, "error": told}) + b"\n"


class _Seen(msgspec.Struct):
    """What filters look at."""

    kind: str
    severity: str = "info"
    policy: str | None = None
    rule: str | None = None
    action: str = ""
    status: str = ""
    k8s: dict[str, Any] | None = None


_SEEN: Final = msgspec.json.Decoder(_Seen)


def _filter(request: requests.Events) -> Callable[[bytes], bool]:
    """Whether a line passes. What tells of lines that are missing always does; what tells of bpfence itself wherever no pod, rule or action
    is asked for."""
    least = SEVERITIES.index(request.severity)
    policy, rule, pod, namespace, action = (
        _pattern(patterns) for patterns in (request.policy, request.rule, request.pod, request.namespace, request.action)
    )

    def passes(line: bytes) -> bool:
        seen = _SEEN.decode(line)
        if seen.kind == "loss" or seen.status == "dropped":
            return True
        if SEVERITIES.index(seen.severity) < least or (policy and seen.policy is not None and not policy(seen.policy)):
            return False
        if seen.kind == "status":
            return not (rule or pod or namespace or action)
        k8s = seen.k8s or {}
        asked = ((rule, seen.rule or ""), (action, seen.action), (pod, k8s.get("pod")), (namespace, k8s.get("namespace")))
        return all(one is None or (isinstance(text, str) and one(text)) for one, text in asked)

    return passes


def _pattern(patterns: Sequence[str]) -> Callable[[str], bool] | None:
    """Whether a text matches one of them; None: there are none. `fnmatch.fnmatch` keeps thousands of the patterns that it was asked for."""
    if not patterns:
        return None
    made = [re.compile(fnmatch.translate(pattern)) for pattern in patterns]
    return lambda text: any(one.match(text) is not None for one in made)


def _some(lines: Sequence[bytes], passes: Callable[[bytes], bool], count: int) -> bytes:
    found: list[bytes] = []
    for line in reversed(lines if count else ()):
        if len(found) == count:
            break
        if passes(line):
            found.append(line + b"\n")
    return b"".join(reversed(found))

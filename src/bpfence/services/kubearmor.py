# SPDX-License-Identifier: Apache-2.0
"""Calls of KubeArmor's clients in, alerts, logs and messages out: `bpfence run --kubearmor-service PLACE`.

`karmor logs`, KubeArmor's relay and what else takes its gRPC log service connect to it. For the agent it is a feed without policies, and
three outputs, one for each stream. Calls run in threads of the server (`rpc.server`); nothing can be changed by them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from bpfence.agent.feed import Offer, Outcome
from bpfence.alerts.alert import Alert, Line, WholeLine, whole
from bpfence.dialects.kubearmor import wire
from bpfence.dialects.kubearmor.show import THRESHOLD, line_as_json
from bpfence.rpc.server import Call, CallError, Listeners, Method, Server

NAME: Final = "kubearmor-service"
STREAMS: Final[Mapping[str, tuple[str, frozenset[str]]]] = {
    "WatchMessages": ("Message", frozenset()),
    "WatchAlerts": ("Alert", frozenset(("all", "policy"))),
    "WatchLogs": ("Log", frozenset(("all", "system"))),
}
"""By method: what it streams, and the filters with which there is any; an empty set: all."""
_SIGNED: Final = 1 << 31


class Stream:
    """One kind of line, as an output: the form, and the clients that listen as its place."""

    def __init__(self, kind: str, report: Callable[[str], None]) -> None:
        self.kind = kind
        self.show: Callable[[Line], bytes] = line_as_json
        self.clients = Listeners(f"{NAME}: {kind.lower()}s", report)

    def form(self, line: Line) -> bytes:
        """A line as clients get it; nothing where nobody listens, or where it is of another kind."""
        if not self.clients:
            return b""
        full = whole(line)
        return self.show(full) if _kind(full) == self.kind else b""


class KubeArmorService:
    """The service. `report` takes messages for people."""

    def __init__(self, server: Server, report: Callable[[str], None]) -> None:
        self._server = server
        self._report = report
        self._fault_told = False
        self._streams = {method: Stream(kind, report) for method, (kind, _) in STREAMS.items()}
        self.outputs = [(stream.form, stream.clients) for stream in self._streams.values()]

    def throttle(self, form: Callable[[Line], bytes]) -> None:
        """Show alerts by another form, which may leave some out."""
        self._streams["WatchAlerts"].show = form

    # ---- the agent's feed ----

    def ask(self) -> None:
        """See that the place can be had, while there are privileges."""
        self._server.prepare()

    def start(self, changed: Callable[[], None]) -> None:
        """Answer from now on."""
        try:
            self._server.start(
                {
                    wire.SERVICE: self._methods(),
                    wire.HEALTH_SERVICE: {
                        "Check": Method(wire.health()["HealthCheckRequest"], wire.health()["HealthCheckResponse"], self._check)
                    },
                }
            )
        except (OSError, RuntimeError) as error:
            self._report(f"{NAME}: nobody is answered there: {error}")

    def _methods(self) -> dict[str, Method]:
        classes = wire.messages()
        made = {}
        for name, (request, response) in wire.METHODS.items():
            answer = partial(self._watch, name) if name in STREAMS else self._health_check
            made[name] = Method(classes[request], classes[response], answer, streams=name in STREAMS)
        return made

    def offers(self) -> Sequence[Offer]:
        """There are no policies."""
        return ()

    def told(self, outcomes: Mapping[str, Outcome]) -> None:
        """Nothing was offered."""

    def folders(self) -> Sequence[Path]:
        """Where a socket is made."""
        return self._server.folders()

    def close(self) -> None:
        """End all calls."""
        for stream in self._streams.values():
            stream.clients.close()
        self._server.close()

    # ---- calls ----

    def _health_check(self, request: Any) -> Any:
        return wire.messages()["ReplyMessage"](Retval=request.nonce)

    def _check(self, request: Any) -> Any:
        if request.service not in ("", wire.SERVICE):
            raise CallError("NOT_FOUND", "there is no such service")
        return wire.health()["HealthCheckResponse"](status=wire.HEALTH_ENUMS["ServingStatus"]["SERVING"])

    def _watch(self, method: str, request: Any, call: Call) -> Iterator[Any]:
        kind, filters = STREAMS[method]
        if filters and request.Filter not in filters:
            return  # as KubeArmor ends it
        clients = self._streams[method].clients
        listener = clients.add()
        try:
            if not call.on_end(listener.end):
                return
            call.begin()
            while (taken := listener.take()) is not None:
                lines, dropped = taken
                for line in lines:
                    made = self._message(kind, msgspec.json.decode(line))
                    dropped += made is None
                    if made is not None:
                        yield made
                if dropped:
                    yield wire.messages()[kind](**_lost(kind, dropped))
        finally:
            clients.remove(listener)

    def _message(self, kind: str, line: Mapping[str, Any]) -> Any:
        """A line as the interface has it. None where it cannot be, which is a fault of ours and costs this line alone."""
        from google.protobuf import json_format

        try:
            return json_format.ParseDict(_signed(line), wire.messages()[kind](), ignore_unknown_fields=True)
        except json_format.ParseError as error:
            if not self._fault_told:
                self._fault_told = True
                self._report(f"{NAME}: a line could not be sent, which is a bug in bpfence: {error}; please report it")
            return None


def _kind(line: WholeLine) -> str:
    if not isinstance(line, Alert):
        return "Message"
    return "Log" if line.kind == "event" else "Alert"


def _signed(line: Mapping[str, Any]) -> dict[str, Any]:
    """User ids have 32 bits, of which the interface takes the first for a sign, as KubeArmor does."""
    uid = line.get("UID", 0)
    return {**line, "UID": uid - 2 * _SIGNED if uid >= _SIGNED else uid} if uid else dict(line)


def _lost(kind: str, lines: int) -> dict[str, Any]:
    """What a client is told that was too slow for so many lines."""
    text = f"{lines} lines are missing here: this client did not take them in time"
    match kind:
        case "Message":
            return {"Type": "Message", "Level": "WARN", "Message": text}
        case "Log":
            return {"Type": "SystemEvent", "Operation": THRESHOLD, "Data": text}
    return {"Type": "SystemEvent", "Operation": THRESHOLD, "Message": text}

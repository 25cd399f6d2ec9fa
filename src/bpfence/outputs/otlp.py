# SPDX-License-Identifier: Apache-2.0
"""Lines in, OTLP logs over HTTP out (OpenTelemetry protocol 1.x, binary protobuf), by the reference's own messages.

Made by `specs`; it is a webhook whose requests are ExportLogsServiceRequest. Of the answers 2xx, 400, 413, 415 and 422 are final; a
`partial_success` tells how many records were rejected, and those are not sent again. All others are sent again, also those that the
protocol lets clients drop (401, 404): a mistake in the set-up, of which nothing should be lost until it is mended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from bpfence.alerts.alert import Alert, Line, Rendered
from bpfence.errors import UsageError
from bpfence.events.values import escape
from bpfence.outputs.forms import Form, head, nanoseconds, version
from bpfence.outputs.places import PartlyError
from bpfence.outputs.webhook import Answer, Webhook

PATH: Final = "/v1/logs"
SEVERITY: Final = {"info": 9, "low": 10, "medium": 13, "high": 17, "critical": 21}
"""OpenTelemetry's SeverityNumber: INFO, INFO2, WARN, ERROR, FATAL."""


def _messages() -> tuple[Any, Any, Any]:
    """The modules of logs, their service and resources. UsageError where they are not installed."""
    try:
        from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
        from opentelemetry.proto.logs.v1 import logs_pb2
        from opentelemetry.proto.resource.v1 import resource_pb2
    except ImportError as error:
        raise UsageError(f"outputs `otlp:` need the library opentelemetry-proto: pip install 'bpfence[otlp]' ({error})") from error
    return logs_pb2, logs_service_pb2, resource_pb2


def for_otlp(form: Form, now: Callable[[], int]) -> Form:
    """A form as the body of log records. `now`: ns since 1970."""
    logs, _, _ = _messages()

    def made(line: Line) -> bytes:
        shown = form(line)
        if not shown:
            return b""
        kind, severity, moment = head(line)
        record = logs.LogRecord(
            time_unix_nano=nanoseconds(moment), observed_time_unix_nano=now(), severity_number=SEVERITY[severity], severity_text=severity
        )
        record.body.string_value = shown.decode("utf-8", "replace")
        event, named = _said(line)
        record.event_name = f"bpfence.{event}"
        for name, value in {"bpfence.kind": kind, **named}.items():
            record.attributes.add(key=name).value.string_value = value
        data: bytes = record.SerializeToString()
        return data

    return made


def _said(line: Line) -> tuple[str, dict[str, str]]:
    """A line's event, and what is asked for when somebody looks for it; none of it can be redacted."""
    if isinstance(line, Rendered):
        seen, rule = line.made_of[:2]
        return seen.event, {"bpfence.policy": escape(rule.policy), "bpfence.rule": escape(rule.rule)}
    if isinstance(line, Alert):
        return line.event, {"bpfence.policy": line.policy or "", "bpfence.rule": line.rule or ""}
    return getattr(line, "status", line.kind), {}


class Otlp(Webhook):
    """A receiver of logs. `host`: this host's name, "" to leave it out."""

    def __init__(self, *given: Any, host: str, **more: Any) -> None:
        super().__init__(*given, **more)
        logs, self._service, resources = _messages()
        self._logs = logs
        self._resource = resources.Resource()
        for name, value in {"service.name": "bpfence", "service.version": version(), "host.name": host}.items():
            if value:
                self._resource.attributes.add(key=name).value.string_value = value

    def content(self, batch: Sequence[bytes]) -> tuple[bytes, str]:
        """All records as those of one resource and scope."""
        request = self._service.ExportLogsServiceRequest()
        resource = request.resource_logs.add(resource=self._resource)
        scope = resource.scope_logs.add()
        scope.scope.name = "bpfence"
        scope.log_records.extend(map(self._logs.LogRecord.FromString, batch))
        data: bytes = request.SerializeToString()
        return data, "application/x-protobuf"

    def taken(self, answer: Answer, batch: Sequence[bytes]) -> int:
        """All, but those that are told to be rejected: how many is known, not which."""
        response = self._service.ExportLogsServiceResponse()
        try:
            response.ParseFromString(answer.content)
        except Exception as error:  # protobuf's DecodeError, whose module differs from release to release
            raise OSError(None, "the answer is not that of an OTLP receiver") from error
        rejected = min(len(batch), max(0, response.partial_success.rejected_log_records))
        if not rejected:
            return len(batch)
        left, why = len(batch) - rejected, response.partial_success.error_message[:200]
        raise PartlyError(
            count=len(batch),
            taken=range(left),
            refused=range(left, len(batch)),
            reason=f"the receiver has rejected {rejected} records: " + "".join(char for char in why if " " <= char <= "~"),
        )

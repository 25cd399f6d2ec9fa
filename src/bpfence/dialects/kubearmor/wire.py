# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the messages of KubeArmor's gRPC log service out: names, types and numbers, as its `protobuf/kubearmor.proto` has them.

Called by the service (`services.kubearmor`). The members of an alert, a log and a message have the names that the form `kubearmor` gives
them (`show`), so that one is made of the other by name. What has no number here (`EventData`, `NodeID`, hashes) is in the lines alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from bpfence.rpc.messages import Fields, classes

PACKAGE: Final = "feeder"
SERVICE: Final = "feeder.LogService"


def _numbered(kind: str, names: str) -> Fields:
    """Fields of one type, each written NAME=NUMBER."""
    pairs = (pair.split("=") for pair in names.split())
    return tuple((name, int(number), kind) for name, number in pairs)


MESSAGES: Final[dict[str, Fields]] = {
    "NonceMessage": (("nonce", 1, "int32"),),
    "ReplyMessage": (("Retval", 1, "int32"),),
    "RequestMessage": (("Filter", 1, "string"),),
    "Podowner": _numbered("string", "Ref=1 Name=2 Namespace=3"),
    "ExecEvent": _numbered("string", "ExecID=1 ExecutableName=2"),
    "Message": (
        ("Timestamp", 1, "int64"),
        *_numbered("string", "UpdatedTime=2 ClusterName=3 HostName=4 HostIP=5 Type=6 Level=7 Message=8"),
    ),
    "Alert": (
        ("Timestamp", 1, "int64"), ("Owner", 31, "Podowner"), ("ATags", 30, "*string"), ("ExecEvent", 36, "ExecEvent"),
        *_numbered("string", "UpdatedTime=2 ClusterName=3 HostName=4 NamespaceName=5 PodName=6 Labels=29"),
        *_numbered("string", "ContainerID=7 ContainerName=8 ContainerImage=24 ParentProcessName=25 ProcessName=26"),
        *_numbered("string", "PolicyName=13 Severity=14 Tags=15 Message=16 Type=17 Source=18 Operation=19 Resource=20 Data=21"),
        *_numbered("string", "Enforcer=28 Action=22 Result=23 Cwd=32 TTY=33"),
        *_numbered("int32", "HostPPID=27 HostPID=9 PPID=10 PID=11 UID=12 MaxAlertsPerSec=34 DroppingAlertsInterval=35"),
    ),
    "Log": (
        ("Timestamp", 1, "int64"), ("Owner", 24, "Podowner"), ("ExecEvent", 27, "ExecEvent"),
        *_numbered("string", "UpdatedTime=2 ClusterName=3 HostName=4 NamespaceName=5 PodName=6 Labels=23"),
        *_numbered("string", "ContainerID=7 ContainerName=8 ContainerImage=19 ParentProcessName=20 ProcessName=21"),
        *_numbered("string", "Type=13 Source=14 Operation=15 Resource=16 Data=17 Result=18 Cwd=25 TTY=26"),
        *_numbered("int32", "HostPPID=22 HostPID=9 PPID=10 PID=11 UID=12"),
    ),
}  # fmt: skip
METHODS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "HealthCheck": ("NonceMessage", "ReplyMessage"),
        "WatchMessages": ("RequestMessage", "Message"),
        "WatchAlerts": ("RequestMessage", "Alert"),
        "WatchLogs": ("RequestMessage", "Log"),
    }
)
"""What is answered: request and response."""

HEALTH_SERVICE: Final = "grpc.health.v1.Health"
HEALTH_MESSAGES: Final[dict[str, Fields]] = {
    "HealthCheckRequest": (("service", 1, "string"),),
    "HealthCheckResponse": (("status", 1, "ServingStatus"),),
}
HEALTH_ENUMS: Final = {"ServingStatus": {"UNKNOWN": 0, "SERVING": 1, "NOT_SERVING": 2, "SERVICE_UNKNOWN": 3}}
"""gRPC's own health checking (grpc.health.v1), which KubeArmor's newer clients ask in the place of HealthCheck."""


@lru_cache(maxsize=1)
def messages() -> dict[str, Any]:
    """The classes of the messages. KernelError where protobuf is not installed."""
    return classes(PACKAGE, MESSAGES)


@lru_cache(maxsize=1)
def health() -> dict[str, Any]:
    """Those of gRPC's health checking. KernelError where protobuf is not installed."""
    return classes("grpc.health.v1", HEALTH_MESSAGES, HEALTH_ENUMS)

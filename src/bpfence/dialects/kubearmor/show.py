# SPDX-License-Identifier: Apache-2.0
"""Alerts in, KubeArmor's own JSON out, one object a line: `--format kubearmor` and `--output kubearmor`.

Keys and words are those that `karmor logs --json` prints, so that what reads them reads this. Alerts of other languages come out in the
same form; events that were only asked for become its logs, losses and statuses its messages. What is not known is left out: the process ids
inside a container, hashes, the number of the node; the name of the cluster is always "default".
"""

from __future__ import annotations

import datetime as dt
import errno
import os
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, UnsetType

from bpfence.alerts.alert import Alert, Line, LossLine, StatusLine, WholeLine, whole
from bpfence.dialects.kubearmor.options import HOST_POLICY, NAME, NETWORK_POLICY

CLUSTER: Final = "default"
ENFORCER: Final = "BPFLSM"
MONITOR: Final = "eBPF Monitor"
PASSED: Final = "Passed"
THRESHOLD: Final = "AlertThreshold"
"""The operation of what tells that alerts are missing."""
SEVERITY: Final = {"info": 1, "low": 3, "medium": 5, "high": 8, "critical": 10}
"""KubeArmor's number for a severity of bpfence, for alerts of other languages."""
HOOKS: Final = {
    "process.exec": "SECURITY_BPRM_CHECK", "net.create": "SOCKET_CREATE", "net.bind": "SOCKET_BIND", "net.listen": "SOCKET_LISTEN",
    "net.connect": "SOCKET_CONNECT", "net.accept": "SOCKET_ACCEPT", "net.send": "SOCKET_SENDMSG", "process.capable": "CAPABLE",
    "file.open": "FILE_OPEN", "file.permission": "FILE_PERMISSION", "file.mmap": "MMAP_FILE", "file.mprotect": "FILE_MPROTECT",
    "file.create": "PATH_MKNOD", "file.unlink": "PATH_UNLINK", "file.rename": "PATH_RENAME", "file.link": "PATH_LINK",
    "file.symlink": "PATH_SYMLINK", "file.mkdir": "PATH_MKDIR", "file.rmdir": "PATH_RMDIR", "file.chmod": "PATH_CHMOD",
    "file.chown": "PATH_CHOWN", "file.truncate": "PATH_TRUNCATE",
}  # fmt: skip
"""The kernel's hook behind an event, as KubeArmor spells it after `lsm=`. Other events stand for themselves, after `event=`."""
LEVELS: Final = {"info": "INFO", "low": "INFO", "medium": "WARN", "high": "ERROR", "critical": "ERROR"}


class ExecEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One executed program."""

    ExecID: str
    ExecutableName: str


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """What keeps a pod running."""

    Ref: str
    Name: str
    Namespace: str


class KubeArmorAlert(msgspec.Struct, frozen=True, kw_only=True):
    """One line. The order of the keys is KubeArmor's."""

    Timestamp: int
    UpdatedTime: str
    ClusterName: str = CLUSTER
    HostName: str
    NamespaceName: str | UnsetType = UNSET
    Owner: Owner | UnsetType = UNSET
    PodName: str | UnsetType = UNSET
    Labels: str | UnsetType = UNSET
    ContainerID: str | UnsetType = UNSET
    ContainerName: str | UnsetType = UNSET
    ContainerImage: str | UnsetType = UNSET
    HostPPID: int | UnsetType = UNSET
    HostPID: int | UnsetType = UNSET
    PPID: int | UnsetType = UNSET
    PID: int | UnsetType = UNSET
    UID: int | UnsetType = UNSET
    ParentProcessName: str | UnsetType = UNSET
    ProcessName: str | UnsetType = UNSET
    PolicyName: str
    Severity: str | UnsetType = UNSET
    Tags: str | UnsetType = UNSET
    ATags: tuple[str, ...] | UnsetType = UNSET
    Message: str | UnsetType = UNSET
    Type: str
    Source: str | UnsetType = UNSET
    Operation: str
    Resource: str | UnsetType = UNSET
    Data: str
    EventData: Mapping[str, str] | UnsetType = UNSET
    Enforcer: str
    Action: str
    Result: str
    Cwd: str | UnsetType = UNSET
    TTY: str | UnsetType = UNSET
    ExecEvent: ExecEvent | UnsetType = UNSET
    MaxAlertsPerSec: int | UnsetType = UNSET
    DroppingAlertsInterval: int | UnsetType = UNSET


class KubeArmorLog(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen and is no alert. The members are those of an alert, without policy and action."""

    Timestamp: int
    UpdatedTime: str
    ClusterName: str = CLUSTER
    HostName: str
    NamespaceName: str | UnsetType = UNSET
    Owner: Owner | UnsetType = UNSET
    PodName: str | UnsetType = UNSET
    Labels: str | UnsetType = UNSET
    ContainerID: str | UnsetType = UNSET
    ContainerName: str | UnsetType = UNSET
    ContainerImage: str | UnsetType = UNSET
    ParentProcessName: str | UnsetType = UNSET
    ProcessName: str | UnsetType = UNSET
    HostPPID: int | UnsetType = UNSET
    HostPID: int | UnsetType = UNSET
    PPID: int | UnsetType = UNSET
    PID: int | UnsetType = UNSET
    UID: int | UnsetType = UNSET
    Type: str
    Source: str | UnsetType = UNSET
    Operation: str
    Resource: str | UnsetType = UNSET
    Data: str
    EventData: Mapping[str, str] | UnsetType = UNSET
    Result: str
    Cwd: str | UnsetType = UNSET
    TTY: str | UnsetType = UNSET
    ExecEvent: ExecEvent | UnsetType = UNSET


class KubeArmorMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message about the engine itself."""

    Timestamp: int
    UpdatedTime: str
    ClusterName: str = CLUSTER
    HostName: str
    Type: str = "Message"
    Level: str
    Message: str


_ENCODER: Final = msgspec.json.Encoder()


def line_as_json(line: Line) -> bytes:
    """The form `kubearmor`."""
    return _ENCODER.encode(of_line(whole(line)))


def threshold_as_json(alert: Alert, alerts: int, seconds: int) -> bytes:
    """An alert as what tells that it was one too many: more than `alerts` in a second, and no other for `seconds`."""
    shown = msgspec.structs.replace(
        _alert(alert), Type="SystemEvent", Operation=THRESHOLD, MaxAlertsPerSec=alerts, DroppingAlertsInterval=seconds
    )
    return _ENCODER.encode(shown)


def of_line(line: WholeLine) -> KubeArmorAlert | KubeArmorLog | KubeArmorMessage:
    """An alert as KubeArmor has it; an event that was only asked for as one of its logs, a loss or a status as one of its messages."""
    if isinstance(line, (LossLine, StatusLine)):
        return KubeArmorMessage(
            Timestamp=_seconds(line.time),
            UpdatedTime=_micro(line.time),
            HostName=line.host,
            Level=LEVELS.get(line.severity, "INFO"),
            Message=line.message,
        )
    return _log(line) if line.kind == "event" else _alert(line)


def _log(event: Alert) -> KubeArmorLog:
    return KubeArmorLog(
        **_seen(event), Type="ContainerLog" if event.container else "HostLog", Operation=_operation(event.event), Result=_result(event)
    )


def _result(alert: Alert) -> str:
    return os.strerror(getattr(errno, alert.errno, errno.EPERM)) if alert.errno is not None else PASSED


def _alert(alert: Alert) -> KubeArmorAlert:
    own: dict[str, Any] = alert.dialect.get(NAME, {}) if alert.dialect is not UNSET else {}
    host = own.get("kind") == HOST_POLICY or (not own and not alert.container)
    severity = own.get("severity", UNSET if own else SEVERITY.get(alert.severity))
    killed = alert.action == "kill" and alert.kill is UNSET
    blocked = alert.errno is not None or killed
    return KubeArmorAlert(
        **_seen(alert),
        PolicyName=str(own.get("policy") or alert.policy or ""),
        Severity=UNSET if severity in (UNSET, None) else str(severity),
        Tags=",".join(alert.tags) or UNSET,
        ATags=alert.tags or UNSET,
        Message=own.get("message", UNSET) if own else alert.message,
        Type="MatchedNetworkPolicy" if own.get("kind") == NETWORK_POLICY else "MatchedHostPolicy" if host else "MatchedPolicy",
        Operation=str(own.get("operation") or _operation(alert.event)),
        Enforcer=ENFORCER if blocked else MONITOR,
        Action=_action(alert, own),
        Result="Killed" if killed else _result(alert),
    )


def _seen(alert: Alert) -> dict[str, Any]:
    """What an alert and a log have in common: who did what, and when."""
    process: dict[str, Any] = msgspec.to_builtins(alert.process) if alert.process else {}
    container, pod = alert.container or {}, alert.k8s or {}
    ancestors = process.get("ancestors") or []
    parent = _text(ancestors[0].get("exe")) if ancestors else UNSET
    exe = _text(process.get("exe"))
    path = _text(alert.file.get("path")) if alert.file is not UNSET else UNSET
    executes, executed = alert.event == "process.exec", alert.event == "process.executed"
    labels = pod.get("labels") if pod else container.get("labels")
    return {
        "Timestamp": _seconds(alert.time),
        "UpdatedTime": _micro(alert.time),
        "HostName": alert.host,
        "NamespaceName": _text(pod.get("namespace")) or ("container_namespace" if container else UNSET),
        "Owner": _owner(pod),
        "PodName": _text(pod.get("pod")),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())) if labels else UNSET,
        "ContainerID": _text(container.get("id")),
        "ContainerName": _text(container.get("name")),
        "ContainerImage": _image(container),
        "HostPPID": _number(process.get("ppid")),
        "HostPID": _number(process.get("pid")),
        "PPID": UNSET if container else _number(process.get("ppid")),
        "PID": UNSET if container else _number(process.get("pid")),
        "UID": _number(process.get("uid")),
        "ParentProcessName": exe if executes else parent,
        "ProcessName": path if executes else exe,
        "Source": parent if executed else exe if executes else _command(exe, process.get("args")),
        "Resource": _command(exe, process.get("args")) if executed else _resource(alert, path),
        "Data": f"lsm={HOOKS[alert.event]}" if alert.event in HOOKS else f"event={alert.event}",
        "EventData": {"Lsm": HOOKS[alert.event]} if alert.event in HOOKS else {"Event": alert.event},
        "Cwd": _text(process.get("cwd")),
        "TTY": _tty(process.get("tty")),
        "ExecEvent": ExecEvent(ExecID=str(process["exec_id"]), ExecutableName=str(process.get("name") or ""))
        if process.get("exec_id")
        else UNSET,
    }


def _action(alert: Alert, own: Mapping[str, Any]) -> str:
    """The action of the entry. In audit mode a block is one that was only reported."""
    action = str(own.get("action") or ("Block" if alert.action in ("deny", "kill") else "Audit"))
    return "Audit (Block)" if action == "Block" and alert.mode == "audit" else action


def _text(value: Any) -> str | UnsetType:
    return value if isinstance(value, str) and value else UNSET


def _number(value: Any) -> int | UnsetType:
    return value if isinstance(value, int) else UNSET


def _owner(pod: Mapping[str, Any]) -> Owner | UnsetType:
    """A pod that nothing keeps running is its own owner, as KubeArmor says it."""
    owner = pod.get("owner")
    if owner is None:
        return UNSET
    kind, name = (owner["kind"], owner["name"]) if owner else ("Pod", pod.get("pod", ""))
    return Owner(Ref=kind, Name=name, Namespace=pod.get("namespace", ""))


def _command(exe: str | UnsetType, words: Any) -> str | UnsetType:
    """A program with its arguments: its path in the place of its name."""
    return exe if exe is UNSET else " ".join([exe, *map(str, (words or [])[1:])])


def _image(container: Mapping[str, Any]) -> str | UnsetType:
    image, digest = container.get("image"), container.get("digest")
    return UNSET if not image else f"{image}@{digest}" if digest and "@" not in image else str(image)


def _tty(number: Any) -> str | UnsetType:
    """The name of a terminal, by its device number as the kernel encodes it (major in the bits 8 to 19)."""
    if not isinstance(number, int) or not number:
        return UNSET
    major, minor = number >> 8 & 0xFFF, (number & 0xFF) | (number >> 12 & 0xFFF00)
    first = {4: "tty", 136: "pts"}.get(major)
    return f"{first}{minor}" if first else f"{major}:{minor}"


def _operation(event: str) -> str:
    if event in ("process.exec", "process.executed"):
        return "Process"
    if event == "process.capable":
        return "Capabilities"
    return {"file": "File", "net": "Network"}.get(event.partition(".")[0], "Syscall")


def _resource(alert: Alert, path: str | UnsetType) -> str | UnsetType:
    if alert.event == "process.capable" and alert.capability is not UNSET:
        return str(alert.capability)
    if alert.net is UNSET:
        return path
    net = alert.net
    peer = net.get("peer") or {}
    if peer.get("ip") is not None:
        return f"sa_family={net.get('family')} sin_port={peer.get('port')} sin_addr={peer['ip']}"
    words = ((word, net.get(key)) for word, key in (("domain", "family"), ("type", "type"), ("protocol", "protocol")))
    return " ".join(f"{word}={value}" for word, value in words if value is not None)


def _seconds(moment: str) -> int:
    return int(dt.datetime.fromisoformat(moment.partition(".")[0].rstrip("Z")).replace(tzinfo=dt.UTC).timestamp())


def _micro(moment: str) -> str:
    """A time with six digits behind the point."""
    whole_, _, fraction = moment.rstrip("Z").partition(".")
    return f"{whole_}.{(fraction + '0' * 6)[:6]}Z"

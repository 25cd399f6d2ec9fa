# SPDX-License-Identifier: Apache-2.0
"""Lines in, JSON in the form of Tetragon's export out: one object a line, its members in snake case.

`--format tetragon` and `--output tetragon`. Matches of tracing policies become process_kprobe and process_lsm; lines of native rules on
`process.executed` and `process.exit` process_exec and process_exit, all others process_lsm with the event as function. Losses become
rate_limit_info. What has no counterpart there, as the status of the agent, is under bpfence_status.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET

from bpfence.alerts.alert import Alert, Line, LossLine, StatusLine, WholeLine, whole
from bpfence.dialects.tetragon.lower.policies import LANGUAGE
from bpfence.events.process import Process

_ENCODER: Final = msgspec.json.Encoder()
_ACTIONS: Final = {"deny": "KPROBE_ACTION_OVERRIDE", "kill": "KPROBE_ACTION_SIGKILL"}
_DOCKER: Final = 31
"""How many characters of a container's id are shown."""
_CORE: Final = 0x80


def line_as_json(line: Line) -> bytes:
    """A line as JSON, without a newline."""
    return _ENCODER.encode(of_line(whole(line)))


def of_line(line: WholeLine) -> dict[str, Any]:
    """The object of a line."""
    end = {"node_name": line.host, "time": line.time}
    match line:
        case LossLine():
            return {"rate_limit_info": {"number_of_dropped_process_events": str(line.lost)}, **end}
        case StatusLine():
            return {"bpfence_status": {"status": line.status, "message": line.message}, **end}
    return {**_event(line), **end}


def _event(alert: Alert) -> dict[str, Any]:
    said: Mapping[str, Any] = {} if alert.dialect is UNSET else alert.dialect.get(LANGUAGE, {})
    who = _who(alert, said.get("parent_exec_id", 0))
    if said:
        return {said["form"]: {**who, **{key: value for key, value in said.items() if key not in ("form", "parent_exec_id")}}}
    if alert.event == "process.executed":
        return {"process_exec": who}
    if alert.event == "process.exit":
        return {"process_exit": {**who, **_exit(alert), "time": alert.time}}
    own: dict[str, Any] = {
        "function_name": alert.event,
        "action": _ACTIONS.get(alert.action, "KPROBE_ACTION_POST"),
        "message": alert.message,
    }
    return {"process_lsm": {**who, **own, "policy_name": alert.policy or "", "tags": list(alert.tags)}}


def _exit(alert: Alert) -> dict[str, Any]:
    """How a process has ended, of its status in the form of wait(2)."""
    process: Any = alert.process if isinstance(alert.process, dict) else {}
    code = process.get("exit", {}).get("code") if isinstance(process.get("exit"), dict) else None
    if not isinstance(code, int):
        return {}
    signal = code & ~_CORE & 0x7F
    return {"signal": _signal(signal)} if signal else {"status": code >> 8 & 0xFF}


def _signal(number: int) -> str:
    from bpfence import names

    return names.name("signal", number) or str(number)


def _who(alert: Alert, parent_exec: int) -> dict[str, Any]:
    process = alert.process
    if process is None:
        return {}
    known: dict[str, Any] = msgspec.to_builtins(process) if isinstance(process, Process) else process
    ancestors = known.get("ancestors") or []
    parent_id = _exec_id(alert.host, parent_exec, ancestors[0]["pid"]) if parent_exec and ancestors else ""
    shown = _process(alert, known)
    if parent_id:
        shown["parent_exec_id"] = parent_id
    parent: dict[str, Any] = {"pid": known["ppid"]}
    nearest = next((ancestor for ancestor in ancestors if ancestor["pid"] == known["ppid"]), None)
    if nearest is not None:
        parent["binary"] = nearest["exe"]
        if parent_id and nearest is ancestors[0]:
            parent = {"exec_id": parent_id, **parent}
    return {"process": shown, "parent": parent}


def _process(alert: Alert, known: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    number = _number(known.get("exec_id"))
    if number:
        shown["exec_id"] = _exec_id(alert.host, number, known["pid"])
    shown |= {"pid": known["pid"], "uid": known["uid"]}
    shown |= {key: known[name] for key, name in (("cwd", "cwd"), ("binary", "exe")) if known.get(name) is not None}
    if known.get("args"):
        shown["arguments"] = " ".join(_argument(text) for text in known["args"][1:])
    if known.get("args_truncated") is True:
        shown["flags"] = "truncArgs"
    if known.get("start_time"):
        shown["start_time"] = known["start_time"]
    if alert.container is not None and alert.container.get("id"):
        shown["docker"] = alert.container["id"][:_DOCKER]
    if alert.k8s is not None:
        shown["pod"] = _pod(alert)
    shown["tid"] = known["tid"]
    return shown


def _argument(text: str) -> str:
    return f'"{text}"' if " " in text or not text else text


def _pod(alert: Alert) -> dict[str, Any]:
    own, container = alert.k8s or {}, alert.container or {}
    made = {"namespace": own.get("namespace"), "name": own.get("pod"), "uid": own.get("uid")}
    image = {"name": container.get("image"), "id": container.get("digest")}
    inner = {"id": container.get("id"), "name": container.get("name"), "image": {key: text for key, text in image.items() if text}}
    labels = own.get("labels")
    return {
        **{key: text for key, text in made.items() if text},
        "container": {key: value for key, value in inner.items() if value},
        **({"pod_labels": labels} if labels else {}),
    }


def _number(exec_id: object) -> int:
    """The kernel's number of a program, of the id that lines have."""
    text = exec_id.rpartition("-")[2] if isinstance(exec_id, str) else ""
    try:
        return int(text, 16)
    except ValueError:
        return 0


def _exec_id(host: str, number: int, pid: int) -> str:
    """In the form of Tetragon's: node, a number that no other program on it has, process id."""
    return base64.b64encode(f"{host}:{number}:{pid}".encode()).decode()

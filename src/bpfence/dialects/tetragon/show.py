# SPDX-License-Identifier: Apache-2.0
"""Lines in, JSON in the form of Tetragon's export out: one object a line, its members in snake case.

`--format tetragon` and `--output tetragon`. Matches of tracing policies become process_kprobe and process_lsm; lines of native rules on
`process.executed` and `process.exit` process_exec and process_exit, all others process_lsm with the event as function. Losses become
rate_limit_info. What has no counterpart there, as the status of the agent, is under bpfence_status.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET

from bpfence import abi, names
from bpfence.alerts.alert import Alert, Line, LossLine, Rendered, StatusLine, WholeLine, whole
from bpfence.dialects.tetragon.lower.policies import LANGUAGE
from bpfence.dialects.tetragon.wire import capability
from bpfence.events.process import Process
from bpfence.events.records import KernelEvent

_ENCODER: Final = msgspec.json.Encoder()
_ACTIONS: Final = {"deny": "KPROBE_ACTION_OVERRIDE", "kill": "KPROBE_ACTION_SIGKILL"}
_DOCKER: Final = 31
"""How many characters of a container's id are shown."""
_CORE: Final = 0x80
_NAMESPACES: Final = ("mnt", "pid", "net", "user")


def _of_host() -> dict[str, int]:
    """The numbers of the namespaces of the host's first process, which may be looked at before privileges are given up; none where not."""
    found = {}
    for name in _NAMESPACES:
        try:
            found[name] = os.stat(f"/proc/1/ns/{name}").st_ino
        except OSError:
            continue
    return found


_HOST: Final = _of_host()


def line_as_json(line: Line) -> bytes:
    """A line as JSON, without a newline."""
    return _ENCODER.encode(of_line(whole(line), line.record if isinstance(line, Rendered) else None))


def of_line(line: WholeLine, record: KernelEvent | None = None) -> dict[str, Any]:
    """The object of a line. `record`: the one that it tells of, which knows more of the process."""
    end = {"node_name": line.host, "time": line.time}
    match line:
        case LossLine():
            return {"rate_limit_info": {"number_of_dropped_process_events": str(line.lost)}, **end}
        case StatusLine():
            return {"bpfence_status": {"status": line.status, "message": line.message}, **end}
    return {**_event(line, record), **end}


def _event(alert: Alert, record: KernelEvent | None) -> dict[str, Any]:
    said: Mapping[str, Any] = {} if alert.dialect is UNSET else alert.dialect.get(LANGUAGE, {})
    who = _who(alert, record, said.get("parent_exec_id", 0) if record is None else record.parent_exec_id)
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
    return names.name("signal", number) or str(number)


def _who(alert: Alert, record: KernelEvent | None, parent_exec: int) -> dict[str, Any]:
    """The process, its parent, and those that both descend from."""
    process = alert.process
    if process is None:
        return {}
    known: dict[str, Any] = msgspec.to_builtins(process) if isinstance(process, Process) else process
    ancestors = known.get("ancestors") or []
    parent_id = _exec_id(alert.host, parent_exec, ancestors[0]["pid"]) if parent_exec and ancestors else ""
    shown = _process(alert, known)
    if parent_id:
        shown["parent_exec_id"] = parent_id
    if record is not None:
        shown |= _of_record(record)
    parent: dict[str, Any] = {"pid": known["ppid"]}
    nearest = next((number for number, ancestor in enumerate(ancestors) if ancestor["pid"] == known["ppid"]), None)
    if nearest is not None:
        parent["binary"] = ancestors[nearest]["exe"]
        if parent_id and nearest == 0:
            parent = {"exec_id": parent_id, **parent}
    own = known.get("parent")
    if isinstance(own, dict) and own.get("args"):
        parent["arguments"] = _arguments(own["args"])
    further = [{"pid": ancestor["pid"], "binary": ancestor["exe"]} for ancestor in ancestors if ancestor["pid"] != known["ppid"]]
    return {"process": shown, "parent": parent, **({"ancestors": further} if further else {})}


def _of_record(record: KernelEvent) -> dict[str, Any]:
    """What a record says of its process and lines do not."""
    made: dict[str, Any] = {}
    caps = record.number(abi.NUM_PROCESS_CAPS)
    if caps is not None:
        known = (names.name("capability", number) for number in range(caps.bit_length()) if caps >> number & 1)
        made["cap"] = {"effective": [capability(name) for name in known if name is not None]}
    numbers = {name: number for name in _NAMESPACES if (number := getattr(record, f"{name}_ns"))}
    if numbers:
        made["ns"] = {
            name: {"inum": number, **({"is_host": True} if _HOST.get(name) == number else {})} for name, number in numbers.items()
        }
    return made


def _process(alert: Alert, known: Mapping[str, Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    number = _number(known.get("exec_id"))
    if number:
        shown["exec_id"] = _exec_id(alert.host, number, known["pid"])
    shown |= {"pid": known["pid"], "uid": known["uid"]}
    shown |= {key: known[name] for key, name in (("cwd", "cwd"), ("binary", "exe")) if known.get(name) is not None}
    if known.get("args"):
        shown["arguments"] = _arguments(known["args"])
    if flags := " ".join(_flags(alert, known)):
        shown["flags"] = flags
    if known.get("start_time"):
        shown["start_time"] = known["start_time"]
    if alert.container is not None and alert.container.get("id"):
        shown["docker"] = alert.container["id"][:_DOCKER]
    if alert.k8s is not None:
        shown["pod"] = _pod(alert)
    shown["tid"] = known["tid"]
    return shown


def _flags(alert: Alert, known: Mapping[str, Any]) -> Iterator[str]:
    if alert.event == "process.executed":
        yield "execve"
    if known.get("args_truncated") is True:
        yield "truncArgs"
    if known.get("cwd") == "/":
        yield "rootcwd"


def _arguments(words: list[str]) -> str:
    """All but the first, which is the program's name."""
    return " ".join(map(_argument, words[1:]))


def _argument(text: str) -> str:
    return f'"{text}"' if " " in text or not text else text


def _pod(alert: Alert) -> dict[str, Any]:
    own, container = alert.k8s or {}, alert.container or {}
    owner = own.get("owner") or {}
    made = {
        "namespace": own.get("namespace"), "name": own.get("pod"), "uid": own.get("uid"), "workload": owner.get("name"),
        "workload_kind": owner.get("kind"),
    }  # fmt: skip
    image = {"name": container.get("image"), "id": container.get("digest")}
    identity, runtime = container.get("id"), container.get("runtime")
    inner: dict[str, Any] = {
        "id": f"{runtime}://{identity}" if identity and runtime else identity,
        "name": container.get("name"),
        "image": {key: text for key, text in image.items() if text},
        "start_time": container.get("start"),
        "security_context": {"privileged": True} if container.get("privileged") else None,
    }
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

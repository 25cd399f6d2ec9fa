# SPDX-License-Identifier: Apache-2.0
"""A line's members in, what security information systems read out: CEF (one line of text) and OCSF (one JSON object).

Called through `forms`, and by `choice` with members left out. Both know an alert by its members (docs/alerts.md) alone, so what is redacted
there is in neither; a member may be REDACTED instead of what it should be, and is then shown only where a text may stand.
CEF: ArcSight's Common Event Format, version 0, header and dictionary of keys. OCSF: Open Cybersecurity Schema Framework, OCSF_VERSION,
class Detection Finding (2004) with the profile security_control; losses and statuses are base events (class 0).
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from bpfence.outputs.forms import nanoseconds, version

Members = dict[str, Any]
OCSF_VERSION: Final = "1.7.0"
CEF_SEVERITY: Final = {"info": 0, "low": 3, "medium": 5, "high": 8, "critical": 10}
OCSF_SEVERITY: Final = {
    "info": (1, "Informational"), "low": (2, "Low"), "medium": (3, "Medium"), "high": (4, "High"), "critical": (5, "Critical"),
}  # fmt: skip
_VERSION: Final = version()
_HEADER: Final = str.maketrans({"\\": "\\\\", "|": "\\|", "\n": " ", "\r": " "})
_VALUE: Final = str.maketrans({"\\": "\\\\", "=": "\\=", "\n": "\\n", "\r": "\\r"})
_LENGTHS: Final = {
    "act": 63, "dvchost": 100, "outcome": 63, "externalId": 40,
    "cs1": 4000, "cs2": 4000, "cs3": 4000, "cs4": 4000, "cs5": 4000, "cs6": 4000,
}  # fmt: skip
"""Characters that CEF has room for, by key. All others: MAX_VALUE."""
MAX_VALUE: Final = 1023
MAX_NAME: Final = 512
_INCOMING: Final = frozenset(("net.accept", "net.recv"))
"""Events whose other side is where something comes from."""
_TECHNIQUE: Final = re.compile(r"(T[0-9]{4})(\.[0-9]{3})?")
_TOLD: Final = frozenset(("time", "kind", "severity", "message", "host", "policy", "rule", "tags", "seq"))
"""Members that OCSF has a place for, so that they are not told again."""


def milliseconds(moment: str) -> int:
    """Milliseconds since 1970 of a line's `time`."""
    return nanoseconds(moment) // 1_000_000


# ---- what members hold ----


def _group(found: Members, *path: str) -> Members:
    """A map inside of the members; an empty one where there is none, or it is redacted."""
    value: Any = found
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(map(_text, value))
    return "" if value is None or isinstance(value, dict) else str(value)


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _address(value: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(value) if isinstance(value, str) else None
    except ValueError:
        return None


# ---- CEF ----


def cef(found: Members) -> bytes:
    """A line in CEF, without a newline."""
    if found["kind"] in ("alert", "event"):
        signature, name = f"{found['policy'] or '-'}/{found['rule'] or '-'}", f"{found['event']}: {found['rule'] or '-'}"
        keys = dict(_alert_keys(found))
    else:
        told = str(found.get("status", found["kind"]))
        signature, name = f"bpfence:{told}", f"bpfence: {told}"
        keys = dict(_status_keys(found))
    head = ["CEF:0", "bpfence", "bpfence", _VERSION, signature[:MAX_VALUE], name[:MAX_NAME], str(CEF_SEVERITY[found["severity"]])]
    keys = {"rt": milliseconds(found["time"]), "dvchost": found.get("host"), "msg": found["message"], **keys}
    told = " ".join(f"{key}={_value(key, value)}" for key, value in keys.items() if value not in (None, "", [], ()))
    return "|".join([part.translate(_HEADER) for part in head] + [told]).encode("utf-8", "backslashreplace")


def _value(key: str, value: Any) -> str:
    text, most = _text(value), _LENGTHS.get(key, MAX_VALUE)
    return (text if len(text) <= most else text[: most - 1] + "…").translate(_VALUE)


def _alert_keys(found: Members) -> Iterator[tuple[str, Any]]:
    process, file, target = _group(found, "process"), _group(found, "file"), _group(found, "target")
    yield from {
        "cat": found["event"],
        "act": found["action"],
        "outcome": "failure" if found.get("errno") else "success",
        "reason": found.get("errno"),
        "externalId": found["seq"],
        "spid": _number(process.get("pid")),
        "sproc": process.get("exe") or process.get("name"),
        "suid": process.get("uid"),
        "dpid": _number(target.get("pid")),
        "dproc": target.get("exe"),
        "duid": target.get("uid"),
    }.items()
    if path := file.get("new_path") or file.get("path"):
        yield from {"filePath": path, "fname": _text(path).rpartition("/")[2]}.items()
        if file.get("new_path"):
            yield "oldFilePath", file.get("path")
    elif isinstance(found.get("file"), str):
        yield "filePath", found["file"]
    yield from _cef_endpoints(found)
    container, pod = _group(found, "container"), _group(found, "k8s")
    labelled = {
        "cs1": ("policy", found["policy"]), "cs2": ("rule", found["rule"]), "cs3": ("arguments", process.get("args")),
        "cs4": ("container", container.get("name") or container.get("id")),
        "cs5": ("pod", f"{_text(pod.get('namespace'))}/{_text(pod.get('pod'))}" if pod else None), "cs6": ("tags", found.get("tags")),
    }  # fmt: skip
    for key, (label, value) in labelled.items():
        if _text(value):
            yield from {f"{key}Label": label, key: value}.items()


def _cef_endpoints(found: Members) -> Iterator[tuple[str, Any]]:
    incoming = found["event"] in _INCOMING
    for end, source in (("peer", incoming), ("local", not incoming)):
        one = _group(found, "net", end)
        address = _address(one.get("ip"))
        if address is not None and address.version == 4:
            yield "src" if source else "dst", str(address)
        elif address is not None:
            key = "c6a2" if source else "c6a3"
            yield from {f"{key}Label": f"{'Source' if source else 'Destination'} IPv6 Address", key: str(address)}.items()
        if (port := _number(one.get("port"))) is not None:
            yield "spt" if source else "dpt", port


def _status_keys(found: Members) -> Iterator[tuple[str, Any]]:
    yield "cat", found["kind"]
    for key, name in (("cn1", "lost"), ("cn1", "dropped"), ("cn1", "suppressed")):
        if _number(found.get(name)) is not None:
            yield from {f"{key}Label": name, key: found[name]}.items()
    for key, name in (("cs1", "policy"), ("cs2", "rule"), ("cs3", "output"), ("cs4", "policies")):
        if found.get(name):
            yield from {f"{key}Label": name, key: found[name]}.items()


# ---- OCSF ----


def ocsf(found: Members) -> bytes:
    """A line in OCSF, as JSON without a newline."""
    severity, named = OCSF_SEVERITY[found["severity"]]
    moment = milliseconds(found["time"])
    product = {"name": "bpfence", "vendor_name": "bpfence", "version": _VERSION}
    metadata: Members = {"version": OCSF_VERSION, "product": product, "original_time": found["time"]}
    made: Members = {
        "time": moment, "severity_id": severity, "severity": named, "message": found["message"], "metadata": metadata,
    }  # fmt: skip
    if found["kind"] in ("alert", "event"):
        metadata |= {"sequence": found["seq"], "profiles": ["host", "security_control"]}
        made |= _finding(found, moment)
    else:
        told = str(found.get("status", found["kind"]))
        made |= {
            "class_uid": 0,
            "class_name": "Base Event",
            "category_uid": 0,
            "category_name": "Uncategorized",
            "type_uid": 99,
            "activity_id": 99,
            "activity_name": told,
        }
    if isinstance(found.get("host"), str):
        made["device"] = {"hostname": found["host"], "type_id": 0, "type": "Unknown"}
    made["unmapped"] = {"bpfence": {name: value for name, value in found.items() if name not in _TOLD and value is not None}}
    return msgspec.json.encode(made)


def _finding(found: Members, moment: int) -> Members:
    blocked = found["action"] in ("deny", "kill")
    observed = found["kind"] == "event"
    disposition = (2, "Blocked") if blocked else (17, "Logged") if observed else (19, "Alert")
    rule = f"{found['policy'] or '-'}/{found['rule'] or '-'}"
    named = "\0".join(map(str, (found.get("host"), found["time"], found["seq"], rule)))
    tags = [tag for tag in found["tags"] if isinstance(tag, str)] if isinstance(found.get("tags"), list | tuple) else []
    info: Members = {
        "uid": hashlib.sha256(named.encode("utf-8", "backslashreplace")).hexdigest()[:32], "title": found["rule"] or "-",
        "created_time": moment, "types": [found["event"]],
        "analytic": {"type_id": 1, "type": "Rule", "name": found["rule"] or "-", "uid": rule},
    }  # fmt: skip
    if tags:
        info["tags"] = [{"name": "bpfence", "values": tags}]
    if attacks := [attack for tag in tags if (attack := _attack(tag)) is not None]:
        info["attacks"] = attacks
    made: Members = {
        "class_uid": 2004, "class_name": "Detection Finding", "category_uid": 2, "category_name": "Findings", "type_uid": 200401,
        "activity_id": 1, "activity_name": "Create", "status_id": 1, "status": "New", "finding_info": info,
        "action_id": 2 if blocked else 1, "action": "Denied" if blocked else "Allowed",
        "disposition_id": disposition[0], "disposition": disposition[1], "is_alert": not observed,
        "confidence_id": 1 if found.get("uncertain") else 3, "confidence": "Low" if found.get("uncertain") else "High",
        "policy": {"name": found["policy"] or "-"},
    }  # fmt: skip
    if evidence := _evidence(found):
        made["evidences"] = [{"name": found["event"], **evidence}]
    if pod := _named(_group(found, "k8s"), {"name": "pod", "namespace": "namespace", "uid": "uid"}):
        made["resources"] = [{"type": "Pod", **pod}]
    return made


def _attack(tag: str) -> Members | None:
    found = _TECHNIQUE.fullmatch(tag)
    if found is None:
        return None
    return {"technique": {"uid": found[1]}, **({"sub_technique": {"uid": tag}} if found[2] else {})}


def _named(found: Mapping[str, Any], names: Mapping[str, str]) -> Members:
    """Texts of a map under other names; what is missing is left out."""
    return {name: text for name, own in names.items() if (text := _text(found.get(own)))}


def _evidence(found: Members) -> Members:
    made: Members = {}
    if process := _process(_group(found, "process")):
        made["actor"] = {"process": process}
    if target := _process(_group(found, "target")):
        made["process"] = target
    if file := _file(_group(found, "file").get("path")):
        made["file"] = file
    incoming = found["event"] in _INCOMING
    for end, source in (("peer", incoming), ("local", not incoming)):
        one = _group(found, "net", end)
        endpoint: Members = {}
        if (address := _address(one.get("ip"))) is not None:
            endpoint["ip"] = str(address)
        if (port := _number(one.get("port"))) is not None:
            endpoint["port"] = port
        if endpoint:
            made["src_endpoint" if source else "dst_endpoint"] = endpoint
    container = _group(found, "container")
    if made and (told := _named(container, {"uid": "id", "name": "name", "runtime": "runtime"})):
        if image := _named(container, {"uid": "digest", "name": "image"}):
            told |= {"image": image} if "uid" in image else {}
        made["container"] = told
    return made


def _file(path: Any) -> Members:
    text = _text(path)
    return {"name": text.rpartition("/")[2] or text, "path": text, "type_id": 0, "type": "Unknown"} if text else {}


def _process(found: Members) -> Members:
    made: Members = _named(found, {"uid": "exec_id", "name": "name", "cmd_line": "args"})
    if (pid := _number(found.get("pid"))) is not None:
        made["pid"] = pid
    if not ("pid" in made or "uid" in made):
        return {}
    if file := _file(found.get("exe")):
        made["file"] = file
    if uid := _text(found.get("uid")):
        made["user"] = {"uid": uid}
    if isinstance(start := found.get("start_time"), str) and re.fullmatch(r"[0-9]{4}-.{15}\.[0-9]{9}Z", start):
        made["created_time"] = milliseconds(start)
    if (parent := _number(found.get("ppid"))) is not None:
        made["parent_process"] = {"pid": parent}
    return made

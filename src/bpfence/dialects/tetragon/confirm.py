# SPDX-License-Identifier: Apache-2.0
"""An observation and the rules in force in, what Tetragon's events say of it out.

The kernel decides tracing policies completely, so nothing is confirmed here: the agent asks what a match is in the language of its policy.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import socket
import stat
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from bpfence import abi, names
from bpfence.alerts.alert import Said
from bpfence.dialects.saying import RuleKey, Saying
from bpfence.dialects.tetragon.lower.hooks import Reads
from bpfence.dialects.tetragon.lower.policies import LANGUAGE, Limit, Sensor, Shown
from bpfence.dialects.tetragon.read import words
from bpfence.dialects.tetragon.wire import capability
from bpfence.events.source import Observation
from bpfence.events.values import escape, readable
from bpfence.fields import FIELD_BY_NAME
from bpfence.policy import Action, Value

if TYPE_CHECKING:
    from bpfence.dialects.tetragon.dialect import TetragonRules

Sensors = Mapping[RuleKey, Sensor]
_NUMBER_MEMBERS: Final = {
    "int": "int_arg", "int8": "int_arg", "int16": "int_arg", "uint32": "uint_arg", "uint8": "uint_arg", "uint16": "uint_arg",
    "sint64": "long_arg", "uint64": "size_arg", "size_t": "size_arg",
}  # fmt: skip
"""The member of an argument that holds a number, by its type."""
_WIDE: Final = frozenset(("long_arg", "size_arg"))
"""Members of 64 bits, which are texts in JSON."""
_NUMBER_SLOTS: Final = {Reads.MAP_FLAGS: abi.NUM_MAP_FLAGS, Reads.LENGTH: abi.NUM_NET_ADDRLEN}
_FILE_MEMBERS: Final = {"file": "file_arg", "fd": "file_arg", "path": "path_arg", "linux_binprm": "linux_binprm_arg"}
MAX_TOLD: Final = 4096
"""Events that are remembered for rate limits."""
_IDS: Final = ("uid", "gid", "suid", "sgid", "euid", "egid", "fsuid", "fsgid")
_SOCKET_TYPES: Final = frozenset(("sock", "socket", "skb"))
_BPF_MEMBERS: Final = {"bpf_attr": "bpf_attr_arg", "bpf_prog": "bpf_prog_arg", "bpf_map": "bpf_map_arg"}
_PERF_TYPES: Final = (
    "PERF_TYPE_HARDWARE", "PERF_TYPE_SOFTWARE", "PERF_TYPE_TRACEPOINT", "PERF_TYPE_HW_CACHE", "PERF_TYPE_RAW", "PERF_TYPE_BREAKPOINT",
)  # fmt: skip
"""Of include/uapi/linux/perf_event.h; others are numbers of sources that a kernel gives as they come."""
_SECURE_BITS: Final = (
    "SecBitNoRoot", "SecBitNoRootLocked", "SecBitNoSetUidFixup", "SecBitNoSetUidFixupLocked", "SecBitKeepCaps", "SecBitKeepCapsLocked",
    "SecBitNoCapAmbientRaise", "SecBitNoCapAmbientRaiseLocked",
)  # fmt: skip
_CALL_NUMBER: Final = 0xFFF
"""Numbers of system calls are less; bit 30 is that of x32."""
_COMPAT: Final = 0x80000000
_MASK_OF: Final = {abi.ACCESS_EXEC: 1, abi.ACCESS_WRITE: 2, abi.ACCESS_READ: 4}


def details(seen: Observation, sensor: Sensor) -> dict[str, Any]:
    """What an event of Tetragon's has beside process, node and time; and `form`, the name of the event. Strings are escaped."""
    made: dict[str, Any] = {"form": sensor.form}
    if sensor.form == "process_tracepoint":
        made |= dict(zip(("subsys", "event"), escape(sensor.function).split("/", 1), strict=True))
    elif sensor.members:
        made |= {key: escape(text) for key, text in sensor.members.items()}
    else:
        made["function_name"] = escape(sensor.function)
    if sensor.arguments:
        made["args"] = [_argument(seen, shown) for shown in sensor.arguments]
    if sensor.result is not None:
        made["return"] = _argument(seen, sensor.result)
    elif sensor.returns:
        made["return"] = {"int_arg": -seen.error if seen.action >= Action.DENY else 0}
    made |= {"action": sensor.action, "policy_name": escape(sensor.policy)}
    if sensor.form == "process_kprobe":
        made["return_action"] = sensor.return_action
    if sensor.message:
        made["message"] = escape(sensor.message)
    if sensor.tags:
        made["tags"] = [escape(tag) for tag in sensor.tags]
    return made


def _argument(seen: Observation, shown: Shown) -> dict[str, Any]:
    made = _value(seen, shown)
    return {**made, "label": escape(shown.label)} if shown.label else made


def _value(seen: Observation, shown: Shown) -> dict[str, Any]:
    match shown.reads:
        case Reads.FILE:
            return {_FILE_MEMBERS[shown.type]: _file(seen)}
        case Reads.NAME:
            return {_FILE_MEMBERS[shown.type]: {"path": _text(seen.own("file.path"))}}
        case Reads.NUMBER:
            return _numbered(shown.type, _number(seen.own(shown.field)))
        case Reads.INTEGER:
            return _integer(shown.type, _number(seen.own(shown.field)))
        case Reads.PLACE:
            return {_FILE_MEMBERS[shown.type]: {"path": _text(seen.own(shown.field))}}
        case Reads.TEXT:
            return _of_text(seen, shown)
        case Reads.WHOLE:
            return _structure(seen, shown)
        case Reads.SOCK if shown.type == "skb":
            length = _number(seen.own(shown.field))
            return {"skb_arg": _of_packet({"len": length} if length is not None else {}, _both_sides(seen))}
        case Reads.SOCK:
            return {"sock_arg": _both_sides(seen)}
        case Reads.SOCKET:
            return {"sock_arg": _socket(seen)}
        case Reads.MODULE:
            return {"string_arg": _text(seen.own("module.name"))}
        case Reads.CONSTANT:
            return _numbered(shown.type, shown.constant)
        case Reads.ADDRESS:
            return {"sockaddr_arg": _address(seen)}
        case Reads.ACCESS:
            access = _number(seen.own("file.access"))
            return _numbered(shown.type, None if access is None else sum(may for bit, may in _MASK_OF.items() if access & bit))
        case Reads.PROTECTION:
            return _numbered(shown.type, _number(seen.own("file.prot")))
    return _numbered(shown.type, None if seen.record is None else seen.record.number(_NUMBER_SLOTS[shown.reads]))


def _number(value: Value | None) -> int | None:
    return value if isinstance(value, int) else None


def _numbered(type_: str, number: int | None) -> dict[str, Any]:
    """A number; without a value where the record has none."""
    if number is None:
        return {}
    if type_ == "bpf_cmd":
        return {"bpf_cmd_arg": names.name("bpf_cmd", number) or str(number)}
    member = _NUMBER_MEMBERS[type_]
    return {member: str(number) if member in _WIDE else number}


def _of_text(seen: Observation, shown: Shown) -> dict[str, Any]:
    """A text of a sensor, or bytes: those as base64, and with their number where that is greater."""
    text = seen.own(shown.field)
    if shown.type == "char_buf":
        data = b"" if seen.record is None else seen.record.string(abi.CONSTANTS[FIELD_BY_NAME[shown.field].slot], b"")
        size = _number(seen.own(shown.field.replace("text", "number"))) or 0
        made = base64.b64encode(data).decode()
        return {"truncated_bytes_arg": {"bytes_arg": made, "orig_size": str(size)}} if size > len(data) else {"bytes_arg": made}
    match shown.type:
        case "module":
            return {"module_arg": {"name": _text(text)}}
        case "net_device":
            return {"net_dev_arg": {"name": _text(text)}}
    return {"string_arg": _text(text)}


def _structure(seen: Observation, shown: Shown) -> dict[str, Any]:
    """struct cred and struct user_namespace as the kernel's program has read them."""
    data = None if seen.record is None else seen.record.string(abi.STR_SENSOR_WHOLE_0 + shown.constant)
    if shown.type == "cred" and data is not None and len(data) == abi.SENSOR_CRED_SIZE:
        *ids, securebits, user_ns, permitted, effective, inheritable = abi.SENSOR_CRED_STRUCT.unpack(data)
        made: dict[str, Any] = dict(zip(_IDS, ids, strict=True))
        sets = {"permitted": permitted, "effective": effective, "inheritable": inheritable}
        caps = {name: _capabilities(value) for name, value in sets.items() if value}
        made |= {"caps": caps, "user_ns": {"ns": {"inum": user_ns}}}
        bits = [word for number, word in enumerate(_SECURE_BITS) if securebits >> number & 1]
        return {"process_credentials_arg": made | ({"securebits": bits} if bits else {})}
    if shown.type == "user_namespace" and data is not None and len(data) == abi.SENSOR_USER_NS_SIZE:
        level, uid, gid, inum = abi.SENSOR_USER_NS_STRUCT.unpack(data)
        return {"user_ns_arg": {"level": level, "uid": uid, "gid": gid, "ns": {"inum": inum}}}
    if shown.type in _SOCKET_TYPES and data is not None and len(data) == abi.SENSOR_SOCK_SIZE:
        return _whole_socket(shown.type, data)
    if shown.type in _BPF_MEMBERS and data is not None and len(data) == abi.SENSOR_BPF_SIZE:
        return _of_bpf(shown.type, data)
    if shown.type == "perf_event" and data is not None and len(data) == abi.SENSOR_PERF_SIZE:
        config, offset, type_, _, function = abi.SENSOR_PERF_STRUCT.unpack(data)
        kind = _PERF_TYPES[type_] if type_ < len(_PERF_TYPES) else str(type_)
        made = {"KprobeFunc": _ended(function), "Type": kind, "Config": str(config), "ProbeOffset": str(offset)}
        return {"perf_event_arg": {key: value for key, value in made.items() if value not in ("", "0")}}
    return {}


def _ended(text: bytes) -> str:
    """What stands before the first NUL."""
    return escape(text.partition(b"\0")[0])


def _of_bpf(kind: str, data: bytes) -> dict[str, Any]:
    """A program or a map of BPF."""
    type_, size, value_size, max_entries, name = abi.SENSOR_BPF_STRUCT.unpack(data)
    if kind == "bpf_map":
        sizes = {"KeySize": size, "ValueSize": value_size, "MaxEntries": max_entries}
        return {"bpf_map_arg": {"MapType": names.name("bpf_map_type", type_) or str(type_), **sizes, "MapName": _ended(name)}}
    told = {"ProgType": names.name("bpf_prog_type", type_) or str(type_), "InsnCnt": size, "ProgName": _ended(name)}
    return {_BPF_MEMBERS[kind]: told}


def _whole_socket(kind: str, data: bytes) -> dict[str, Any]:
    """A socket or a packet that conditions are not about, as the others are shown."""
    family, type_, protocol, state, source_port, destination_port, length, source, destination = abi.SENSOR_SOCK_STRUCT.unpack(data)
    packet = kind == "skb"
    if packet and not family:
        return {"skb_arg": {"len": length}}
    numbers = [("family", "family", family), ("protocol", "protocol", protocol)]
    if not packet:
        numbers += [("type", "socktype", type_), ("state", "tcp_state", state)]
    made: dict[str, Any] = {member: names.name(table, number) or str(number) for member, table, number in numbers}
    if family in (socket.AF_INET, socket.AF_INET6):
        size = 4 if family == socket.AF_INET else 16
        made |= {"saddr": _ip(source[:size]), "daddr": _ip(destination[:size])}
        made |= {"sport": source_port, "dport": destination_port} if not packet or source_port or destination_port else {}
    return {"skb_arg": _of_packet({"len": length}, made)} if packet else {"sock_arg": made}


def _ip(address: bytes) -> str:
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def _of_packet(made: dict[str, Any], sides: Mapping[str, Any]) -> dict[str, Any]:
    """A packet; `proto` is the number of its protocol."""
    made = {**made, **sides}
    number = names.TABLES["protocol"].numbers.get(str(made.get("protocol")))
    return made if number is None else {**made, "proto": number}


def _capabilities(bits: int) -> list[str]:
    known = (names.name("capability", number) or f"CAP_{number}" for number in range(bits.bit_length()) if bits >> number & 1)
    return list(map(capability, known))


def _integer(type_: str, number: int | None) -> dict[str, Any]:
    """A number of a sensor, which lies in 64 bits with its sign put in."""
    if number is not None and type_ in words.SIGNED and number >> 63:
        number -= 1 << 64
    match type_:
        case _ if number is None:
            return {}
        case "capability":
            return {"capability_arg": {"value": number, "name": names.name("capability", number) or ""}}
        case "cap_inheritable" | "cap_permitted" | "cap_effective" | "kernel_cap_t":
            return {f"{type_}_arg": f"{number:016x}"}
        case "syscall64":
            return {"syscall_id": {"id": number & _CALL_NUMBER, "abi": "i386" if number & _COMPAT else "x64"}}
    return _numbered(type_, number)


def _file(seen: Observation) -> dict[str, Any]:
    mode = _number(seen.own("file.mode")) if seen.record is None else seen.record.number(abi.NUM_FILE_MODE)
    made: dict[str, Any] = {"path": _text(seen.own("file.path"))}
    return made if mode is None else {**made, "permission": stat.filemode(mode)}


def _text(value: Value | None) -> str:
    return escape(value) if isinstance(value, str | bytes) else ""


def _named(seen: Observation, *wanted: tuple[str, str]) -> dict[str, Any]:
    """The names of numbers, as far as they are known: a member and the table for each; the field is named as the member."""
    found = ((member, table, _number(seen.own(f"net.{member}"))) for member, table in wanted)
    return {member: names.name(table, number) or str(number) for member, table, number in found if number is not None}


def _socket(seen: Observation) -> dict[str, Any]:
    made = _named(seen, ("family", "family"), ("type", "socktype"), ("protocol", "protocol"), ("state", "tcp_state"))
    address, port = seen.own("net.local.ip"), _number(seen.own("net.local.port"))
    if address is not None:
        made["saddr"] = readable(FIELD_BY_NAME["net.local.ip"], address)
    return made if port is None else {**made, "sport": port}


def _both_sides(seen: Observation) -> dict[str, Any]:
    """A socket with its own side and the other one."""
    made = _socket(seen)
    address, port = seen.own("net.peer.ip"), _number(seen.own("net.peer.port"))
    if address is not None:
        made["daddr"] = readable(FIELD_BY_NAME["net.peer.ip"], address)
    return made if port is None else {**made, "dport": port}


def _address(seen: Observation) -> dict[str, Any]:
    made = _named(seen, ("family", "family"))
    address = seen.own("net.peer.ip")
    if address is not None:
        made["addr"] = readable(FIELD_BY_NAME["net.peer.ip"], address)
    port = _number(seen.own("net.peer.port"))
    return made if port is None else {**made, "port": port}


class Repeats:
    """What has been told of rules with a rate limit, and when: of at most MAX_TOLD events, the latest."""

    def __init__(self) -> None:
        self._told: dict[tuple[Any, ...], int] = {}

    def again(self, seen: Observation, rule: RuleKey, limit: Limit, made: Mapping[str, Any]) -> bool:
        """Whether an event that is `made` of the same rule, arguments and thread or process has been told within the limit's time."""
        record = seen.record
        if record is None:
            return False
        who = {"thread": record.tid, "process": record.pid}.get(limit.scope, 0)
        arguments = hashlib.blake2b(str(made.get("args")).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        key = (rule, limit.scope, who, arguments)
        before = self._told.get(key)
        if before is not None and record.time - before < limit.seconds * 1_000_000_000:
            return True
        self._told.pop(key, None)
        self._told[key] = record.time
        if len(self._told) > MAX_TOLD:
            del self._told[next(iter(self._told))]
        return False


class TetragonView:
    """One observation. `sensors`: those of the rules that decided it."""

    refused = False

    def __init__(self, seen: Observation, sensors: Sensors, repeats: Repeats) -> None:
        self._seen = seen
        self._sensors = sensors
        self._repeats = repeats

    def said(self, policy: str, rule: str) -> Said | None:
        """The event of a rule; None where the rule is not known any more."""
        sensor = self._sensors.get((policy, rule))
        if sensor is None:
            return None
        made = details(self._seen, sensor)
        repeated = sensor.limit is not None and self._repeats.again(self._seen, (policy, rule), sensor.limit, made)
        if self._seen.record is not None:
            made["parent_exec_id"] = self._seen.record.parent_exec_id
        return Said(LANGUAGE, sensor.message or _sentence(sensor, made), made, repeated=repeated)


def _sentence(sensor: Sensor, made: Mapping[str, Any]) -> str:
    """The hook and its arguments, in one line."""
    values = (next(iter(argument.values()), "?") for argument in made.get("args", ()))
    texts = (_of_map(value) if isinstance(value, dict) else str(value) for value in values)
    return f"{escape(sensor.function)}({', '.join(texts)})"


def _of_map(value: Mapping[str, Any]) -> str:
    if "path" in value:
        return str(value["path"])
    if "daddr" in value or "saddr" in value:
        return f"{value.get('saddr', '?')}:{value.get('sport', '?')} -> {value.get('daddr', '?')}:{value.get('dport', '?')}"
    if "name" in value:
        return str(value["name"])
    if "id" in value:
        return str(value["id"])
    return ":".join(str(value[key]) for key in ("addr", "port") if key in value) or str(value.get("family", "?"))


def confirm(kept: int) -> Saying[Sensor]:
    """What events say of hooks. `kept`: of how many rule sets records may still come."""
    repeats = Repeats()
    return Saying(kept, sensors, lambda seen, known: TetragonView(seen, known, repeats))


def sensors(rules: TetragonRules) -> Sensors:
    """What is known of each rule."""
    return rules.sensors

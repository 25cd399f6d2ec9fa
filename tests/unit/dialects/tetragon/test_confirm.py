# SPDX-License-Identifier: Apache-2.0
"""What events say of arguments."""

from __future__ import annotations

from typing import Any

import pytest

from bpfence import abi
from bpfence.dialects.tetragon import confirm as confirm_module
from bpfence.dialects.tetragon import wire
from bpfence.dialects.tetragon.confirm import MAX_TOLD, Repeats
from bpfence.dialects.tetragon.confirm import confirm as confirming
from bpfence.dialects.tetragon.dialect import TetragonRules
from bpfence.dialects.tetragon.lower.hooks import Reads
from bpfence.dialects.tetragon.lower.policies import Limit, Sensor, Shown
from bpfence.events.records import KernelEvent, decode
from bpfence.events.source import Observation
from bpfence.events.values import readable
from bpfence.fields import FIELD_BY_NAME
from bpfence.policy import Action, PolicySet
from tests.unit.events.samples import record

json_format = pytest.importorskip("google.protobuf.json_format", reason="needs protobuf: pip install 'bpfence[grpc]'")
FILE = Shown(Reads.FILE, "file", "")


def details(seen: Observation, about: Sensor) -> dict[str, Any]:
    """What is said, which has its place in Tetragon's messages to the last member."""
    made = confirm_module.details(seen, about)
    event = {made["form"]: {name: value for name, value in made.items() if name != "form"}}
    json_format.ParseDict(event, wire.messages()["GetEventsResponse"]())
    return made


def sensor(*arguments: Shown, **more: Any) -> Sensor:
    plain = Sensor("p", "process_kprobe", "f", arguments, "KPROBE_ACTION_POST", "", (), False)
    return plain._replace(**more)


def observed(event: str, numbers: dict[str, int] | None = None, strings: dict[str, bytes] | None = None, **more: Any) -> Observation:
    made = decode("telemetry", record(event, numbers, strings))
    assert isinstance(made, KernelEvent)
    return Observation(event, 0, {}, record=made, **more)


def test_files() -> None:
    seen = observed("file.open", {"NUM_FILE_MODE": 0o100755}, {"STR_FILE_PATH": b"/a\n"})
    for type_, member in (("file", "file_arg"), ("path", "path_arg"), ("linux_binprm", "linux_binprm_arg")):
        made = details(seen, sensor(Shown(Reads.FILE, type_, "what")))
        assert made["args"] == [{member: {"path": "/a\\x0a", "permission": "-rwxr-xr-x"}, "label": "what"}]
    assert details(observed("file.open"), sensor(FILE))["args"] == [{"file_arg": {"path": ""}}]


def test_numbers_have_the_member_of_their_type() -> None:
    seen = observed("file.mmap", {"NUM_FILE_PROT": 3, "NUM_MAP_FLAGS": 2}, {})
    for type_, prot in (
        ("int", {"int_arg": 3}), ("uint32", {"uint_arg": 3}), ("sint64", {"long_arg": "3"}), ("uint64", {"size_arg": "3"}),
        ("size_t", {"size_arg": "3"}),
    ):  # fmt: skip
        assert details(seen, sensor(Shown(Reads.PROTECTION, type_, "")))["args"] == [prot]
    assert details(seen, sensor(Shown(Reads.MAP_FLAGS, "uint32", "")))["args"] == [{"uint_arg": 2}]
    assert details(observed("file.mmap"), sensor(Shown(Reads.MAP_FLAGS, "uint32", "")))["args"] == [{}]


def test_numbers_that_are_fields() -> None:
    seen = observed("kernel.bpf", {"NUM_BPF_CMD": 5})
    for type_, shown in (("bpf_cmd", {"bpf_cmd_arg": "BPF_PROG_LOAD"}), ("int", {"int_arg": 5})):
        assert details(seen, sensor(Shown(Reads.NUMBER, type_, "", field="bpf.cmd")))["args"] == [shown]
    changed = observed("file.chmod", {"NUM_FILE_MODE": 0o640}, {"STR_FILE_PATH": b"/a"})
    both = sensor(Shown(Reads.NAME, "path", ""), Shown(Reads.NUMBER, "uint16", "", field="file.mode"))
    assert details(changed, both)["args"] == [{"path_arg": {"path": "/a"}}, {"uint_arg": 0o640}]


def test_the_mask_is_the_kernels() -> None:
    for access, mask in ((abi.ACCESS_READ, 4), (abi.ACCESS_WRITE, 2), (abi.ACCESS_EXEC, 1), (abi.ACCESS_READ | abi.ACCESS_WRITE, 6)):
        seen = observed("file.permission", {"NUM_FILE_ACCESS": access})
        assert details(seen, sensor(Shown(Reads.ACCESS, "int", "")))["args"] == [{"int_arg": mask}]


def test_addresses() -> None:
    shown = sensor(Shown(Reads.ADDRESS, "sockaddr", ""), Shown(Reads.LENGTH, "int", ""))
    numbers = {"NUM_NET_FAMILY": 2, "NUM_NET_PEER_PORT": 80, "NUM_NET_ADDRLEN": 16}
    seen = observed("net.connect", numbers, {"STR_NET_PEER_IP": bytes((10, 0, 0, 1))})
    assert details(seen, shown)["args"] == [{"sockaddr_arg": {"family": "AF_INET", "addr": "10.0.0.1", "port": 80}}, {"int_arg": 16}]
    assert details(observed("net.connect", {"NUM_NET_FAMILY": 1}), shown)["args"] == [{"sockaddr_arg": {"family": "AF_UNIX"}}, {}]


def test_sockets_and_modules() -> None:
    numbers = {"NUM_NET_FAMILY": 2, "NUM_NET_TYPE": 1, "NUM_NET_PROTOCOL": 6, "NUM_NET_LOCAL_PORT": 5}
    seen = observed("net.connect", numbers, {"STR_NET_LOCAL_IP": bytes((10, 0, 0, 1))})
    socket = {"family": "AF_INET", "type": "SOCK_STREAM", "protocol": "IPPROTO_TCP", "saddr": "10.0.0.1", "sport": 5}
    assert details(seen, sensor(Shown(Reads.SOCKET, "socket", "")))["args"] == [{"sock_arg": socket}]
    shown = sensor(Shown(Reads.MODULE, "string", ""), Shown(Reads.CONSTANT, "int", "", 2))
    assert details(observed("kernel.module", {}, {"STR_MODULE_NAME": b"a\n"}), shown)["args"] == [{"string_arg": "a\\x0a"}, {"int_arg": 2}]


def test_returns_are_what_was_decided() -> None:
    for action, value in ((Action.OBSERVE, 0), (Action.DENY, -13)):
        seen = observed("file.open", action=action, error=13)
        assert details(seen, sensor(returns=True))["return"] == {"int_arg": value}
    assert "return" not in details(observed("file.open"), sensor())


def test_rules_are_known_by_policy_and_generation() -> None:
    confirm = confirming(kept=2)
    for generation in (1, 2, 3):
        confirm.use(generation, TetragonRules(PolicySet(), {("p", "r"): sensor(FILE, message=f"m{generation}")}), [])
    told = [confirm.view(observed("file.open", generation=generation)).said("p", "r") for generation in (1, 2, 3)]
    assert [None if said is None else said.message for said in told] == [None, "m2", "m3"]
    assert confirm.view(observed("file.open", generation=3)).said("other", "r") is None
    confirm.use(4, None, [])
    assert confirm.view(observed("file.open", generation=4)).said("p", "r") is None


def test_a_message_of_its_own() -> None:
    confirm = confirming(kept=1)
    arguments = (FILE, Shown(Reads.ACCESS, "int", ""))
    confirm.use(1, TetragonRules(PolicySet(), {("p", "r"): sensor(*arguments)}), [])
    said = confirm.view(observed("file.permission", {"NUM_FILE_ACCESS": 1}, {"STR_FILE_PATH": b"/a"}, generation=1)).said("p", "r")
    assert said is not None
    assert (said.message, said.details["parent_exec_id"]) == ("f(/a, 4)", 0x700000)


def told(shown: Shown, numbers: dict[str, int] | None = None, strings: dict[str, bytes] | None = None) -> dict[str, Any]:
    """What an event of a sensor says of one argument."""
    (made,) = details(observed("sensor.kprobe", numbers, strings), sensor(shown))["args"]
    return dict(made)


def test_numbers_of_sensors() -> None:
    for type_, number, shown in (
        ("int", 2**64 - 1, {"int_arg": -1}), ("int64", 2**64 - 5, {"long_arg": "-5"}), ("uint32", 7, {"uint_arg": 7}),
        ("uint64", 2**64 - 1, {"size_arg": str(2**64 - 1)}), ("capability", 7, {"capability_arg": {"value": 7, "name": "CAP_SETUID"}}),
        ("syscall64", 1, {"syscall_id": {"id": 1, "abi": "x64"}}),
    ):  # fmt: skip
        kind = "sint64" if type_ == "int64" else type_
        assert told(Shown(Reads.INTEGER, kind, "", field="sensor.number1"), {"NUM_SENSOR_1": number}) == shown
    assert told(Shown(Reads.INTEGER, "int", "", field="sensor.number1")) == {}


def test_texts_of_sensors() -> None:
    text = {"STR_SENSOR_2": b"a\n"}
    for type_, shown in (
        ("string", {"string_arg": "a\\x0a"}), ("filename", {"string_arg": "a\\x0a"}), ("module", {"module_arg": {"name": "a\\x0a"}}),
        ("net_device", {"net_dev_arg": {"name": "a\\x0a"}}),
    ):  # fmt: skip
        assert told(Shown(Reads.TEXT, type_, "", field="sensor.text2"), {}, text) == shown


def test_bytes_of_sensors() -> None:
    shown = Shown(Reads.TEXT, "char_buf", "", field="sensor.text0")
    assert told(shown, {"NUM_SENSOR_0": 3}, {"STR_SENSOR_0": b"a\xff\0"}) == {"bytes_arg": "Yf8A"}
    assert told(shown, {"NUM_SENSOR_0": 9}, {"STR_SENSOR_0": b"a\xff\0"}) == {
        "truncated_bytes_arg": {"bytes_arg": "Yf8A", "orig_size": "9"}
    }
    assert told(shown) == {"bytes_arg": ""}


def test_files_and_sockets_of_sensors() -> None:
    second = Shown(Reads.PLACE, "path", "", field="file.new_path")
    assert told(second, {}, {"STR_FILE_NEW_PATH": b"/b"}) == {"path_arg": {"path": "/b"}}
    sides = {"NUM_NET_FAMILY": 2, "NUM_NET_LOCAL_PORT": 1, "NUM_NET_PEER_PORT": 80}
    addresses = {"STR_NET_LOCAL_IP": bytes((10, 0, 0, 1)), "STR_NET_PEER_IP": bytes((10, 0, 0, 2))}
    made = told(Shown(Reads.SOCK, "sock", ""), sides, addresses)
    assert made == {"sock_arg": {"family": "AF_INET", "saddr": "10.0.0.1", "sport": 1, "daddr": "10.0.0.2", "dport": 80}}


def test_structures_of_sensors() -> None:
    cred = abi.SENSOR_CRED_STRUCT.pack(1, 2, 3, 4, 5, 6, 7, 8, 0x11, 4026531837, 1 << 7, 1 << 7 | 1, 0)
    assert told(Shown(Reads.WHOLE, "cred", "", constant=1), {}, {"STR_SENSOR_WHOLE_1": cred}) == {
        "process_credentials_arg": {
            "uid": 1,
            "gid": 2,
            "suid": 3,
            "sgid": 4,
            "euid": 5,
            "egid": 6,
            "fsuid": 7,
            "fsgid": 8,
            "caps": {"permitted": ["CAP_SETUID"], "effective": ["CAP_CHOWN", "CAP_SETUID"]},
            "user_ns": {"ns": {"inum": 4026531837}},
            "securebits": ["SecBitNoRoot", "SecBitKeepCaps"],
        }
    }
    space = Shown(Reads.WHOLE, "user_namespace", "")
    assert told(space, {}, {"STR_SENSOR_WHOLE_0": abi.SENSOR_USER_NS_STRUCT.pack(1, 2, 3, 4)}) == {
        "user_ns_arg": {"level": 1, "uid": 2, "gid": 3, "ns": {"inum": 4}}
    }
    assert told(space) == told(space, {}, {"STR_SENSOR_WHOLE_0": b"x"}) == {}


@pytest.mark.parametrize(
    ("family", "addresses", "expected"),
    [
        (2, (b"\x0a\0\0\x01" + bytes(12), b"\x0a\0\0\x02" + bytes(12)), ("AF_INET", "10.0.0.1", "10.0.0.2")),
        (10, (bytes(15) + b"\x01", bytes(10) + b"\xff\xff\x0a\0\0\x02"), ("AF_INET6", "::1", "10.0.0.2")),
    ],
)
def test_whole_sockets_and_packets(family: int, addresses: tuple[bytes, bytes], expected: tuple[str, str, str]) -> None:
    name, source, destination = expected
    whole = {"STR_SENSOR_WHOLE_0": abi.SENSOR_SOCK_STRUCT.pack(family, 1, 6, 10, 80, 81, 60, *addresses)}
    sides = {"family": name, "protocol": "IPPROTO_TCP", "saddr": source, "daddr": destination, "sport": 80, "dport": 81}
    made = {**sides, "type": "SOCK_STREAM", "state": "TCP_LISTEN"}
    assert told(Shown(Reads.WHOLE, "sock", ""), {}, whole) == told(Shown(Reads.WHOLE, "socket", ""), {}, whole) == {"sock_arg": made}
    assert told(Shown(Reads.WHOLE, "skb", ""), {}, whole) == {"skb_arg": {"len": 60, **sides, "proto": 6}}


def test_a_packet_of_nothing_that_is_known_has_a_length() -> None:
    whole = abi.SENSOR_SOCK_STRUCT.pack(0, 0, 0, 0, 0, 0, 60, bytes(16), bytes(16))
    assert told(Shown(Reads.WHOLE, "skb", ""), {}, {"STR_SENSOR_WHOLE_0": whole}) == {"skb_arg": {"len": 60}}


def test_what_bpf_and_perf_are_given() -> None:
    data = {"STR_SENSOR_WHOLE_0": abi.SENSOR_BPF_STRUCT.pack(1, 4, 8, 3, b"a\x1b")}
    program = {"ProgType": "BPF_PROG_TYPE_SOCKET_FILTER", "InsnCnt": 4, "ProgName": "a\\x1b"}
    assert told(Shown(Reads.WHOLE, "bpf_attr", ""), {}, data) == {"bpf_attr_arg": program}
    assert told(Shown(Reads.WHOLE, "bpf_prog", ""), {}, data) == {"bpf_prog_arg": program}
    array = {"MapType": "BPF_MAP_TYPE_HASH", "KeySize": 4, "ValueSize": 8, "MaxEntries": 3, "MapName": "a\\x1b"}
    assert told(Shown(Reads.WHOLE, "bpf_map", ""), {}, data) == {"bpf_map_arg": array}
    for kind, name in ((1, "PERF_TYPE_SOFTWARE"), (8, "8")):
        data = {"STR_SENSOR_WHOLE_0": abi.SENSOR_PERF_STRUCT.pack(7, 16, kind, 0, b"do_exit")}
        made = {"KprobeFunc": "do_exit", "Type": name, "Config": "7", "ProbeOffset": "16"}
        assert told(Shown(Reads.WHOLE, "perf_event", ""), {}, data) == {"perf_event_arg": made}


def test_tracepoints_have_a_subsystem() -> None:
    made = details(observed("sensor.tracepoint"), sensor(form="process_tracepoint", function="sched/sched_process_exec"))
    assert (made["subsys"], made["event"], "function_name" in made) == ("sched", "sched_process_exec", False)


def test_programs_and_libraries_have_a_path_in_place_of_a_function() -> None:
    members = {"path": "/bin/\x1bx", "symbol": "main"}
    made = details(observed("sensor.uprobe"), sensor(form="process_uprobe", function="/bin/x:main", members=members))
    assert (made["path"], made["symbol"], "function_name" in made) == ("/bin/\\x1bx", "main", False)
    made = details(observed("sensor.usdt"), sensor(form="process_usdt", members={"path": "/x", "provider": "p", "name": "n"}))
    assert [made[key] for key in ("form", "path", "provider", "name")] == ["process_usdt", "/x", "p", "n"]


def test_what_is_alike_is_told_once_in_a_time() -> None:
    second, limit, rule = 1_000_000_000, Limit(5, "thread"), ("p", "r")

    def seen(time: int, tid: int = 1, pid: int = 1) -> Observation:
        made = decode("telemetry", record("sensor.kprobe", time=time, tid=tid, pid=pid))
        assert isinstance(made, KernelEvent)
        return Observation("sensor.kprobe", 0, {}, record=made)

    repeats, made = Repeats(), {"args": [{"int_arg": 1}]}
    assert [repeats.again(seen(at), rule, limit, made) for at in (0, 4 * second, 5 * second, 6 * second)] == [False, True, False, True]
    assert not repeats.again(seen(6 * second), rule, limit, {"args": [{"int_arg": 2}]})
    assert not repeats.again(seen(6 * second), ("p", "other"), limit, made)
    assert not repeats.again(seen(6 * second, tid=2), rule, limit, made)
    assert not repeats.again(seen(6 * second), rule, Limit(5, "process"), made)
    assert repeats.again(seen(7 * second, tid=2), rule, Limit(5, "process"), made)
    assert not repeats.again(seen(7 * second), rule, Limit(5, "global"), made)
    assert repeats.again(seen(8 * second, tid=9, pid=9), rule, Limit(5, "global"), made)
    for number in range(MAX_TOLD):
        repeats.again(seen(8 * second), rule, limit, {"args": [number]})
    assert not repeats.again(seen(8 * second), rule, limit, made)  # forgotten: it is told again


@pytest.mark.parametrize(("kind", "shown"), [("sint64", str(-1)), ("uint64", str(2**64 - 1)), ("size_t", str(2**64 - 1)), ("int", -1)])
def test_a_number_is_negative_only_where_its_type_has_a_sign(kind: str, shown: object) -> None:
    one = Shown(Reads.INTEGER, kind, "", field="sensor.number0")
    (made,) = told(one, {"NUM_SENSOR_0": 2**64 - 1}).values()
    assert made == shown


def test_the_fields_of_sensors_have_no_sign_of_their_own() -> None:
    assert readable(FIELD_BY_NAME["sensor.number0"], 2**64 - 1) == 2**64 - 1
    assert readable(FIELD_BY_NAME["file.dirfd"], 2**64 - 100) == -100

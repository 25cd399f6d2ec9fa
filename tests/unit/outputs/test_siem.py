# SPDX-License-Identifier: Apache-2.0
"""CEF, read again by a reader of its grammar, and OCSF, judged by a schema: what its Detection Finding requires, and the names it has."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpfence import abi
from bpfence.alerts.alert import Alert, Line, RuleInfo
from bpfence.alerts.lines import LineWriter
from bpfence.fields import EVENTS
from bpfence.outputs.choice import MEMBERS, redacted
from bpfence.outputs.forms import FORMS, SHOWN, members
from bpfence.outputs.siem import OCSF_VERSION, milliseconds
from bpfence.policy import Action
from tests.unit.alerts.test_lines import TEXTS, VALUES, bench
from tests.unit.events.samples import record
from tests.unit.outputs.test_choice import COMPOSER, DROPPED, LOSS, STARTED

CEF, OCSF = FORMS["cef"](), FORMS["ocsf"]()
HOSTILE = "a=b|c\\d e=f cs1=x\u202e\x1b[2J\nnext CEF:0|x|y|z|0|n|10|"


def alert(event: str = "file.open", strings: dict[str, bytes] | None = None, numbers: dict[str, int] | None = None, **more: Any) -> Line:
    source, seen = bench(record(event, numbers, strings))
    given = {"policy": "guard", "rule": "r", "mode": "enforce", "action": Action.DENY, "declared": Action.DENY, **more}
    [line] = LineWriter(COMPOSER, source).lines(seen, [(RuleInfo(**given), False)], (), {})
    return line


def read_cef(line: bytes) -> tuple[list[str], dict[str, str]]:
    """Header and extension by CEF's grammar: a bar that no backslash is before ends a part, a word with "=" begins a value."""
    text = line.decode()
    assert "\n" not in text
    assert "\r" not in text
    parts = re.findall(r"((?:[^\\|]|\\.)*)\|", text)[:7]
    rest = text[sum(len(part) + 1 for part in parts) :]
    found: dict[str, str] = {}
    begins = list(re.finditer(r"(?:^| )([A-Za-z0-9]+)=", rest))
    # "=" inside of a value has a backslash before it, so what is found here are keys.
    for begin, after in zip(begins, [*begins[1:], None], strict=True):
        value = rest[begin.end() : after.start() if after is not None else len(rest)]
        assert begin[1] not in found, line
        assert not re.search(r"(?<!\\)(?:\\\\)*=", value), line
        found[begin[1]] = re.sub(r"\\(.)", lambda quoted: {"n": "\n", "r": "\r"}.get(quoted[1], quoted[1]), value)
    return [re.sub(r"\\(.)", r"\1", part) for part in parts], found


TEXT = {"type": "string", "minLength": 1}
WHOLE = {"type": "integer", "minimum": 0}


def closed(required: tuple[str, ...], **known: Any) -> dict[str, Any]:
    return {"type": "object", "properties": known, "required": list(required), "additionalProperties": False}


FILE = closed(("name", "type_id"), name=TEXT, path=TEXT, type_id={"enum": [0]}, type={"const": "Unknown"})
PROCESS = closed(
    (),
    pid=WHOLE,
    uid=TEXT,
    name=TEXT,
    cmd_line=TEXT,
    file=FILE,
    user=closed((), uid=TEXT),
    created_time=WHOLE,
    parent_process=closed(("pid",), pid=WHOLE),
) | {"anyOf": [{"required": ["pid"]}, {"required": ["uid"]}]}
ENDPOINT = closed((), ip={"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}, port={**WHOLE, "maximum": 0xFFFFFFFF})
COMMON = {
    "time": WHOLE, "severity_id": {"enum": [1, 2, 3, 4, 5]}, "severity": TEXT, "message": {"type": "string"},
    "unmapped": {"type": "object"},
    "device": closed(("type_id",), hostname=TEXT, type_id={"enum": [0]}, type=TEXT),
    "metadata": closed(
        ("product", "version"), version={"const": OCSF_VERSION}, original_time=TEXT, sequence=WHOLE,
        product=closed(("name", "vendor_name"), name=TEXT, vendor_name=TEXT, version=TEXT), profiles={"type": "array", "items": TEXT},
    ),
}  # fmt: skip
CLASSES = ("activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid")
FINDING = closed(
    (*CLASSES, "finding_info"),
    **COMMON,
    class_uid={"const": 2004},
    class_name=TEXT,
    category_uid={"const": 2},
    category_name=TEXT,
    type_uid={"const": 200401},
    activity_id={"const": 1},
    activity_name={"const": "Create"},
    status_id={"const": 1},
    status={"const": "New"},
    action_id={"enum": [1, 2]},
    action={"enum": ["Allowed", "Denied"]},
    disposition_id={"enum": [2, 17, 19]},
    disposition=TEXT,
    is_alert={"type": "boolean"},
    confidence_id={"enum": [1, 3]},
    confidence=TEXT,
    policy=closed((), name=TEXT),
    finding_info=closed(
        ("uid",),
        uid=TEXT,
        title=TEXT,
        created_time=WHOLE,
        types={"type": "array", "items": TEXT, "minItems": 1},
        analytic=closed(("type_id",), type_id={"const": 1}, type={"const": "Rule"}, name=TEXT, uid=TEXT),
        tags={"type": "array", "items": closed(("name",), name=TEXT, values={"type": "array", "items": {"type": "string"}})},
        attacks={"type": "array", "items": closed((), technique=closed((), uid=TEXT), sub_technique=closed((), uid=TEXT))},
    ),
    evidences={
        "type": "array",
        "maxItems": 1,
        "items": closed(
            (),
            name=TEXT,
            actor=closed((), process=PROCESS),
            process=PROCESS,
            file=FILE,
            src_endpoint=ENDPOINT,
            dst_endpoint=ENDPOINT,
            container=closed((), uid=TEXT, name=TEXT, runtime=TEXT, image=closed(("uid",), uid=TEXT, name=TEXT)),
        )
        | {"anyOf": [{"required": [name]} for name in ("actor", "process", "file", "src_endpoint", "dst_endpoint")]},
    },
    resources={"type": "array", "items": closed((), type=TEXT, name=TEXT, namespace=TEXT, uid=TEXT)},
)
BASE = closed(
    CLASSES,
    **COMMON,
    class_uid={"const": 0},
    class_name=TEXT,
    category_uid={"const": 0},
    category_name=TEXT,
    type_uid={"const": 99},
    activity_id={"const": 99},
    activity_name=TEXT,
)
JUDGES = {
    uid: jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()) for uid, schema in ((2004, FINDING), (0, BASE))
}


def judged(line: bytes) -> Any:
    assert b"\n" not in line
    found = json.loads(line)
    JUDGES[found["class_uid"]].validate(found)
    assert found["type_uid"] == found["class_uid"] * 100 + found["activity_id"]
    return found


def whole_alert(**more: Any) -> Alert:
    """An alert with a container and a pod."""
    container = {"id": "c1", "name": HOSTILE, "runtime": "runc", "image": "img", "digest": "sha256:1"}
    pod = {"namespace": "shop", "pod": "p-1", "uid": "u"}
    made = alert("net.connect", {"STR_NET_PEER_IP": bytes([192, 0, 2, 1])}, {"NUM_NET_PEER_PORT": 443})
    return msgspec.structs.replace(made.alert, container=container, k8s=pod, **more)  # type: ignore[union-attr]


def test_cef_says_who_did_what_to_what() -> None:
    head, keys = read_cef(CEF(alert(strings={"STR_FILE_PATH": b"/etc/shadow"}, severity="high", tags=("T1003", "x"))))
    assert head[:3] == ["CEF:0", "bpfence", "bpfence"]
    assert head[4:] == ["guard/r", "file.open: r", "8"]
    assert (keys["filePath"], keys["fname"], keys["act"], keys["outcome"], keys["reason"]) == (
        "/etc/shadow", "shadow", "deny", "failure", "EPERM",
    )  # fmt: skip
    assert (keys["spid"], keys["suid"], keys["dvchost"], keys["cat"]) == ("412", "1000", "h", "file.open")
    assert (keys["cs1Label"], keys["cs1"], keys["cs6"]) == ("policy", "guard", "T1003 x")
    assert keys["rt"].isdigit()


def test_cef_of_connections_and_containers() -> None:
    _, keys = read_cef(CEF(whole_alert()))
    assert (keys["dst"], keys["dpt"], keys["cs5"]) == ("192.0.2.1", "443", "shop/p-1")
    assert keys["cs4"] == HOSTILE
    six = alert("net.accept", {"STR_NET_LOCAL_IP": bytes(15) + b"\1"}, {"NUM_NET_LOCAL_PORT": 80})
    _, keys = read_cef(CEF(six))
    assert (keys["c6a3"], keys["c6a3Label"], keys["dpt"]) == ("::1", "Destination IPv6 Address", "80")


def test_cef_keeps_to_its_lengths() -> None:
    _, keys = read_cef(CEF(alert(strings={"STR_FILE_PATH": b"/" + b"=" * 2000})))
    assert len(keys["filePath"]) == 1023
    assert keys["filePath"].endswith("…")


def test_hostile_texts_stay_inside_of_their_values() -> None:
    data = HOSTILE.encode()
    line = alert(
        strings={"STR_FILE_PATH": b"/" + data, "STR_PROCESS_ARGS": data}, policy=HOSTILE, rule=HOSTILE, message=HOSTILE, tags=(HOSTILE,)
    )
    head, keys = read_cef(CEF(line))
    shown = members(line)
    assert (head[4], head[6]) == (f"{shown['policy']}/{shown['rule']}", "5")
    assert (keys["filePath"], keys["cs1"], keys["msg"]) == (shown["file"]["path"], shown["policy"], shown["message"])
    found = judged(OCSF(line))
    assert found["evidences"][0]["file"]["path"] == shown["file"]["path"]
    assert found["policy"]["name"] == shown["policy"]


def test_ocsf_is_a_finding_with_its_evidence() -> None:
    found = judged(OCSF(whole_alert(tags=("T1059.004", "T1003", "mine"))))
    assert (found["action"], found["disposition"], found["is_alert"], found["severity"]) == ("Denied", "Blocked", True, "Medium")
    assert found["finding_info"]["attacks"] == [
        {"technique": {"uid": "T1059"}, "sub_technique": {"uid": "T1059.004"}},
        {"technique": {"uid": "T1003"}},
    ]
    [evidence] = found["evidences"]
    assert evidence["dst_endpoint"] == {"ip": "192.0.2.1", "port": 443}
    assert evidence["container"]["image"] == {"uid": "sha256:1", "name": "img"}
    assert (evidence["actor"]["process"]["pid"], found["resources"][0]["namespace"]) == (412, "shop")
    assert found["unmapped"]["bpfence"]["net"]["peer"]["port"] == 443


@pytest.mark.parametrize(("action", "told"), [("AUDIT", ("Allowed", "Alert", True)), ("OBSERVE", ("Allowed", "Logged", False))])
def test_ocsf_tells_what_came_of_it(action: str, told: tuple[str, str, bool]) -> None:
    found = judged(OCSF(alert(action=Action[action])))
    assert (found["action"], found["disposition"], found["is_alert"]) == told


def test_findings_differ_by_event_and_rule() -> None:
    lines = [alert(), alert(), alert(rule="s")]
    assert len({judged(OCSF(line))["finding_info"]["uid"] for line in lines}) == 3


@pytest.mark.parametrize("line", [LOSS, DROPPED, STARTED])
def test_losses_and_statuses(line: Line) -> None:
    found = judged(OCSF(line))
    assert found["message"] == members(line)["message"]
    head, keys = read_cef(CEF(line))
    assert head[4] == f"bpfence:{found['activity_name']}"
    assert keys["msg"] == found["message"]


@given(
    st.sampled_from(EVENTS),
    st.dictionaries(st.sampled_from(sorted(abi.NUM_SLOT)), VALUES, max_size=40),
    st.dictionaries(st.sampled_from(sorted(abi.STR_SLOT)), TEXTS),
    st.sampled_from(list(Action)),
    st.lists(st.sampled_from(sorted(MEMBERS)), max_size=4),
)
def test_whatever_an_event_holds_and_whatever_is_left_out(
    event: Any, numbers: dict[str, int], strings: dict[str, bytes], action: Action, hidden: list[str]
) -> None:
    line = alert(event.name, strings, numbers, action=action, message="{process.exe} {file.path}")
    read_cef(CEF(line))
    judged(OCSF(line))
    _, keys = read_cef(redacted(hidden, SHOWN["cef"]())(line))
    assert keys["msg"] == f"{event.name} matched guard/r"
    judged(redacted(hidden, SHOWN["ocsf"]())(line))


def test_what_is_left_out_is_in_neither() -> None:
    line = alert(strings={"STR_FILE_PATH": b"/secret", "STR_PROCESS_ARGS": b"cat\0/secret\0"}, message="{file.path} {process.args}")
    for name in ("cef", "ocsf"):
        assert b"secret" in FORMS[name]()(line)
        assert b"secret" not in redacted(["file", "args"], SHOWN[name]())(line)


def test_times_are_whole_milliseconds() -> None:
    assert milliseconds("1970-01-01T00:00:01.234999999Z") == 1234

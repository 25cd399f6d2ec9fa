# SPDX-License-Identifier: Apache-2.0
"""What a user may say of an output, and what comes of it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bpfence.alerts.alert import Composer
from bpfence.errors import UsageError
from bpfence.outputs.places import File, Rotated, Stream
from bpfence.outputs.remote import Datagrams, Streamed
from bpfence.outputs.routes import open_outputs
from bpfence.outputs.specs import FACILITIES, KINDS, Queue, Rotate, Spec, Tls, check, opened, seconds_of, size_of, spec_of
from bpfence.outputs.webhook import Webhook
from tests.unit.outputs.servers import certificate
from tests.unit.outputs.test_choice import COMPOSER, alert

ROOT = Path(__file__).resolve().parents[3]


def made(value: Any, said: list[str] | None = None) -> Any:
    return opened(spec_of(value), io.StringIO(), (said if said is not None else []).append)


@pytest.mark.parametrize(
    ("to", "place"),
    [
        ("-", Stream), ("auto", Stream), ("tetragon", Stream), ("unix:/run/x.sock", Streamed), ("syslog:unix:/dev/log", Datagrams),
        ("syslog:udp:192.0.2.1:514", Datagrams), ("syslog:tcp:[::1]:514", Streamed), ("syslog:tls:logs.example.org:6514", Streamed),
        ("http://localhost:2801/", Webhook), ("https://example.org/x?y=z", Webhook),
    ],
)  # fmt: skip
def test_places(to: str, place: type) -> None:
    assert type(made(to).place) is place


def test_the_name_of_a_webhook_keeps_the_rest_of_its_url_to_itself() -> None:
    assert made("https://example.org:8443/secret?key=word").place.name == "https://example.org:8443"
    assert made({"to": "https://example.org/secret", "name": "hook"}).place.name == "hook"


def test_all_that_can_be_said(tmp_path: Path) -> None:
    ours = certificate(tmp_path, "ours")
    (tmp_path / "word").write_text("secret\n")
    found = made(
        {
            "to": "https://example.org/", "form": "falco", "severity": "high", "policies": ["a*"], "namespaces": ["shop"],
            "queue": {"lines": 10, "size": "1MiB"}, "tls": {"ca": ours[0], "certificate": ours[0], "key": ours[1]}, "batch": 5,
            "secret-file": str(tmp_path / "word"), "token-file": str(tmp_path / "word"),
        }
    )  # fmt: skip
    assert (found.max_lines, found.max_bytes) == (10, 1 << 20)
    assert found.place._secret() == b"secret"
    assert found.form(alert(severity="low")) is None
    log = made({"to": "syslog:udp:127.0.0.1:9", "facility": "local3", "redact": ["args"]})
    assert log.form(alert(severity="low")).startswith(b"<157>1 ")
    assert b"cat" not in log.form(alert())
    file = made({"to": f"jsonl:{tmp_path}/a", "rotate": {"size": "1MiB", "every": "1d", "keep": 3}}).place
    assert isinstance(file, Rotated)
    assert (file._size, file._seconds, file._keep) == (1 << 20, 86400, 3)
    file.close()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"to": "nope:x"}, "unknown output 'nope:x'"),
        ({"to": "syslog:udp:host"}, "unknown output"),
        ({"to": "syslog:tcp:a b:514"}, "unknown output"),
        ({"to": "syslog:sctp:a:514"}, "unknown output"),
        ({"to": "https:///x"}, "unknown output"),
        ({"to": "https://h:99999/"}, "unknown output"),
        ({"to": "https://user:word@example.org/"}, "token-file"),
        ({"form": "native"}, "missing required field 'to'"),
        ({"to": "-", "sevrity": "low"}, "sevrity"),
        ({"to": "-", "severity": "grave"}, "severity"),
        ({"to": "unix:/x", "batch": 5}, "'batch' is nothing to output"),
        ({"to": "unix:/x", "rotate": {"size": 5}}, "'rotate' is nothing to output"),
        ({"to": "http://localhost/", "tls": {}}, "'tls' is nothing to output"),
        ({"to": "unix:/x", "facility": "local1"}, "'facility' is nothing to output"),
        ({"to": "syslog:unix:/x", "facility": "local9"}, "facility 'local9'"),
        ({"to": "falco", "form": "native"}, "says its form itself"),
        ({"to": "unix:/x", "form": "falco", "redact": ["args"]}, "forms native, cef, ocsf alone"),
        ({"to": "unix:/x", "redact": ["process.argz"]}, "'argz' is no member"),
        ({"to": "jsonl:x", "rotate": {}}, "takes a size"),
        ({"to": "jsonl:x", "rotate": {"size": "10 MB"}}, "is no size"),
        ({"to": "jsonl:x", "rotate": {"every": "1 day"}}, "is no time"),
        ({"to": "-", "queue": {"lines": 0}}, "'queue' holds"),
        ({"to": "https://h/", "batch": 20000}, "'batch' is 1 to"),
        ({"to": "https://h/", "tls": {"ca": "/nonexistent"}}, "tls: /nonexistent cannot be used"),
        ({"to": "https://h/", "token-file": "/nonexistent"}, "token-file: /nonexistent cannot be used"),
        ({"to": "https://h/", "tls": {"key": "/x"}}, "goes with"),
        ({"to": "loki:h:3100"}, "unknown output"),
        ({"to": "elastic:https://h:9200"}, "ends with an index"),
        ({"to": "elastic:https://h:9200/a?b=c"}, "ends with an index"),
        ({"to": "elastic:https://h:9200/a b"}, "ends with an index"),
        ({"to": "elastic:https://u:w@h:9200/a"}, "token-file"),
        ({"to": "elastic:https://h/a", "form": "cef"}, "stores JSON objects"),
        ({"to": "elastic:https://h/a", "tenant": "x"}, "'tenant' is nothing to output"),
        ({"to": "loki:https://h/", "tenant": "x\ny"}, "'tenant' is a word"),
        ({"to": "loki:http://h/", "tls": {}}, "'tls' is nothing to output"),
        ({"to": "loki:http://h/", "token-scheme": "Basic"}, "'token-scheme' goes with"),
    ],
)
def test_mistakes(value: Any, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        made(value)
    assert said in str(caught.value).replace("`", "'")


def test_two_outputs_have_two_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two outputs have the name"):
        open_outputs([Spec(to="http://localhost/a"), Spec(to="http://localhost/b")], pytest.fail)
    outputs = open_outputs([Spec(to="http://localhost/a", name="a"), Spec(to="http://localhost/b", name="b")], pytest.fail)
    assert [queue.name for queue in outputs.queues()] == ["a", "b"]
    outputs.close()


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("5KiB", 5120), ("2MiB", 2 << 20), ("1GiB", 1 << 30), (77, 77)])
def test_sizes(text: str | int, size: int) -> None:
    assert size_of(text) == size


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("2m", 120), ("1h", 3600), ("7d", 604800)])
def test_times(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


def test_an_output_of_its_own_beside_another(tmp_path: Path) -> None:
    """Each has its form and its filter; what one does not want is no loss."""
    outputs = open_outputs(
        [Spec(to=f"jsonl:{tmp_path}/all"), Spec(to=f"jsonl:{tmp_path}/high", form="falco", severity="high")], pytest.fail
    )
    assert isinstance(outputs._routes[0].sink.place, File)
    outputs.write([alert(severity="low"), alert(severity="high"), Composer("h", lambda: 0).status("started", "x")])
    outputs.close()
    assert len((tmp_path / "all").read_text().splitlines()) == 3
    assert [json.loads(line)["priority"] for line in (tmp_path / "high").read_text().splitlines()] == ["Error"]
    assert outputs.lost_lines() == {}


def test_all_is_documented() -> None:
    text = (ROOT / "docs" / "outputs.md").read_text()
    for spec in (Spec, Rotate, Queue, Tls):
        for name in spec.__struct_encode_fields__:
            assert f"`{name}`" in text or f"`{name}:" in text or re.search(rf"\b{name}:", text), name
    for kind in KINDS:
        assert f"`{kind}`" in text, kind
    for facility in ("kern", "daemon", "local0"):
        assert facility in FACILITIES
        assert facility in text


def test_what_is_checked_opens_nothing(tmp_path: Path) -> None:
    check(Spec(to=f"jsonl:{tmp_path}/x"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", ["https://h/a b", "loki:http://h/\u00e4", "otlp:https://h/v1/logs?a=\x7f"])
def test_a_url_that_no_request_can_have_is_refused_at_the_start(to: str) -> None:
    with pytest.raises(UsageError, match="of ASCII without blanks"):
        check(Spec(to=to))


@pytest.mark.parametrize(
    "to",
    [
        "syslog:udp:127.0.0.1:514", "loki:http://127.0.0.1:3100", "otlp:http://127.0.0.1:4318", "kafka:127.0.0.1:9092/t",
        "elastic:http://127.0.0.1:9200/i", "http://127.0.0.1:80/",
    ],
)  # fmt: skip
def test_the_host_is_left_out_around_the_line_too(to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if to.startswith("kafka"):
        pytest.importorskip("confluent_kafka")
    monkeypatch.setattr(COMPOSER, "host", "secret-host")
    monkeypatch.setattr("bpfence.outputs.specs.host_name", lambda: "secret-host")
    for redact, there in (((), True), (("host",), False)):
        form, place, *_ = opened(spec_of({"to": to, **({"redact": [*redact]} if redact else {})}), io.StringIO(), print)
        line = form(alert())
        sent = place.content([line])[0] if isinstance(place, Webhook) else line
        assert (b"secret-host" in sent) is there, sent

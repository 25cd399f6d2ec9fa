# SPDX-License-Identifier: Apache-2.0
"""What a user has said of an output in, its form, its place and its queue out.

Called by `routes` with the texts of `--output` and with the maps of the configuration file (docs/outputs.md). Files that are named here
(certificates, keys) are read when a connection is made, and once at the start, so that a mistake ends that.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

import msgspec

from bpfence.alerts.alert import host_name
from bpfence.errors import UsageError
from bpfence.outputs import sink
from bpfence.outputs.choice import chosen, redacted, unknown
from bpfence.outputs.forms import FORMS, SHOWN, Chosen, Form, recoded
from bpfence.outputs.places import File, Place, Rotated, Stream

if TYPE_CHECKING:
    import ssl

KINDS: Final = (
    "auto", "-", "rich", "jsonl:PATH", "falco", "falco-text", "tetragon", "kubearmor", "unix:PATH", "syslog:unix:PATH",
    "syslog:udp:HOST:PORT", "syslog:tcp:HOST:PORT", "syslog:tls:HOST:PORT", "http://…", "https://…", "cef", "ocsf",
    "loki:URL", "elastic:URL/INDEX", "otlp:URL", "kafka:HOST:PORT/TOPIC",
)  # fmt: skip
FORMATS: Final = ("native", "falco", "falco-text", "tetragon", "kubearmor", "cef", "ocsf")
FACILITIES: Final = {
    "kern": 0, "user": 1, "daemon": 3, "auth": 4, "syslog": 5, "authpriv": 10, **{f"local{number}": 16 + number for number in range(8)},
}  # fmt: skip
"""By the names of syslog.conf(5): RFC 5424, 6.2.1."""
FACILITY: Final = "daemon"
STORES: Final = ("loki", "elastic", "otlp")
REQUESTS: Final = ("http", "https", *(f"{store}:{scheme}" for store in STORES for scheme in ("http", "https")))
"""Outputs over HTTP, each without TLS and with it."""
KEEP: Final = 5
BATCH: Final = 100
_SIZES: Final = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_TIMES: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SECRET_BYTES: Final = 64 << 10


class Rotate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a file is begun anew: at that `size` ("100MiB"), and when another period begins ("1d", from midnight UTC on)."""

    size: int | str = 0
    every: str = ""
    keep: int = KEEP


class Queue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may wait, in lines and in bytes."""

    lines: int = sink.MAX_LINES
    size: int | str = sink.MAX_BYTES


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files in PEM: who is believed (the system's, without), and who we are. `name`: whom the other side's certificate must be for."""

    ca: str = ""
    certificate: str = ""
    key: str = ""
    name: str = ""


class Spec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab", kw_only=True):
    """An output as the configuration file has it. `to` is what `--output` takes; the others have the same meaning everywhere."""

    to: str
    form: Literal["", "native", "falco", "falco-text", "tetragon", "kubearmor", "cef", "ocsf"] = ""
    name: str = ""
    severity: Literal["info", "low", "medium", "high", "critical"] = "info"
    policies: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    queue: Queue = Queue()
    rotate: Rotate | None = None
    tls: Tls | None = None
    facility: str = ""
    batch: int = 0
    secret_file: str = ""
    token_file: str = ""
    token_scheme: Literal["", "Bearer", "ApiKey", "Basic"] = ""
    tenant: str = ""
    key: Literal["", "host", "workload"] = ""


class Opened(NamedTuple):
    """An output that can be written to."""

    form: Chosen
    place: Place
    max_lines: int = sink.MAX_LINES
    max_bytes: int = sink.MAX_BYTES


def size_of(text: int | str) -> int:
    """Bytes of "100MiB". UsageError."""
    found = re.fullmatch(r"([0-9]{1,12})(|KiB|MiB|GiB)", str(text))
    if found is None:
        raise UsageError(f"{text!r} is no size: write 100MiB, say")
    return int(found[1]) * _SIZES[found[2]]


def seconds_of(text: str) -> int:
    """Seconds of "1h". UsageError."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhd])", text)
    if found is None:
        raise UsageError(f"{text!r} is no time: write 1h or 1d, say")
    return int(found[1]) * _TIMES[found[2]]


def check(spec: Spec) -> None:
    """UsageError where what is said does not fit together."""
    kind = _kind(spec.to)
    if not kind:
        raise UsageError(f"unknown output {spec.to!r}; known are {', '.join(KINDS)}")
    of_requests = (
        ("batch", spec.batch),
        ("secret-file", spec.secret_file),
        ("token-file", spec.token_file),
        ("token-scheme", spec.token_scheme),
    )
    only = {
        "rotate": (spec.rotate is not None, ("jsonl",)), "tls": (spec.tls is not None, ("syslog:tls", "kafka", *REQUESTS[1::2])),
        "facility": (bool(spec.facility), ("syslog:unix", "syslog:udp", "syslog:tcp", "syslog:tls")),
        "key": (bool(spec.key), ("kafka",)), "tenant": (bool(spec.tenant), ("loki:http", "loki:https")),
        **{key: (bool(value), REQUESTS) for key, value in of_requests},
    }  # fmt: skip
    for key, (given, kinds) in only.items():
        if given and kind not in kinds:
            raise UsageError(f"`{key}` is nothing to output {spec.to!r}: it is about {', '.join(kinds)}")
    if spec.redact and (spec.form or "native") not in SHOWN:
        raise UsageError(f"`redact` goes with the forms {', '.join(SHOWN)} alone: texts of other forms may hold anything")
    if (spec.form or spec.redact) and kind in (*FORMATS, "rich", "auto"):
        raise UsageError(f'output {spec.to!r} says its form itself: leave `form` and `redact` out, or write `to: "-"`')
    for path in spec.redact:
        if part := unknown(path):
            raise UsageError(f"redact: {path!r}: {part!r} is no member of alerts that can be left out; see docs/alerts.md")
    if spec.facility and spec.facility not in FACILITIES:
        raise UsageError(f"facility {spec.facility!r} is none of {', '.join(FACILITIES)}")
    if spec.rotate is not None:
        size, seconds = size_of(spec.rotate.size), seconds_of(spec.rotate.every) if spec.rotate.every else 0
        if not (size or seconds) or not 0 <= spec.rotate.keep <= 1000:
            raise UsageError("`rotate` takes a size, a time (`every`) or both, and keeps 0 to 1000 files")
    if not 0 <= spec.batch <= 10_000:
        raise UsageError("`batch` is 1 to 10000 lines")
    if not (1 <= spec.queue.lines <= 10_000_000 and (1 << 16) <= size_of(spec.queue.size) <= 1 << 30):
        raise UsageError("`queue` holds 1 to 10000000 lines, and 64KiB to 1GiB")
    if spec.token_scheme and not spec.token_file:
        raise UsageError("`token-scheme` goes with `token-file`")
    if not re.fullmatch(r"[!-~]{0,150}", spec.tenant):
        raise UsageError("`tenant` is a word of ASCII")
    if spec.key == "workload" and any(path.partition(".")[0] in ("container", "k8s", "id", "pod", "namespace") for path in spec.redact):
        raise UsageError("`key: workload` shows what `redact` leaves out")
    if kind in REQUESTS:
        _check_url(spec, *_store(kind, spec.to))
    if spec.tls is not None and bool(spec.tls.key) and not spec.tls.certificate:
        raise UsageError("`key` goes with `certificate`")


def _check_url(spec: Spec, store: str, url: SplitResult) -> None:
    if url.username is not None or url.fragment:
        raise UsageError("a URL here has neither user name nor fragment: use token-file")
    if store == "elastic" and (url.query or not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", url.path)):
        raise UsageError("elastic takes a URL that ends with an index or data stream, and no query: elastic:https://HOST:9200/bpfence")
    if store == "elastic" and spec.form in ("cef", "falco-text"):
        raise UsageError(f"elastic stores JSON objects, which the form {spec.form} is not")
    if not re.fullmatch("[!-~]*", url.path + url.query):
        raise UsageError("a URL here is of ASCII without blanks: write other characters as %20 and the like")


def _store(kind: str, to: str) -> tuple[str, SplitResult]:
    """The log store ("" of a webhook) and the URL of an output over HTTP."""
    store = kind.partition(":")[0] if ":" in kind else ""
    return store, urlsplit(to.removeprefix(f"{store}:"))


def _kind(to: str) -> str:
    """What sort of output a text names; "" where none."""
    first, _, rest = to.partition(":")
    if first == "syslog":
        way, _, place = rest.partition(":")
        if way == "unix" and place:
            return "syslog:unix"
        return f"syslog:{way}" if way in ("udp", "tcp", "tls") and _host_port(place) is not None else ""
    if first in ("jsonl", "unix") and rest:
        return first
    if first == "kafka":
        return first if _brokers(rest) else ""
    store = first if first in STORES else ""
    if store or first in ("http", "https"):
        try:
            url = urlsplit(rest if store else to)
            right = bool(url.hostname) and url.port != 0 and url.scheme in ("http", "https")
        except ValueError:
            return ""
        return (f"{store}:{url.scheme}" if store else first) if right else ""
    return to if to in ("-", "auto", "rich", *FORMATS[1:]) else ""


def _brokers(text: str) -> tuple[str, str] | None:
    """The brokers to begin with, as librdkafka takes them, and the topic."""
    servers, _, topic = text.partition("/")
    right = all(_host_port(server) for server in servers.split(",")) and re.fullmatch(r"[A-Za-z0-9._-]{1,249}", topic)
    return (servers, topic) if right and topic not in (".", "..") else None


def _host_port(text: str) -> tuple[str, int] | None:
    host, _, port = text.rpartition(":")
    if host.startswith("["):
        host = host[1:-1] if host.endswith("]") else ""
    elif ":" in host:
        return None
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})", host):
            return None
    return (host, int(port)) if re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536 else None


def opened(spec: Spec, stream: IO[str], report: Callable[[str], None], forms: Mapping[str, Callable[[], Form]] = FORMS) -> Opened:
    """The output. `stream` is standard output, `forms` are the forms by name. UsageError where it cannot be."""
    check(spec)
    kind = _kind(spec.to)
    form: Form
    if kind in ("-", "auto", "rich", *FORMATS):
        form, place = _standard(spec, stream, forms)
    else:
        form = _redacted(spec) if spec.redact else forms[spec.form or "native"]()
        form, place = _elsewhere(spec, kind, form, report)
    if spec.name:
        place.name = spec.name
    return Opened(chosen(form, spec.severity, spec.policies, spec.namespaces), place, spec.queue.lines, size_of(spec.queue.size))


def _redacted(spec: Spec) -> Form:
    return redacted(spec.redact, SHOWN[spec.form or "native"]())


def _standard(spec: Spec, stream: IO[str], forms: Mapping[str, Callable[[], Form]]) -> tuple[Form, Place]:
    shown, name = spec.to, spec.to
    if shown == "-" or (shown in ("auto", "rich") and not stream.isatty()):
        shown = spec.form or "native"
    elif shown == "auto":
        shown = name = "rich"
    form, encoding = forms[shown](), (getattr(stream, "encoding", None) or "utf-8").lower()
    if spec.redact:
        return _redacted(spec), Stream(stream, name)
    return form if shown == "native" or encoding in ("utf-8", "utf8") else recoded(form, encoding), Stream(stream, name)


def _elsewhere(spec: Spec, kind: str, form: Form, report: Callable[[str], None]) -> tuple[Form, Place]:
    place = spec.to.partition(":")[2]
    if kind == "jsonl":
        try:
            if spec.rotate is None:
                return form, File(Path(place))
            size, seconds = size_of(spec.rotate.size), seconds_of(spec.rotate.every) if spec.rotate.every else 0
            return form, Rotated(Path(place), report, size=size, seconds=seconds, keep=spec.rotate.keep)
        except OSError as error:
            raise UsageError(f"output {spec.to!r} cannot be opened: {error.strerror or error}") from error
    # Imported late: most outputs do without the library of TLS.
    from bpfence.outputs.remote import Datagrams, Streamed, over_tls, syslog, tcp, udp, unix

    if kind == "unix":
        return form, Streamed(spec.to, unix(os.path.abspath(place), socket.SOCK_STREAM))
    if kind == "kafka":
        return _kafka(spec, form)
    if kind in REQUESTS:
        return _requests(spec, kind, form)
    way, _, place = place.partition(":")
    form = syslog(form, FACILITIES[spec.facility or FACILITY], _host(spec), os.getpid())
    if way == "unix":
        return form, Datagrams(spec.to, unix(os.path.abspath(place), socket.SOCK_DGRAM))
    found = _host_port(place)
    assert found is not None
    if way == "udp":
        return form, Datagrams(spec.to, udp(*found))
    connect = tcp(*found)
    if way == "tls":
        tls = spec.tls or Tls()
        connect = over_tls(connect, _context(tls), tls.name or found[0])
    return form, Streamed(spec.to, connect, counted=True)


def _host(spec: Spec) -> str:
    """This host's name for what stands around lines; "" where it is not to be told."""
    return "" if "host" in spec.redact else host_name()


def _kafka(spec: Spec, form: Form) -> tuple[Form, Place]:
    from bpfence.outputs.kafka import Kafka, by_host, by_workload

    found = _brokers(spec.to.partition(":")[2])
    assert found is not None
    options: dict[str, str] = {}
    if spec.tls is not None:
        _context(spec.tls)  # its mistakes are told now
        if spec.tls.name:
            raise UsageError("kafka checks certificates for the brokers' own names: leave `name` out")
        files = {"ssl.ca.location": spec.tls.ca, "ssl.certificate.location": spec.tls.certificate, "ssl.key.location": spec.tls.key}
        options = {"security.protocol": "ssl", **{name: file for name, file in files.items() if file}}
    keyed = by_workload if spec.key == "workload" else by_host
    return keyed(form, _host(spec)), Kafka(spec.to, *found, lambda: options)


def _requests(spec: Spec, kind: str, form: Form) -> tuple[Form, Place]:
    """An output over HTTP: a webhook or a log store."""
    from bpfence.outputs.webhook import Webhook

    store, url = _store(kind, spec.to)
    made: Callable[..., Webhook] = Webhook
    path, headers, name = url.path, {}, spec.form or "native"
    if store == "loki":
        from bpfence.outputs.stores import LOKI_PATH, Loki, for_loki

        made, form, path = Loki, for_loki(form, _host(spec)), LOKI_PATH if path in ("", "/") else path
        headers = {"X-Scope-OrgID": spec.tenant} if spec.tenant else {}
    elif store == "elastic":
        from bpfence.outputs.stores import BULK, Bulk, for_bulk

        made, form, path = Bulk, for_bulk(form), path + BULK
    elif store == "otlp":
        from bpfence.outputs.otlp import PATH, Otlp, for_otlp

        made, form, path = partial(Otlp, host=_host(spec)), for_otlp(form, time.time_ns), PATH if path in ("", "/") else path
    place = made(
        f"{store}:{url.scheme}://{url.netloc}".removeprefix(":"),  # the rest of a URL may be a secret
        url._replace(path=path),
        batch=spec.batch or (1 if name.startswith("falco") and not store else BATCH),
        kind="text/plain; charset=utf-8" if name in ("falco-text", "cef") else "application/json",
        context=_context(spec.tls or Tls()) if url.scheme == "https" else None,
        secret=_secret(spec.secret_file, "secret-file"),
        token=_secret(spec.token_file, "token-file"),
        scheme=spec.token_scheme or "Bearer",
        headers=headers,
    )
    return form, place


def _context(tls: Tls) -> Callable[[], ssl.SSLContext]:
    import ssl

    def made() -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=tls.ca or None)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key or None, password=lambda: "")
        return context

    try:
        made()
    except (OSError, ValueError) as error:
        files = ", ".join(file for file in (tls.ca, tls.certificate, tls.key) if file)
        raise UsageError(f"tls: {files} cannot be used: {getattr(error, 'strerror', None) or error}") from error
    return made


def _secret(file: str, key: str) -> Callable[[], bytes] | None:
    if not file:
        return None

    def read() -> bytes:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            found = opened.read(_SECRET_BYTES).strip()
        if not found or any(not 0x20 < byte < 0x7F for byte in found):
            raise OSError(None, f"{file} holds no word of ASCII")
        return found

    try:
        read()
    except OSError as error:
        raise UsageError(f"{key}: {file} cannot be used: {error.strerror or error}") from error
    return read


def spec_of(value: Any) -> Spec:
    """An output of the configuration file, of strings, numbers, lists and maps. UsageError, with the path to the mistake."""
    if isinstance(value, str):
        return Spec(to=value)
    try:
        return msgspec.convert(value, Spec)
    except msgspec.ValidationError as error:
        raise UsageError(str(error).replace("`", "'")) from None

# SPDX-License-Identifier: Apache-2.0
"""The name of a form in, what turns lines into bytes out.

Called by `open_outputs`. A form makes the bytes of one line, UTF-8 and without a newline, or none at all where it leaves the line out; it
knows nothing of where they go. The forms of a
language are in that language's `show`; what none of the outputs shows is not imported.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

import msgspec

from bpfence.alerts.alert import Line, Rendered, encode, whole
from bpfence.events.process import rfc3339
from bpfence.policy import Action

Form = Callable[[Line], bytes]
Chosen = Callable[[Line], bytes | None]
"""A form that does not show every line."""
Shown = Callable[[dict[str, Any]], bytes]
"""What makes the bytes of a line's members, some of which may have been left out."""


def _native() -> Form:
    return encode


def _rich() -> Form:
    from bpfence.outputs.terminal import People

    return People()


def _falco() -> Form:
    from bpfence.dialects.falco.show import line_as_json

    return line_as_json


def _falco_text() -> Form:
    from bpfence.dialects.falco.show import line_as_text

    return line_as_text


def _tetragon() -> Form:
    from bpfence.dialects.tetragon.show import line_as_json

    return line_as_json


def _kubearmor() -> Form:
    from bpfence.dialects.kubearmor.show import line_as_json

    return line_as_json


def _cef_members() -> Shown:
    from bpfence.outputs.siem import cef

    return cef


def _ocsf_members() -> Shown:
    from bpfence.outputs.siem import ocsf

    return ocsf


SHOWN: Final[Mapping[str, Callable[[], Shown]]] = MappingProxyType(
    {"native": lambda: msgspec.json.encode, "cef": _cef_members, "ocsf": _ocsf_members}
)
"""The forms that are made of a line's members and nothing else, so that members can be left out, by name."""


def members(line: Line) -> dict[str, Any]:
    """All members of a line, as its JSON has them."""
    found: dict[str, Any] = msgspec.to_builtins(whole(line))
    return found


def _of_members(name: str) -> Form:
    shown = SHOWN[name]()
    return lambda line: shown(members(line))


FORMS: Final[Mapping[str, Callable[[], Form]]] = MappingProxyType(
    {
        "native": _native,
        "rich": _rich,
        "falco": _falco,
        "falco-text": _falco_text,
        "tetragon": _tetragon,
        "kubearmor": _kubearmor,
        "cef": lambda: _of_members("cef"),
        "ocsf": lambda: _of_members("ocsf"),
    }
)
"""The forms by name, each made when it is asked for."""


def head(line: Line) -> tuple[str, str, str]:
    """A line's kind, severity and time."""
    if isinstance(line, Rendered):
        seen, rule = line.made_of[:2]
        observed = rule.action is Action.OBSERVE
        return "event" if observed else "alert", "info" if observed else rule.severity, rfc3339(seen.time)
    return line.kind, line.severity, line.time


@lru_cache(maxsize=64)
def _second(text: str) -> int:
    return int(dt.datetime.fromisoformat(text + "+00:00").timestamp())


def nanoseconds(moment: str) -> int:
    """Nanoseconds since 1970 of a line's `time`."""
    return _second(moment[:19]) * 1_000_000_000 + int(moment[20:29])


def version() -> str:
    """That of the installed package. It reads files: not for when privileges are given up."""
    from importlib import metadata  # most forms do not say it

    try:
        return metadata.version("bpfence")
    except metadata.PackageNotFoundError:
        return "uninstalled"


def recoded(form: Form, encoding: str) -> Form:
    """The form in another encoding than UTF-8; what that lacks is escaped."""

    def made(line: Line) -> bytes:
        return form(line).decode().encode(encoding, "backslashreplace")

    return made

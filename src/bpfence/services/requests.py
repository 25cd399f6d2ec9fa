# SPDX-License-Identifier: Apache-2.0
"""What is asked at the control socket, as JSON in, checked structures out: the one description of its requests.

Used by `services.control`, which answers, and by commands, which ask. A request is one line, an object with `version` and `ask`; unknown
members are mistakes. The answer's first line is `{"version":1,"result":…}` or `{"version":1,"error":{"message":…,"findings":[…]}}`; after
that of `events`, lines as docs/alerts.md has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal, Union

import msgspec
from msgspec import Meta

from bpfence.errors import UsageError

SOCKET: Final = Path("/run/bpfence/control.sock")
VERSION: Final = 1
MAX_LAST: Final = 512
"""Lines that are kept for those who ask later."""
Name = Annotated[str, Meta(min_length=1, max_length=512)]
Names = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=256)]
Patterns = Annotated[tuple[Annotated[str, Meta(max_length=256)], ...], Meta(max_length=64)]
Severity = Literal["info", "low", "medium", "high", "critical"]


class _Request(msgspec.Struct, forbid_unknown_fields=True, frozen=True, tag_field="ask", kw_only=True):
    version: int = VERSION


class Status(_Request, tag="status", frozen=True):
    """How it stands with the agent."""


class Counters(_Request, tag="counters", frozen=True):
    """What has been counted until now, by policy."""


class Policies(_Request, tag="policies", frozen=True):
    """The policies in force."""


class Show(_Request, tag="policy", frozen=True):
    """One of them, with its rules."""

    name: Name


class Text(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A file of policies, by the name that messages have for it."""

    name: Annotated[str, Meta(max_length=4096)]
    text: str


class Add(_Request, tag="add", frozen=True):
    """Put the policies of these files in force, beside the others: all of them or none."""

    files: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=64)]


class Remove(_Request, tag="remove", frozen=True):
    """Take policies away that were added: all of these or none."""

    names: Names


class SetMode(_Request, tag="set-mode", frozen=True):
    """Give policies another mode, wherever they come from. `declared`: the one that they have without."""

    names: Names
    mode: Literal["audit", "enforce", "declared"]


class Events(_Request, tag="events", frozen=True):
    """Lines of the agent: the `last` ones that pass the filters, and, with `follow`, all that come. Each filter passes what matches one of
    its patterns (`*`, `?`, `[…]`)."""

    follow: bool = False
    last: Annotated[int, Meta(ge=0, le=MAX_LAST)] = 0
    severity: Severity = "info"
    policy: Patterns = ()
    rule: Patterns = ()
    pod: Patterns = ()
    namespace: Patterns = ()
    action: Patterns = ()


Request = Union[Status, Counters, Policies, Show, Add, Remove, SetMode, Events]
_DECODER: Final = msgspec.json.Decoder(Request)


class _Version(msgspec.Struct):
    version: int


def decoded(line: bytes) -> Request:
    """A request. UsageError where it is none, or one of another version."""
    try:
        version = msgspec.json.decode(line, type=_Version).version
        if version != VERSION:
            raise UsageError(f"requests of version {version} are not understood here: this agent knows version {VERSION}")
        return _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UsageError(f"this is no request: {error}") from None


def encoded(request: Request) -> bytes:
    """The line of a request, without its newline."""
    return msgspec.json.encode(request)

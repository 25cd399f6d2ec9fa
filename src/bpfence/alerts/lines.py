# SPDX-License-Identifier: Apache-2.0
"""Records and the rules they matched in, lines out: of the common alert the finished JSON, by a plan made once for its rule and event.

Called by the pipeline. What `Composer` makes of the same observation is the reference: the bytes are equal, and it makes what is not common
(a decision that is uncertain, followed objects, a kill that was refused, a message near its limit).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec

from bpfence import abi
from bpfence.alerts.alert import (
    ABSENT,
    MAX_MESSAGE,
    PIECE,
    Alert,
    Composer,
    Line,
    Rendered,
    RuleInfo,
    Said,
    default_message,
    doubted,
    message_words,
    told,
)
from bpfence.events.process import Subject, rfc3339_bytes
from bpfence.events.records import ARGUMENT, CLOSE, LITERAL, NUMBER, NUMBER_TABLE, OPEN, SIGNED, STRING_TABLE, TEXT, Plan, own_slots
from bpfence.events.source import Observation
from bpfence.events.values import SIGNED_FIELDS, TEXT_OF_NUMBERS, escape, phrase, printable, readable
from bpfence.fields import FIELD_BY_NAME, Field, Kind
from bpfence.policy import Action

if TYPE_CHECKING:
    from bpfence.events.plain import Op

MAX_PLANS: Final = 1024
_DENY: Final = int(Action.DENY)
_LEAF_CHARACTERS: Final = 512
"""More than a list of flags has."""
_NOTHING: Final[Mapping[tuple[str, str], Said]] = MappingProxyType({})
_TIME, _SEQ, _PROCESS, _MESSAGE, _DETAILS, _CONTAINER, _WORDS = range(7)
"""Numbers of the arguments of plans. From _WORDS on: what the message says of the process."""
_ENCODER: Final = msgspec.json.Encoder()


class Source(Protocol):
    """Where observations come from."""

    def subject(self, seen: Observation) -> Subject | None:
        """The acting process; None where no kernel stands behind the observation."""

    def described(self, seen: Observation) -> Observation:
        """The observation with its fields and its process."""


class _Told(NamedTuple):
    """How alerts of a rule on an event are written. `words`: fields of the process in its message. `room`: bytes that a record may have
    so that the message stays below its limit; 0: any. `more`: the event says more about the process. `rule` is kept so that no other can
    have its id."""

    rule: RuleInfo
    plan: Plan
    words: tuple[str, ...]
    room: int
    more: bool


class LineWriter:
    """Makes the lines of observations. `composer` numbers them."""

    def __init__(self, composer: Composer, source: Source) -> None:
        self._composer = composer
        self._source = source
        self._plans: dict[tuple[int, str, str, int, bool], _Told] = {}

    def lines(
        self,
        seen: Observation,
        matched: Collection[tuple[RuleInfo, bool]],
        objects: tuple[str, ...] = (),
        said: Mapping[tuple[str, str], Said] = _NOTHING,
        others: Collection[RuleInfo] = (),
    ) -> list[Line]:
        """One line for each matching rule; arguments as those of `Composer.alerts`."""
        number = self._composer.number()
        if not matched:
            return []
        subject = self._source.subject(seen) if not seen.objects else None
        lines: list[Line] = []
        for rule, uncertain in matched:
            own = said.get(rule.key) if said else None
            json = None if subject is None or uncertain else self._rendered(seen, rule, subject, own, number)
            if json is not None:
                lines.append(Rendered(json, self._again, (seen, rule, own, number)))
            else:
                [(_, alert)] = self._composer.alerts(self._source.described(seen), ((rule, uncertain),), objects, said, others, number)
                lines.append(alert)
        return lines

    def _again(self, seen: Observation, rule: RuleInfo, said: Said | None, number: int) -> Alert:
        """What a plan has written, with all its members."""
        told = {rule.key: said} if said is not None else {}
        [(_, alert)] = self._composer.alerts(self._source.described(seen), ((rule, False),), (), told, (), number)
        return alert

    def _rendered(self, seen: Observation, rule: RuleInfo, subject: Subject, said: Said | None, number: int) -> bytes | None:
        record = seen.record
        if (
            rule.signal
            or record is None
            or rule.threshold is not None
            or (seen.flags & abi.EVENT_KILL_REFUSED and rule.action is Action.KILL)
            or doubted(rule, seen)
        ):
            return None
        blocked = seen.error if seen.action >= _DENY and rule.action >= _DENY else 0
        template = "" if said is not None else rule.message or default_message(seen.event, record)
        dialect = "" if said is None else said.dialect
        key = (id(rule), seen.event, template or dialect, blocked, said is None)
        made = self._plans.get(key)
        if made is None:
            made = _told(rule, seen, template, dialect, self._composer.host)
            if len(self._plans) >= MAX_PLANS:
                self._plans.clear()
            self._plans[key] = made
        if made.room and record.size > made.room:
            return None
        text, details = b"", b""
        if said is not None:
            if (len(said.message_json) or len(said.message)) > MAX_MESSAGE // 4:  # what is not printable may get four times as long
                return None
            text = said.message_json or _ENCODER.encode(printable(said.message))
            details = said.details_json or _ENCODER.encode(said.details)
        words = [subject.word(name) for name in made.words] if made.words else ()
        if words and sum(map(len, words)) > _LEAF_CHARACTERS * len(words):
            return None
        process = subject.json[:-1] if made.more else subject.json  # the brace comes behind what the event says
        cgroup = subject.cgroup
        container = self._composer.belonging.json("" if cgroup is msgspec.UNSET else cgroup)
        return made.plan.write(record, (rfc3339_bytes(seen.time), b"%d" % number, process, text, details, container, *words))


# ---- plans ----


def _told(rule: RuleInfo, seen: Observation, template: str, dialect: str, host: str) -> _Told:
    """The plan of a rule's alerts on an event of which it says `template`, or something in its own language."""
    head = {name: value for name, value in told(rule, seen).items() if value is not msgspec.UNSET}
    errno = head.pop("errno")
    event = head.pop("event")
    ops: list[Op] = [_literal(b'{"time":"'), _argument(_TIME), _literal(b'",' + _members({**head, "event": event}) + b',"message":')]
    words: tuple[str, ...] = ()
    room = 0
    if dialect:
        ops.append(_argument(_MESSAGE))
    else:
        said, words, room = _message(rule, seen.event, template, str(head["action"]))
        ops += (_literal(b'"'), *said, _literal(b'"'))
    ops += (_literal(b"," + _members({"errno": errno}) + b',"seq":'), _argument(_SEQ), _literal(b"," + _members({"host": host})))
    about_process, groups = _groups(seen.event)
    ops += (_literal(b',"process":'), _argument(_PROCESS), *about_process, *groups)
    if dialect:
        ops += (_literal(b',"dialect":{' + _ENCODER.encode(dialect) + b":"), _argument(_DETAILS), _literal(b"}"))
    ops += (_literal(b","), _argument(_CONTAINER), _literal(b"}"))
    return _Told(rule, Plan(tuple(ops)), words, room, bool(about_process))


def _literal(text: bytes) -> Op:
    return LITERAL, 0, text, b"", None, None


def _argument(number: int) -> Op:
    return ARGUMENT, number, b"", b"", None, None


def _members(members: dict[str, Any]) -> bytes:
    return _ENCODER.encode(members)[1:-1]


def _in_quotes(text: str) -> bytes:
    return _ENCODER.encode(text)[1:-1]


_GROUPS: Final = tuple(
    name for name in Alert.__struct_fields__ if name in {field.name.partition(".")[0] for field in FIELD_BY_NAME.values()}
)
"""Members of lines that hold fields, in their order; the process comes first."""


def _groups(event: str) -> tuple[list[Op], list[Op]]:
    """The event's own fields, nested by their names: what it says about the process, up to the brace that ends it; and all others."""
    tree: dict[str, Any] = {name: {} for name in _GROUPS}
    for name in own_slots(event):  # in the order of the field table
        *groups, last = name.split(".")
        level = tree
        for group in groups:
            level = level.setdefault(group, {})
        level[last] = name
    about_process = list(_nested(event, tree.pop("process")))
    return [*about_process, _literal(b"}")] if about_process else [], list(_nested(event, tree))


def _nested(event: str, tree: Mapping[str, Any]) -> Iterator[Op]:
    for key, value in tree.items():
        begin = b"," + _ENCODER.encode(key) + b":"
        if isinstance(value, str):
            yield _leaf(event, FIELD_BY_NAME[value], begin)
        elif value:
            yield (OPEN, 0, begin + b"{", b"", None, None)
            yield from _nested(event, value)
            yield (CLOSE, 0, b"}", b"", None, None)


def _leaf(event: str, field: Field, key: bytes) -> Op:
    """A field as JSON."""
    _, string, slot = own_slots(event)[field.name]
    if string and field.kind is not Kind.ADDRESS:
        return TEXT, slot, key + b'"', b'"', None, lambda data: _in_quotes(escape(data))
    kind = _kind(field, string)
    return kind, slot, key, b"", None, lambda value: _ENCODER.encode(readable(field, value))


def _kind(field: Field, string: bool) -> int:
    if string:
        return STRING_TABLE
    if field.name in SIGNED_FIELDS:
        return SIGNED
    return NUMBER_TABLE if field.name in TEXT_OF_NUMBERS or field.kind in (Kind.BOOL, Kind.FLAGS, Kind.NAMED) else NUMBER


# ---- messages ----


def _message(rule: RuleInfo, event: str, template: str, action: str) -> tuple[list[Op], tuple[str, ...], int]:
    """A message as `alert.message` fills it in; the fields of the process in it; and the size of records that cannot make it too long."""
    ops: list[Op] = []
    words: list[str] = []
    leaves = 0
    fixed = message_words(rule, event, action)
    at, length = 0, 0
    for piece in PIECE.finditer(template):
        literal, at, name = template[at : piece.start()], piece.end(), piece.group(1)
        if name is None:
            literal += piece.group()[0]
        elif name in fixed:
            literal += escape(fixed[name])
        elif name not in own_slots(event) and (name not in FIELD_BY_NAME or FIELD_BY_NAME[name].events):
            literal += ABSENT
        ops.append(_literal(_in_quotes(printable(literal))))
        length += len(printable(literal))
        if name is None or name in fixed or name not in FIELD_BY_NAME:
            continue
        if name in own_slots(event):
            ops.append(_word(event, FIELD_BY_NAME[name]))
            leaves += 1
        elif not FIELD_BY_NAME[name].events:
            ops.append(_argument(_WORDS + len(words)))
            words.append(name)
    rest = printable(template[at:])
    ops.append(_literal(_in_quotes(rest)))
    # A byte that is escaped has four characters.
    room = MAX_MESSAGE - length - len(rest) - _LEAF_CHARACTERS * (leaves + len(words))
    return ops, tuple(words), max(1, room // (4 * leaves)) if leaves else int(room < 0)


def _word(event: str, field: Field) -> Op:
    """A field inside a sentence."""
    _, string, slot = own_slots(event)[field.name]
    absent = ABSENT.encode()
    if string and field.kind is not Kind.ADDRESS:
        return TEXT, slot, b"", b"", absent, lambda data: _in_quotes(escape(data))
    return _kind(field, string), slot, b"", b"", absent, lambda value: _in_quotes(phrase(field, value))

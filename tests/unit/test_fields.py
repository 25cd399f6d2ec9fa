"""The tables of events and fields: against abi.h, and against what is generated from them."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from bpfence import abi, names
from bpfence.fields import EVENTS, FIELD_BY_NAME, FIELDS, GROUPS, MODIFY, EventType, Field, Kind, applies
from bpfence.kernel.hooks import hooks_of

ROOT = Path(__file__).parents[2]
STRINGS = (Kind.PATH, Kind.STRING, Kind.ADDRESS)


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_docs", ROOT / "tools" / "gen_docs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_files_are_current() -> None:
    for path, text in generator().pages().items():
        assert path.read_text() == text, f"{path.name} is not current: run make generate"


@pytest.mark.parametrize("event", EVENTS, ids=lambda e: e.name)
def test_an_event_is_a_number_of_the_kernel_side(event: EventType) -> None:
    assert getattr(abi, event.id) > 0
    assert event.doc
    assert hooks_of(event.name)


def test_every_event_number_has_an_event() -> None:
    numbers = {name for name, number in abi.EVENT_ID.items() if 0 < number < abi.EV_SENSOR}
    assert numbers == {event.id for event in EVENTS if not event.sensor}
    assert all(abi.EVENT_ID[event.id] >= abi.EV_SENSOR for event in EVENTS if event.sensor)


def test_what_can_be_denied_or_not_shows_in_the_number() -> None:
    wrong = {event.name for event in EVENTS if event.deniable != (abi.EVENT_ID[event.id] < abi.EV_DONE)}
    assert wrong == {"process.exit", "sensor.lsm"}


def test_a_slot_is_that_of_one_field() -> None:
    fields: dict[str, list[str]] = {}
    for field in FIELDS:
        if field.slot:
            fields.setdefault(field.slot, []).append(field.name)
    assert {slot: names for slot, names in fields.items() if len(names) > 1} == {"NUM_PROCESS_UID": ["process.uid", "process.user"]}


def test_numbers_of_events_and_slots_fit_their_words() -> None:
    assert max(abi.EVENT_ID.values()) < abi.ABI_MAX_EVENTS == 64 * abi.ABI_EVENT_WORDS <= abi.CONCERN_WORDS * abi.CONCERN_BITS
    assert max(abi.NUM_SLOT.values()) < abi.ABI_NUM_SLOTS == 64 * abi.ABI_NUM_WORDS
    assert abi.CONCERN_BITS + abi.CONCERN_TAG_BITS + abi.CONCERN_PID_BITS == 64
    assert abi.CONCERN_ENTRIES << abi.CONCERN_PID_BITS == 1 << 22, "PID_MAX_LIMIT of include/linux/threads.h"
    for table in (abi.EVENT_ID, abi.NUM_SLOT, abi.STR_SLOT):
        assert len(set(table.values())) == len(table), "each number has one meaning"


@pytest.mark.parametrize("field", FIELDS, ids=lambda f: f.name)
def test_a_field_is_a_slot_of_its_kind(field: Field) -> None:
    assert field.doc
    if field.kind is Kind.STRINGS:
        assert not field.slot
        return
    assert field.slot.startswith("STR_" if field.kind in STRINGS else "NUM_")
    assert isinstance(getattr(abi, field.slot), int)
    if field.kind in (Kind.NAMED, Kind.FLAGS, Kind.USER):
        assert field.names
    if field.names:
        assert names.known(field.names)


def test_what_is_subject_is_on_every_event() -> None:
    assert all(not field.events for field in FIELDS if field.subject)


def test_names_are_unique() -> None:
    for given in (
        [e.name for e in EVENTS],
        [f.name for f in FIELDS],
        [s for e in EVENTS for s in e.short] + [e.name for e in EVENTS] + list(GROUPS),
    ):
        assert [name for name, count in Counter(given).items() if count > 1] == []


def test_fields_name_events_that_exist() -> None:
    for field in FIELDS:
        for wanted in field.events:
            assert any(applies(Field("x", Kind.NUMBER, "", "", (wanted,)), event.name) for event in EVENTS), (field.name, wanted)


def test_groups_hold_events() -> None:
    known = {event.name for event in EVENTS}
    assert all(set(events) <= known for events in GROUPS.values())
    assert GROUPS["file.modify"] is MODIFY


def test_applies() -> None:
    assert applies(FIELD_BY_NAME["process.exe"], "kernel.bpf")
    assert applies(FIELD_BY_NAME["file.path"], "process.exec")
    assert applies(FIELD_BY_NAME["file.uid"], "file.chown")
    assert not applies(FIELD_BY_NAME["file.flags"], "file.unlink")
    assert not applies(FIELD_BY_NAME["net.peer.ip"], "net.bind")

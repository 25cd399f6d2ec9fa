# SPDX-License-Identifier: Apache-2.0
"""Names of hosts: which are looked up, when, and whose an address is."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import Any

import pytest

from bpfence.host.hostnames import FIRST, LAST, MAX_ADDRESSES, RETRY, Hostnames, Notice
from tests.unit.waiting import readable

ANSWERS = {"a.example": ["192.0.2.1", "2001:db8::1"], "b.example": ["::ffff:192.0.2.1", "fe80::1%eth0"]}


def answer(names: dict[str, list[str]]) -> Any:
    def resolve(name: str, _: None) -> Iterable[tuple[Any, ...]]:
        if name not in names:
            raise OSError("no such host")
        return [(2, 1, 6, "", (address, 0)) for address in names[name]]

    return resolve


def test_forward_names() -> None:
    names = Hostnames(["a.example", "b.example", "c.example", "a.example"], answer(ANSWERS), clock=lambda: 0.0)
    assert names.name_of("192.0.2.1") is None
    assert names.refresh() == RETRY
    assert names.names_of("192.0.2.1") == ("a.example", "b.example")
    assert (names.name_of("192.0.2.1"), names.name_of("2001:db8::1"), names.name_of("fe80::1")) == ("a.example", "a.example", "b.example")
    assert names.name_of("192.0.2.2") is None


def test_pauses_grow_and_a_failing_resolver_makes_nothing_forgotten() -> None:
    now = [0.0]
    known = dict(ANSWERS)
    names = Hostnames(["a.example"], answer(known), clock=lambda: now[0])
    pauses = []
    for _ in range(8):
        pauses.append(names.refresh())
        now[0] += pauses[-1]
    assert pauses == [FIRST, FIRST * 2, FIRST * 4, FIRST * 8, FIRST * 16, LAST, LAST, LAST]
    del known["a.example"]
    assert names.refresh() == FIRST
    assert names.name_of("192.0.2.1") == "a.example"
    known["a.example"] = ["192.0.2.9"]
    now[0] += FIRST
    assert names.refresh() == FIRST
    assert (names.name_of("192.0.2.1"), names.name_of("192.0.2.9")) == (None, "a.example")


@pytest.mark.parametrize("bad", [[(1,)], [(2, 1, 6, "", ("x", 0))], [(2, 1, 6, "", ())], [(2, 1, 6, "", ("\udcff", 0))]])
def test_what_is_no_address_is_no_answer(bad: list[tuple[Any, ...]]) -> None:
    names = Hostnames(["a"], lambda name, _: bad, clock=lambda: 0.0)
    assert names.refresh() == RETRY
    assert names.name_of("x") is None


def test_answers_are_bounded() -> None:
    many = [(2, 1, 6, "", (f"10.0.{n >> 8}.{n & 255}", 0)) for n in range(1000)]
    names = Hostnames(["a"], lambda name, _: many, clock=lambda: 0.0)
    names.refresh()
    assert sum(names.name_of(entry[4][0]) is not None for entry in many) == MAX_ADDRESSES


def test_the_thread() -> None:
    asked = threading.Event()

    def resolve(name: str, _: None) -> Iterable[tuple[Any, ...]]:
        asked.set()
        return [(2, 1, 6, "", ("192.0.2.1", 0))]

    names = Hostnames(["a.example"], resolve)
    names.start()
    names.start()
    assert asked.wait(10)
    names.close()
    none = Hostnames([], resolve)
    none.start()
    assert none.refresh() > 0


def test_addresses_are_told_once_a_name_was_asked_for_and_when_they_change() -> None:
    now = [0.0]
    known = dict(ANSWERS)
    told: list[dict[str, frozenset[str]]] = []
    names = Hostnames(["a.example", "c.example"], answer(known), clock=lambda: now[0])
    names._changed = lambda: told.append(names.addresses())
    assert names.addresses() == {}, "a name that was not asked for may yet be that of any address"
    names.refresh()
    a = frozenset(ANSWERS["a.example"])
    assert told == [{"a.example": a}, {"a.example": a, "c.example": frozenset()}]
    now[0] += FIRST
    names.refresh()
    del known["a.example"]
    now[0] += LAST
    names.refresh()
    assert len(told) == 2, "neither the same answer nor none is news"
    known["a.example"] = ["::ffff:192.0.2.9"]
    now[0] += LAST
    names.refresh()
    assert told[2:] == [{"a.example": frozenset({"192.0.2.9"}), "c.example": frozenset()}]
    later = Hostnames(["b.example", "a.example"], answer(known), clock=lambda: now[0], known=names)
    assert later.addresses() == {"a.example": frozenset({"192.0.2.9"})}
    assert later.names_of("192.0.2.9") == ("a.example",)
    assert later.names_of("192.0.2.1") == ()


def test_the_thread_tells() -> None:
    notice = Notice()
    names = Hostnames(["a.example"], answer(ANSWERS))
    names.start(notice.tell)
    assert readable(notice.fileno(), 10)
    assert names.addresses() == {"a.example": frozenset(ANSWERS["a.example"])}
    names.close()
    notice.close()


def test_a_notice() -> None:
    notice = Notice()
    assert not notice.take()
    notice.tell()
    notice.tell()
    assert readable(notice.fileno(), 0)
    assert notice.take()
    assert not notice.take()
    number = notice.fileno()
    notice.close()
    notice.close()
    reader, writer = os.pipe()
    os.dup2(reader, number)
    notice.tell()  # what has the number now is not written to
    assert not readable(reader, 0)
    for descriptor in {reader, writer, number}:
        os.close(descriptor)

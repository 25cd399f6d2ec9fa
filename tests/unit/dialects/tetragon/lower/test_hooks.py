# SPDX-License-Identifier: Apache-2.0
"""The table of hooks that are events."""

from __future__ import annotations

from bpfence.dialects.tetragon.lower.hooks import FUNCTIONS, LSM_HOOKS, Reads, known, name_of
from bpfence.dialects.tetragon.read import words
from bpfence.fields import EVENT_BY_NAME, FIELD_BY_NAME, applies
from bpfence.kernel.hooks import PROGRAMS, Kind
from tests.unit.dialects.tetragon.texts import kprobe, read

FIELDS = {
    Reads.FILE: "file.path",
    Reads.NAME: "file.path",
    Reads.ACCESS: "file.access",
    Reads.PROTECTION: "file.prot",
    Reads.ADDRESS: "net.peer.ip",
    Reads.MODULE: "module.name",
    Reads.SOCKET: "net.protocol",
}


def test_every_hook_is_one_of_the_engine() -> None:
    events = {(row.hook, event) for row in PROGRAMS if row.kind is Kind.HOOK for event in row.events}
    functions = {row.function or f"security_{row.hook}" for row in PROGRAMS if row.kind is Kind.HOOK}
    for name, hook in LSM_HOOKS.items():
        assert (name, hook.event) in events
        assert EVENT_BY_NAME[hook.event].deniable
    assert functions >= FUNCTIONS.keys()
    assert {hook.event for hook in FUNCTIONS.values()} == {hook.event for hook in LSM_HOOKS.values()}


def test_every_argument_is_a_field_of_the_event() -> None:
    for hook in (*FUNCTIONS.values(), *LSM_HOOKS.values()):
        for parameter in hook.parameters.values():
            assert set(parameter.types) <= set(words.TYPES)
            field = parameter.field or FIELDS.get(parameter.reads)
            if field is not None:
                assert applies(FIELD_BY_NAME[field], hook.event)


def test_hooks_by_their_names() -> None:
    policy, _ = read(
        kprobes=[kprobe(), kprobe(call="sys_open", args=[])],
        lsmhooks=[{"hook": "mmap_file"}],
        tracepoints=[{"subsystem": "a", "event": "b"}],
    )
    found = [(name_of(hook), known(hook) is not None) for _, hook in policy.spec.hooks()]
    assert found == [("security_file_permission", True), ("sys_open", False), ("a/b", False), ("mmap_file", True)]

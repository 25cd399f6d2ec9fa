# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bpfence.errors import KernelError
from bpfence.kernel import features as probes
from bpfence.kernel import libbpf
from bpfence.kernel.features import MEANINGS, UNTRIED, Answer, Features, Probe, probe

YES, NO, UNKNOWN = Probe(Answer.YES), Probe(Answer.NO), Probe(Answer.UNKNOWN)


def features(**answers: Probe) -> Features:
    return Features(answers, {})


@pytest.mark.parametrize(
    ("active", "load", "modify", "expected"),
    [
        (YES, YES, YES, "lsm"),
        (YES, YES, NO, "lsm"),
        (NO, YES, YES, "fmod_ret"),  # LSM programs load but are never called
        (YES, NO, YES, "fmod_ret"),
        (UNKNOWN, YES, YES, "fmod_ret"),
        (YES, NO, NO, ""),
        (NO, YES, NO, ""),
        (YES, UNKNOWN, UNKNOWN, ""),
    ],
)
def test_flavour(active: Probe, load: Probe, modify: Probe, expected: str) -> None:
    assert features(lsm_active=active, lsm_load=load, fmod_ret=modify).flavour == expected


@pytest.mark.parametrize(
    ("active", "load", "modify", "expected"),
    [
        (YES, YES, NO, Answer.YES), (NO, YES, YES, Answer.YES), (NO, YES, NO, Answer.NO), (YES, NO, NO, Answer.NO),
        (YES, UNKNOWN, UNKNOWN, Answer.UNKNOWN), (NO, NO, UNKNOWN, Answer.UNKNOWN), (UNKNOWN, YES, NO, Answer.UNKNOWN),
    ],
)  # fmt: skip
def test_enforcement_is_a_no_only_where_every_way_is(active: Probe, load: Probe, modify: Probe, expected: Answer) -> None:
    assert Features({"lsm_active": active, "lsm_load": load, "fmod_ret": modify}, {}).enforces is expected


def test_a_refusal_under_a_seccomp_filter_is_no_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status = tmp_path / "status"
    monkeypatch.setattr(probes, "_STATUS", status)
    for text, answer in (("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n", Answer.UNKNOWN), ("Name:\tx\nSeccomp:\t0\n", Answer.NO)):
        status.write_text(text)
        assert probes._refusal(errno.EPERM).answer is answer
        assert probes._refusal(errno.EINVAL).answer is Answer.NO


def test_capabilities_of_a_user_namespace_do_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    status, mapped = tmp_path / "status", tmp_path / "uid_map"
    status.write_text("Name:\tx\nCapEff:\t000001ffffffffff\n")
    monkeypatch.setattr(probes, "_STATUS", status)
    monkeypatch.setattr(probes, "_UID_MAP", mapped)
    for text, answer in (("         0     100000      65536\n", Answer.NO), ("         0          0 4294967295\n", Answer.YES)):
        mapped.write_text(text)
        assert {probe.answer for probe in probes._capabilities().values()} == {answer}


def test_types_that_are_hidden_are_not_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def none() -> None:
        raise KernelError("reading the kernel's types: no")

    hidden = tmp_path / "vmlinux"
    hidden.write_text("x")
    monkeypatch.setattr(probes, "KernelBtf", none)
    monkeypatch.setattr(probes, "_BTF", hidden)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert probes.probe().answer("kernel_btf") is Answer.UNKNOWN
    hidden.unlink()
    assert probes.probe().answer("kernel_btf") is Answer.NO


def test_constant_is_one_only_for_a_sure_yes() -> None:
    found = features(bpf_loop=YES, task_btf=UNKNOWN, rdonly_cast=NO)
    assert [found.constant(f"have_{name}") for name in ("bpf_loop", "task_btf", "rdonly_cast", "task_storage")] == [1, 0, 0, 0]
    with pytest.raises(KeyError):
        found.constant("have_no_such_feature")


def test_rows_tell_what_is_missing_and_how_to_mend_it() -> None:
    rows = {row.name: row for row in features(lsm_active=NO, bpf_loop=YES).rows()}
    assert list(rows) == [meaning.name for meaning in MEANINGS]
    assert "fmod_ret" in rows["lsm_active"].meaning
    assert "lsm=" in rows["lsm_active"].mend
    assert (rows["bpf_loop"].meaning, rows["bpf_loop"].mend) == ("", "")
    assert rows["ring_buffer"].answer is Answer.UNKNOWN
    assert rows["ring_buffer"].essential


@pytest.mark.parametrize(
    ("number", "answer"),
    [(0, Answer.YES), (errno.EPERM, Answer.NO), (errno.EINVAL, Answer.NO), (libbpf.ENOTSUPP, Answer.NO), (errno.ENOMEM, Answer.UNKNOWN)],
)
def test_only_a_clear_refusal_is_a_no(number: int, answer: Answer) -> None:
    assert probes._refusal(number).answer is answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("[none] integrity confidentiality", Answer.YES),
        ("none [integrity] confidentiality", Answer.YES),
        ("none integrity [confidentiality]", Answer.NO),
    ],
)
def test_lockdown(text: str, answer: Answer) -> None:
    assert probes._lockdown(text).answer is answer


@pytest.mark.parametrize(
    ("models", "build", "answer", "detail"),
    [
        ("none voluntary (full) lazy", "", Answer.NO, "full"), ("full (lazy)", "", Answer.NO, "lazy"),
        ("none (voluntary) full", "#1 SMP PREEMPT_DYNAMIC Debian", Answer.YES, "voluntary"),
        ("(none) voluntary full", "", Answer.YES, "none"),
        (None, "#1 SMP Debian 5.10.223-1", Answer.YES, "a kernel without preemption"),
        ("", "#1 SMP PREEMPT_RT", Answer.NO, "full"),
        (None, "#1 SMP PREEMPT_DYNAMIC Debian 6.1", Answer.UNKNOWN, "chosen at boot, and debugfs cannot be read"),
    ],
)  # fmt: skip
def test_preemption(models: str | None, build: str, answer: Answer, detail: str) -> None:
    assert probes._no_preemption(models, build) == Probe(answer, detail)


@pytest.mark.parametrize(
    ("parted", "release", "answer"),
    [
        (True, "6.1.0-50-amd64", Answer.YES), (False, "5.10.0-32-amd64", Answer.YES), (False, "5.12.0", Answer.NO),
        (False, "5.15.0-91-generic", Answer.NO), (False, "6.0.7", Answer.NO), (False, "what", Answer.UNKNOWN),
    ],
)  # fmt: skip
def test_whether_lsm_programs_are_skipped(parted: bool, release: str, answer: Answer) -> None:
    assert probes._lsm_not_skipped(parted, release).answer is answer


def test_lsm_list_is_split_at_commas() -> None:
    assert probes._lsm_active("lockdown,capability,bpf").answer is Answer.YES
    assert probes._lsm_active("lockdown,bpfilter").answer is Answer.NO


def test_lsm_list_falls_back_to_the_system_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "active_lsms", lambda: frozenset({100, probes.LSM_ID_BPF}))
    assert probes._lsm_active(None).answer is Answer.YES
    monkeypatch.setattr(libbpf, "active_lsms", lambda: None)
    assert probes._lsm_active(None).answer is Answer.UNKNOWN


def test_without_privileges_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(function: libbpf.Function) -> int:
        raise AssertionError("loaded without privileges")

    monkeypatch.setattr(libbpf, "try_hook", never)
    monkeypatch.setattr(libbpf, "try_modify_return", never)
    known = {name: libbpf.Function(1, 2, ()) for name in ("bpf_lsm_settime", "security_settime64", "security_path_chown")}
    answers = probes._by_loading(known, privileged=False)
    assert answers["lsm_load"].answer is Answer.UNKNOWN
    assert "CAP_BPF" in answers["lsm_load"].detail
    assert answers["error_injection"].answer is Answer.NO  # there is no such function at all


def test_capabilities_come_from_the_effective_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def effective(mask: int) -> dict[str, Answer]:
        status = tmp_path / "status"
        status.write_text(f"Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t{mask:016x}\n", encoding="ascii")
        monkeypatch.setattr(probes, "_STATUS", status)
        return {name: probe.answer for name, probe in probes._capabilities().items()}

    assert effective(1 << 39) == {"cap_sys_admin": Answer.NO, "cap_perfmon": Answer.NO, "cap_bpf": Answer.YES}
    assert set(effective(1 << 21).values()) == {Answer.YES}
    assert set(effective(0).values()) == {Answer.NO}


def test_kernel_without_types_still_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoTypes:
        def __init__(self) -> None:
            raise KernelError("no BTF here")

    monkeypatch.setattr(probes, "KernelBtf", NoTypes)
    found = probe()
    assert found.answer("kernel_btf") is Answer.NO
    assert found.flavour == ""
    assert found.functions == {}


def test_every_probe_has_a_meaning_and_every_meaning_a_probe() -> None:
    found = probe()
    if found.answer("kernel_btf") is not Answer.YES:
        pytest.skip("needs kernel_btf")
    assert set(found.probes) == {meaning.name for meaning in MEANINGS}


def test_what_was_not_tried_without_privileges_is_not_explained_row_by_row() -> None:
    rows = {row.name: row for row in features(cap_bpf=NO, lsm_load=Probe(Answer.UNKNOWN, UNTRIED)).rows()}
    assert (rows["lsm_load"].answer, rows["lsm_load"].detail) == (Answer.UNKNOWN, UNTRIED)
    assert (rows["lsm_load"].meaning, rows["lsm_load"].mend) == ("", "")
    assert rows["cap_bpf"].mend

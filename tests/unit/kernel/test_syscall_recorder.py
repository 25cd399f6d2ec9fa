# SPDX-License-Identifier: Apache-2.0
"""The recorder on this machine's kernel, for processes that the tests start."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpfence.errors import KernelError
from bpfence.kernel import syscall_recorder as module
from bpfence.kernel.libbpf import LoadFailure
from bpfence.kernel.seccomp import launch
from bpfence.kernel.syscall_recorder import BY_CGROUP, BY_TREE, MAX_CALLS, MAX_FAMILIES, OBJECT, Abi, SyscallRecorder
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import number

SOURCE = Path(__file__).resolve().parents[3] / "bpf" / "recorder.bpf.c"


@pytest.fixture
def recorder() -> Iterator[SyscallRecorder]:
    try:
        found = SyscallRecorder()
    except KernelError as error:
        pytest.skip(f"needs raw tracepoints: {error}")
    with found:
        yield found


def test_layout_and_programs_are_those_of_the_source() -> None:
    text = SOURCE.read_text()
    assert re.search(rf"#define MAX_CALLS {MAX_CALLS}\b", text)
    assert re.search(rf"#define MAX_FAMILIES {MAX_FAMILIES}\b", text)
    abis = re.search(r"enum abi \{(.*?)ABI_COUNT", text, re.DOTALL)
    assert abis
    assert [word.removeprefix("ABI_") for word in re.findall(r"ABI_\w+", abis[1])] == [abi.name for abi in Abi]
    assert set(re.findall(r"^int (\w+)\(", text, re.MULTILINE)) == {*BY_CGROUP, *BY_TREE}


def test_a_held_command_is_recorded_from_its_execve_on(recorder: SyscallRecorder) -> None:
    child = launch(["/bin/true"], hold=True)
    recorder.add(child.pid)
    assert recorder.calls() == frozenset()
    assert recorder.pids() == [child.pid]
    child.release()
    child.wait()
    child.close()
    seen = recorder.calls()
    assert (Abi.NATIVE, number(Arch.native(), "execve")) in seen
    assert (Abi.NATIVE, number(Arch.native(), "exit_group")) in seen
    assert (Abi.NATIVE, number(Arch.native(), "seccomp")) not in seen
    assert recorder.pids() == []
    assert recorder.missed() == (0, 0)


def test_families_of_sockets(recorder: SyscallRecorder) -> None:
    assert recorder.families() == frozenset()
    script = "import socket as s, contextlib\ns.socket(); s.socket(s.AF_UNIX, s.SOCK_DGRAM); s.socketpair()"
    script += "\nwith contextlib.suppress(OSError): s.socket(63)"
    for extra, found in (("", frozenset({1, 2, 63})), ("\nwith contextlib.suppress(OSError): s.socket(64)", None)):
        with SyscallRecorder(socket_number=number(Arch.native(), "socket")) as own:
            child = launch(["/usr/bin/python3", "-c", script + extra], hold=True)
            own.add(child.pid)
            child.release()
            assert child.wait() == 0
            child.close()
            assert own.families() == found
    assert recorder.families() == frozenset(), "nobody asked this one for families"


def test_nothing_is_seen_of_others_and_after_stop(recorder: SyscallRecorder) -> None:
    os.getppid()
    assert recorder.calls() == frozenset()
    child = launch(["/bin/true"], hold=True)
    recorder.add(child.pid)
    recorder.stop()
    child.release()
    child.wait()
    child.close()
    # Until it executed, the held child had our descriptors, those of the links among them.
    assert recorder.calls() <= {(Abi.NATIVE, number(Arch.native(), "execve"))}


def test_nothing_of_it_stays_open(recorder: SyscallRecorder) -> None:
    def descriptors() -> list[str]:
        found = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                found.append(os.readlink(f"/proc/self/fd/{name}"))
        return [target for target in found if "bpf" in target]

    before = descriptors()
    SyscallRecorder().close()
    assert sorted(descriptors()) == sorted(before)


def test_forked_children_are_recorded_and_forgotten(recorder: SyscallRecorder) -> None:
    child = launch(["sh", "-c", "(setsid sleep 0.3 &) ; exit 0"], hold=True)
    recorder.add(child.pid)
    child.release()
    child.wait()
    assert recorder.pids()
    deadline = time.monotonic() + 10
    while recorder.pids() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert recorder.pids() == []
    assert (Abi.NATIVE, number(Arch.native(), "setsid")) in recorder.calls()
    child.close()


def test_an_object_of_another_version_is_told(recorder: SyscallRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CALLS", MAX_CALLS // 2)
    with pytest.raises(KernelError, match="does not fit"):
        recorder.calls()


def test_without_privileges_what_libbpf_says_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "EPERM: Failed to bump RLIMIT_MEMLOCK (err = -1), you might need to do it explicitly!"
    monkeypatch.setattr(module.Object, "load", lambda _: LoadFailure(errno.EPERM, "", said))
    with pytest.raises(KernelError, match="cannot be loaded: Operation not permitted") as caught:
        SyscallRecorder()
    assert "RLIMIT" not in str(caught.value)
    assert "CAP_BPF" in caught.value.hint
    monkeypatch.setattr(module.Object, "load", lambda _: LoadFailure(errno.EINVAL, "", "EINVAL: a reason"))
    with pytest.raises(KernelError, match="a reason"):
        SyscallRecorder()


def test_what_is_no_object(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.bpf.o"
    wrong.write_bytes(b"\x7fELF")
    with pytest.raises(KernelError):
        SyscallRecorder(path=wrong)
    assert OBJECT.exists()

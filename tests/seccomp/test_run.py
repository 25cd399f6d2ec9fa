# SPDX-License-Identifier: Apache-2.0
"""`bpfence seccomp run`: every action, flag and door, on the running kernel."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bpfence.confine.supervise import hung_up
from bpfence.kernel.seccomp import Listener
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import number

from .conftest import PYTHON, ROOT, Bpfence, Profile

GETPPID = number(Arch.X86_64, "getppid") or 0
GETUID = number(Arch.X86_64, "getuid") or 0
GETPPID_32 = number(Arch.X86, "getppid") or 0
SIGSYS = 128 + signal.SIGSYS
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def test_allow(bpfence: Bpfence, profile: Profile, call: str) -> None:
    done = bpfence("run", "--profile", profile(), "--", call, "x86_64", str(GETPPID))
    assert (done.returncode, int(done.stdout) > 0) == (0, True)


@pytest.mark.parametrize(
    ("document", "result"),
    [
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": errno.EACCES}, -errno.EACCES),
        ({"action": "SCMP_ACT_ERRNO"}, -errno.EPERM),
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": 0}, 0),
    ],
)
def test_errno(bpfence: Bpfence, profile: Profile, call: str, document: dict[str, object], result: int) -> None:
    path = profile(syscalls=[{"names": ["getppid"], **document}])
    done = bpfence("run", "--profile", path, "--", call, "x86_64", str(GETPPID))
    assert (done.returncode, done.stdout) == (0, f"{result}\n"), done.stderr


@pytest.mark.parametrize(
    ("mask", "datum", "denied"), [(0, 4, ["0", "4"]), (6, 5, ["4", "13"]), (6, 4, ["4", "13"]), (0xFFFFFFFF00000006, 5, ["4", "13"])]
)
def test_bits_outside_the_mask_are_dropped(bpfence: Bpfence, profile: Profile, call: str, mask: int, datum: int, denied: list[str]) -> None:
    args = [{"index": 1, "value": mask, "valueTwo": datum, "op": "SCMP_CMP_MASKED_EQ"}]
    path = profile(syscalls=[{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "args": args}])
    for second in denied:
        done = bpfence("run", "--profile", path, "--", call, "x86_64", str(GETPPID), "7", second)
        assert done.stdout == f"{-errno.EPERM}\n", done.stderr
    done = bpfence("run", "--profile", path, "--", call, "x86_64", str(GETPPID), "7", "6")
    assert (int(done.stdout) > 0) is (mask != 0)


def test_values_are_cut_to_the_arguments_of_32_bit_calls(bpfence: Bpfence, profile: Profile, call: str) -> None:
    args = [{"index": 1, "value": (1 << 32) + 7, "op": "SCMP_CMP_EQ"}]
    rules = [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "args": args}]
    path = profile(architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], syscalls=rules)
    for door, nr in (("x86_64", GETPPID), ("i386", GETPPID_32)):
        done = bpfence("run", "--profile", path, "--", call, door, str(nr), "0", "7")
        assert (int(done.stdout) == -errno.EPERM) is (door == "i386"), done.stderr


def test_default_errno(bpfence: Bpfence, profile: Profile, call: str) -> None:
    # What a static program needs, and nothing else.
    needs = "execve brk arch_prctl set_tid_address set_robust_list rseq prlimit64 readlinkat readlink getrandom mprotect newfstatat fstat"
    needs += " write exit_group"
    path = profile(defaultAction="SCMP_ACT_ERRNO", defaultErrnoRet=77, syscalls=[{"names": needs.split(), "action": "SCMP_ACT_ALLOW"}])
    done = bpfence("run", "--profile", path, "--", call, "x86_64", str(GETPPID))
    assert (done.returncode, done.stdout) == (0, "-77\n"), done.stderr


@pytest.mark.parametrize("action", ["KILL_PROCESS", "KILL"])
def test_kill(bpfence: Bpfence, profile: Profile, call: str, action: str) -> None:
    done = bpfence("run", "--profile", profile({"getppid": action}), "--", call, "x86_64", str(GETPPID))
    assert (done.returncode, done.stdout) == (SIGSYS, "")
    assert "SIGSYS" in done.stderr


@pytest.mark.parametrize(("action", "left"), [("KILL_THREAD", "alive\n"), ("KILL", "alive\n"), ("KILL_PROCESS", "")])
def test_kill_a_thread_or_all(bpfence: Bpfence, profile: Profile, call: str, action: str, left: str) -> None:
    done = bpfence("run", "--profile", profile({"getppid": action}), "--", call, "thread", str(GETPPID))
    assert (done.returncode, done.stdout) == (0 if left else SIGSYS, left)


def test_trap(bpfence: Bpfence, profile: Profile, call: str) -> None:
    path = profile({"getppid": "TRAP"})
    assert bpfence("run", "--profile", path, "--", call, "trap", str(GETPPID)).stdout == f"SIGSYS {GETPPID}\n"
    assert bpfence("run", "--profile", path, "--", call, "x86_64", str(GETPPID)).returncode == SIGSYS


def test_trace_without_a_tracer(bpfence: Bpfence, profile: Profile, call: str) -> None:
    done = bpfence("run", "--profile", profile({"getppid": "TRACE"}), "--", call, "x86_64", str(GETPPID))
    assert done.stdout == f"{-errno.ENOSYS}\n"


def test_trace_with_a_tracer(profile: Profile, call: str) -> None:
    path = profile(syscalls=[{"names": ["getuid"], "action": "SCMP_ACT_TRACE", "errnoRet": 321}])
    command = [call, "tracer", sys.executable, "-m", "bpfence", "seccomp", "run", "--profile", path, "--", call, "x86_64", str(GETUID)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=ENVIRONMENT)
    assert (done.returncode, done.stdout) == (0, "TRACE 321\n77\n"), done.stderr


def test_log_lets_through(bpfence: Bpfence, profile: Profile, call: str) -> None:
    done = bpfence("run", "--profile", profile({"getppid": "LOG"}), "--", call, "x86_64", str(GETPPID))
    assert (done.returncode, int(done.stdout) > 0) == (0, True)


def test_notify_needs_a_listener(bpfence: Bpfence, profile: Profile, call: str) -> None:
    done = bpfence("run", "--profile", profile({"getppid": "NOTIFY"}), "--", call, "x86_64", str(GETPPID))
    assert done.returncode == 2
    assert "listenerPath" in done.stderr


def test_notify_goes_to_the_listener_path(bpfence: Bpfence, profile: Profile, call: str, tmp_path: Path) -> None:
    place, calls, states = str(tmp_path / "listener"), [], []

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            state, descriptors, _, _ = socket.recv_fds(connection, 65536, 1)
        states.append(json.loads(state))
        listener = Listener(descriptors[0])
        while not hung_up(listener.fd):
            found = listener.receive()
            if found is not None:
                calls.append((found.arch, found.nr, found.args[0]))
                listener.refuse(found.id, errno.EXDEV)
        os.close(listener.fd)

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(place)
        server.listen(1)
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        path = profile({"getppid": "NOTIFY"}, listenerPath=place, listenerMetadata="who asks")
        done = bpfence("run", "--profile", path, "--", call, "x86_64", str(GETPPID), "0x1234")
        thread.join(5)
    assert (done.returncode, done.stdout) == (0, f"{-errno.EXDEV}\n"), done.stderr
    assert calls == [(Arch.X86_64.audit, GETPPID, 0x1234)]
    (state,) = states
    assert (state["fds"], state["metadata"], state["state"]["status"]) == (["seccompFd"], "who asks", "creating")
    assert state["pid"] == state["state"]["pid"] > 0


def test_a_listener_path_that_nobody_serves(bpfence: Bpfence, profile: Profile, tmp_path: Path) -> None:
    done = bpfence("run", "--profile", profile({"getppid": "NOTIFY"}, listenerPath=str(tmp_path / "none")), "--", "true")
    assert done.returncode == 2
    assert "cannot be reached" in done.stderr


# ---- flags ----


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["SECCOMP_FILTER_FLAG_LOG"],
        ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        ["SECCOMP_FILTER_FLAG_TSYNC"],
        ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
    ],
    ids=["none", "LOG", "SPEC_ALLOW", "TSYNC", "all"],
)
def test_flags(bpfence: Bpfence, profile: Profile, call: str, flags: list[str]) -> None:
    done = bpfence("run", "--profile", profile({"getppid": "ERRNO"}, flags=flags), "--", call, "x86_64", str(GETPPID))
    assert (done.returncode, done.stdout) == (0, "-1\n"), done.stderr


@pytest.mark.parametrize(("flags", "mitigated"), [([], True), (["SECCOMP_FILTER_FLAG_SPEC_ALLOW"], False), (None, False)])
def test_spec_allow_decides_over_mitigations(bpfence: Bpfence, profile: Profile, flags: list[str] | None, mitigated: bool) -> None:
    """Without SPEC_ALLOW the kernel turns speculative store bypass off where it is set to do so for seccomp; a missing `flags` means it."""
    script = "grep -E 'Speculation_Store_Bypass|SpeculationIndirectBranch' /proc/self/status"
    plain = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False).stdout
    more = {} if flags is None else {"flags": flags}
    inside = bpfence("run", "--profile", profile({"getppid": "ERRNO"}, **more), "--", "sh", "-c", script).stdout
    if not mitigated:
        assert inside == plain
    elif inside == plain:
        pytest.skip("needs a kernel with spec_store_bypass_disable=seccomp")


def test_wait_killable_needs_a_listener_to_mean_anything(bpfence: Bpfence, profile: Profile, call: str) -> None:
    path = profile({"getppid": "NOTIFY"}, flags=["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])
    done = bpfence("supervise", "--profile", path, "--", call, "x86_64", str(GETPPID))
    assert (done.returncode, done.stdout) == (0, "-1\n"), done.stderr


TSYNC = """
import os, sys, threading
from bpfence.confine.command import as_filter, compiled_here, read_profile
from bpfence.kernel.seccomp import Filter, Flag, apply
compiled = as_filter(compiled_here(read_profile(sys.argv[1])))
started, go = threading.Event(), threading.Event()
def earlier():
    started.set(); go.wait(); print(os.getppid())
thread = threading.Thread(target=earlier); thread.start(); started.wait()
apply([Filter(compiled.program, Flag(int(sys.argv[2])))])
go.set(); thread.join(); print(os.getppid())
"""


@pytest.mark.parametrize(("flag", "escaped"), [(1, False), (0, True)], ids=["TSYNC", "without"])
def test_a_thread_made_before_cannot_escape_tsync(profile: Profile, flag: int, escaped: bool) -> None:
    """And does without the flag: so it is the flag that holds it."""
    command = [sys.executable, "-c", TSYNC, profile({"getppid": "ERRNO"}), str(flag)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=ENVIRONMENT)
    before, own = (int(line) for line in done.stdout.split())
    assert own == -1
    assert (before > 0) is escaped


# ---- doors ----


@pytest.mark.parametrize("door", ["i386", "x32"])
def test_other_doors_are_shut_by_an_x86_64_profile(bpfence: Bpfence, profile: Profile, call: str, door: str) -> None:
    """libseccomp's answer to an architecture that is not in the profile is to kill the thread; of a process with one, all of it."""
    nr = GETPPID_32 if door == "i386" else GETPPID
    assert bpfence("run", "--profile", profile(), "--", call, door, str(nr)).returncode == SIGSYS


def test_doors_of_the_profile_are_open_and_judged(bpfence: Bpfence, profile: Profile, call: str) -> None:
    arches = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    allowing, denying = profile(architectures=arches), profile({"getppid": "ERRNO"}, architectures=arches)
    assert int(bpfence("run", "--profile", allowing, "--", call, "i386", str(GETPPID_32)).stdout) > 0
    assert bpfence("run", "--profile", denying, "--", call, "i386", str(GETPPID_32)).stdout == "-1\n"
    assert bpfence("run", "--profile", denying, "--", call, "x32", str(GETPPID)).stdout == "-1\n"


# ---- the command ----


def test_the_filter_survives_exec_and_fork(bpfence: Bpfence, profile: Profile, call: str) -> None:
    script = f"exec sh -c '{call} x86_64 {GETPPID}; exec {call} x86_64 {GETPPID}'"
    done = bpfence("run", "--profile", profile({"getppid": "ERRNO"}), "--", "sh", "-c", script)
    assert done.stdout.splitlines()[-2:] == ["-1", "-1"]


def test_filters_stack_and_the_strictest_counts(bpfence: Bpfence, profile: Profile, call: str) -> None:
    outer, inner = profile({"getppid": "ERRNO"}), profile({"getppid": "KILL_PROCESS"})
    words = [sys.executable, "-m", "bpfence", "seccomp", "run", "--profile", inner, "--", call, "x86_64", str(GETPPID)]
    assert bpfence("run", "--profile", outer, "--", *words).returncode == SIGSYS


def test_no_new_privs(bpfence: Bpfence, profile: Profile) -> None:
    done = bpfence("run", "--profile", profile(), "--", "grep", "-E", "^(NoNewPrivs|Seccomp):", "/proc/self/status")
    assert done.stdout.split() == ["NoNewPrivs:", "1", "Seccomp:", "2"]


def test_without_privileges(bpfence: Bpfence, profile: Profile, call: str, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root, to become somebody else")
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    path = profile({"getppid": "ERRNO"})
    done = bpfence("run", "--profile", path, "--", call, "x86_64", str(GETPPID), user=65534, group=65534, extra_groups=[])
    if "Permission denied" in done.stderr and "python" in done.stderr:
        pytest.skip("needs a repository that user nobody may read")
    assert (done.returncode, done.stdout) == (0, "-1\n"), done.stderr


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)])
def test_the_exit_code_is_the_commands(bpfence: Bpfence, profile: Profile, script: str, code: int) -> None:
    assert bpfence("run", "--profile", profile(), "--", "sh", "-c", script).returncode == code


def test_commands_that_cannot_be_run(bpfence: Bpfence, profile: Profile, tmp_path: Path) -> None:
    path = profile()
    assert bpfence("run", "--profile", path, "--", "no-such-command").returncode == 127
    plain = tmp_path / "plain"
    plain.write_text("")
    done = bpfence("run", "--profile", path, "--", str(plain))
    assert done.returncode == 126
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize(("action", "code"), [("ERRNO", 126), ("TRACE", 126), ("KILL_PROCESS", SIGSYS)])
def test_a_profile_that_denies_execve_is_named(bpfence: Bpfence, profile: Profile, action: str, code: int) -> None:
    path = profile({"execve": action, "exit_group": "ERRNO"})
    done = bpfence("run", "--profile", path, "--", "true")
    assert done.returncode == code
    assert f"the profile {path} denies execve, which starts the command: {action}" in done.stderr
    assert "(line 1)" in done.stderr


def test_a_program_of_another_architecture_is_named(bpfence: Bpfence, profile: Profile, tmp_path: Path) -> None:
    source, target = tmp_path / "exit.c", tmp_path / "exit"
    source.write_text('void _start(void) { __asm__ volatile("int $0x80" : : "a"(1), "b"(7)); for (;;) {} }')
    built = subprocess.run(["gcc", "-m32", "-static", "-nostdlib", "-o", str(target), str(source)], check=False, capture_output=True)
    if built.returncode:
        pytest.skip("needs a gcc that builds 32-bit programs")
    path = profile()
    done = bpfence("run", "--profile", path, "--", str(target))
    assert done.returncode == SIGSYS
    assert f"it is a program for x86, and the profile {path} covers x86_64 only; add SCMP_ARCH_X86" in done.stderr
    both = profile(architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"])
    assert bpfence("run", "--profile", both, "--", str(target)).returncode == 7


def test_signals_are_passed_on(profile: Profile) -> None:
    command = [sys.executable, "-m", "bpfence", "seccomp", "run", "--profile", profile(), "--", "sh", "-c"]
    script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done"
    with subprocess.Popen([*command, script], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 9


@pytest.mark.parametrize("words", [("run", "--profile"), ("supervise", "--profile"), ("learn", "--audit")])
def test_an_interrupt_to_bpfence_alone_ends_the_command(profile: Profile, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "bpfence", "seccomp", *words, profile(), "--", "sh", "-c", "echo ready; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 128 + signal.SIGINT


@pytest.mark.parametrize("words", [("run",), ("supervise",)])
def test_an_interrupt_of_the_terminal_comes_once(profile: Profile, words: tuple[str, ...]) -> None:
    script = "import signal, time; seen = []; signal.signal(2, lambda *_: seen.append(1)); print('ready', flush=True); time.sleep(1.5)"
    script += "; print(len(seen), 'seen', flush=True)"
    command = [sys.executable, "-m", "bpfence", "seccomp", *words, "--profile", profile(), "--", PYTHON, "-c", script]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, ENVIRONMENT)
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 4096)
    os.write(terminal, b"\x03")
    while b"seen" not in said:
        said += os.read(terminal, 4096)
    os.waitpid(pid, 0)
    os.close(terminal)
    assert b"1 seen" in said


@pytest.mark.parametrize("words", [("run",), ("supervise",)])
def test_what_was_ignored_stays_ignored(profile: Profile, words: tuple[str, ...]) -> None:
    """As after nohup; and handlers of bpfence itself are not what the command begins with."""
    script = "import signal as s; print(s.getsignal(s.SIGHUP) == s.SIG_IGN, s.getsignal(s.SIGTERM) == s.SIG_DFL)"
    bpfence = f"{sys.executable} -m bpfence seccomp {' '.join(words)} --profile {profile()}"
    command = ["sh", "-c", f"trap '' HUP; exec {bpfence} -- {PYTHON} -c '{script}'"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=60)
    assert done.stdout == "True True\n", done.stderr


def test_descriptors_do_not_leak(bpfence: Bpfence, profile: Profile) -> None:
    script = "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))"
    plain = subprocess.run([PYTHON, "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
    for words in (("run",), ("supervise",)):
        assert bpfence(*words, "--profile", profile(), "--", PYTHON, "-c", script).stdout == plain


def test_wrong_profiles_and_arguments(bpfence: Bpfence, profile: Profile, tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text('{"defaultAction": "SCMP_ACT_ALOW"}')
    done = bpfence("run", "--profile", str(broken), "--", "true")
    assert done.returncode == 2
    assert f"{broken}:1:" in done.stderr
    assert bpfence("run", "--profile", profile(), "--cap", "CAP_NONSENSE", "--", "true").returncode == 2
    assert bpfence("run", "--profile", profile()).returncode == 2

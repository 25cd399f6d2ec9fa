# SPDX-License-Identifier: Apache-2.0
"""`bpfence seccomp learn`: what it sees, that it is the same each time, and that what was learned is enough."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bpfence.errors import KernelError
from bpfence.host.cgroups import find_hierarchy
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import number

from .conftest import PYTHON, ROOT, Bpfence, Profile, corpus, program

pytestmark = pytest.mark.usefixtures("recorder")

GETPPID = number(Arch.X86_64, "getppid") or 0
PYTHON_RUN = [PYTHON, "-c", "import ssl, socket"]


def sqlite(folder: Path) -> list[str]:
    script = "drop table if exists t; create table t(a); insert into t values(1); select * from t"
    return [program("sqlite3", "sqlite3"), str(folder / "db"), script]


@pytest.fixture
def nginx() -> Iterator[tuple[list[str], int]]:
    """A command that runs nginx in the foreground with two workers, and its port. Its folder is one that its user may enter."""
    path = program("nginx", "nginx-light")
    folder = Path(tempfile.mkdtemp(prefix="bpfence-nginx-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "www").mkdir(exist_ok=True)
    folder.chmod(0o755)
    (folder / "www" / "index.html").write_text("welcome " * 4000)
    user = "user www-data;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(f"""
        {user} daemon off; worker_processes 2; pid {folder}/pid; error_log {folder}/error.log;
        events {{ worker_connections 64; }}
        http {{
            access_log {folder}/access.log; sendfile on;
            client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c; uwsgi_temp_path {folder}/d;
            scgi_temp_path {folder}/e;
            server {{ listen 127.0.0.1:{port}; root {folder}/www; }}
        }}""")
    yield [path, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")], port
    shutil.rmtree(folder)


def serve(words: list[str], port: int) -> tuple[int, str]:
    """Starts nginx through bpfence, fetches pages, stops it: exit code and standard error."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    command = [sys.executable, "-m", "bpfence", "seccomp", *words]
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as server:
        deadline = time.monotonic() + 20
        fetched = 0
        while fetched < 5 and time.monotonic() < deadline and server.poll() is None:
            try:
                with opener.open(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    assert answer.read().startswith(b"welcome")
                fetched += 1
            except OSError:
                time.sleep(0.05)
        with contextlib.suppress(OSError):
            opener.open(f"http://127.0.0.1:{port}/none", timeout=5)
        server.send_signal(signal.SIGTERM)
        said = server.communicate(timeout=30)[0]
    assert fetched == 5, said
    return server.returncode, said


def names_of(path: Path) -> set[str]:
    return {name for rule in json.loads(path.read_text())["syscalls"] for name in rule["names"]}


def test_a_learned_profile_is_an_allow_list_in_order(bpfence: Bpfence, tmp_path: Path) -> None:
    out = tmp_path / "ls.json"
    assert bpfence("learn", "-o", str(out), "--", "/bin/ls", "/").returncode == 0
    document = json.loads(out.read_text())
    assert (document["defaultAction"], document["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", errno.EPERM)
    assert document["architectures"] == ["SCMP_ARCH_X86_64"]
    (rule,) = document["syscalls"]
    assert rule["action"] == "SCMP_ACT_ALLOW"
    assert rule["names"] == sorted(set(rule["names"]))
    assert {"execve", "openat", "getdents64", "write", "restart_syscall", "rt_sigreturn", "clock_gettime"} <= set(rule["names"])
    assert not {"socket", "clone", "ptrace", "mkdir"} & set(rule["names"])
    assert bpfence("check", str(out)).returncode == 0
    # A device is written to and not replaced.
    assert bpfence("learn", "-o", "/dev/null", "--", "/bin/true").returncode == 0
    assert Path("/dev/null").is_char_device()


def test_only_the_commands_own_calls_are_seen(bpfence: Bpfence, call: str, tmp_path: Path) -> None:
    """Neither those of bpfence that start it nor those of others that run meanwhile."""
    out = tmp_path / "out.json"
    other = subprocess.Popen([call, "forever", str(number(Arch.X86_64, "getpriority"))])
    try:
        assert bpfence("learn", "-o", str(out), "--", call, "x86_64", str(GETPPID)).returncode == 0
    finally:
        other.kill()
        other.wait()
    assert "getppid" in names_of(out)
    assert not {"getpriority", "seccomp", "prctl", "rt_sigaction", "rt_sigprocmask", "clone", "bpf"} & names_of(out)


def test_descendants_of_every_kind_are_seen(bpfence: Bpfence, call: str, tmp_path: Path) -> None:
    """A grandchild in the background that outlives the command, in a session of its own."""
    nr = number(Arch.X86_64, "getpriority")
    script = f"(setsid sh -c 'sleep 0.3; {call} x86_64 {nr}' >/dev/null 2>&1 &)"
    for how in ([], ["--no-cgroup"]):
        out = tmp_path / "out.json"
        done = bpfence("learn", *how, "-o", str(out), "--", "sh", "-c", script)
        assert done.returncode == 0, done.stderr
        assert {"getpriority", "setsid"} <= names_of(out)


def test_both_ways_of_telling_processes_agree(bpfence: Bpfence, tmp_path: Path) -> None:
    try:
        find_hierarchy()
    except KernelError as error:
        pytest.skip(f"needs cgroup v2: {error}")
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    script = "ls / | wc -l; exec /bin/true"
    assert bpfence("learn", "-o", str(one), "--", "sh", "-c", script).returncode == 0
    assert bpfence("learn", "--no-cgroup", "-o", str(two), "--", "sh", "-c", script).returncode == 0
    assert one.read_bytes() == two.read_bytes()


def test_doors_are_told_apart(bpfence: Bpfence, call: str, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    script = f"{call} i386 {number(Arch.X86, 'getpriority')}; {call} x32 {GETPPID}"
    assert bpfence("learn", "-o", str(out), "--", "sh", "-c", script).returncode == 0
    document = json.loads(out.read_text())
    assert sorted(document["architectures"]) == ["SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64"]
    assert "getpriority" in names_of(out)
    assert bpfence("run", "--profile", str(out), "--", "sh", "-c", script).stdout.splitlines()[0] != "-1"


def test_families_of_sockets_are_learned(bpfence: Bpfence, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    script = "import socket as s; s.socket(s.AF_INET)"
    assert bpfence("learn", "-o", str(out), "--", PYTHON, "-c", script).returncode == 0
    for family, code in (("AF_INET", 0), ("AF_UNIX", 0), ("AF_ALG", 1), ("AF_PACKET", 1), ("AF_VSOCK", 1)):
        done = bpfence("run", "--profile", str(out), "--", PYTHON, "-c", script.replace("AF_INET", family))
        assert (done.returncode, "PermissionError" in done.stderr) == (code, bool(code)), (family, done.stderr)
    crypto = [PYTHON, "-c", script.replace("AF_INET", "AF_ALG, s.SOCK_SEQPACKET")]
    assert bpfence("learn", "--audit", str(out), "-o", str(out), "--", *crypto).returncode == 1
    # Whether the kernel has the family is its own affair.
    assert "PermissionError" not in bpfence("run", "--profile", str(out), "--", *crypto).stderr
    other = [PYTHON, "-c", script.replace("AF_INET", "AF_VSOCK")]
    assert "PermissionError" in bpfence("run", "--profile", str(out), "--", *other).stderr


def test_the_runtimes_calls_on_request(bpfence: Bpfence, tmp_path: Path) -> None:
    for runtime, call in (("runc", "epoll_pwait"), ("crun", "keyctl")):
        out = tmp_path / f"{runtime}.json"
        assert bpfence("learn", "--for", runtime, "-o", str(out), "--", "/bin/true").returncode == 0
        assert call in names_of(out)


def test_the_exit_code_and_what_cannot_be_run(bpfence: Bpfence, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = bpfence("learn", "-o", str(out), "--", "sh", "-c", "exit 5")
    assert (done.returncode, "ended with 5" in done.stderr) == (5, True)
    out.unlink()
    assert bpfence("learn", "-o", str(out), "--", "no-such-command").returncode == 127
    assert not out.exists()


def test_duration_ends_what_does_not_end(bpfence: Bpfence, tmp_path: Path) -> None:
    begun = time.monotonic()
    done = bpfence("learn", "--duration", "0.5", "-o", str(tmp_path / "out.json"), "--", "sh", "-c", "sleep 100 & sleep 100")
    assert done.returncode == 143
    assert time.monotonic() - begun < 20
    assert "clock_nanosleep" in names_of(tmp_path / "out.json")


# ---- what was learned is enough ----


def learned(bpfence: Bpfence, tmp_path: Path, command: list[str]) -> Path:
    """Learned twice: the two are the same, byte by byte."""
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    for out in (one, two):
        done = bpfence("learn", "-o", str(out), "--", *command)
        assert done.returncode == 0, done.stderr
    assert one.read_bytes() == two.read_bytes()
    return one


@pytest.mark.parametrize("workload", ["python3", "sqlite3", "ls"])
def test_the_same_workload_runs_under_its_profile(bpfence: Bpfence, tmp_path: Path, workload: str) -> None:
    command = {"python3": lambda: PYTHON_RUN, "sqlite3": lambda: sqlite(tmp_path), "ls": lambda: ["/bin/ls", "-l", "/"]}[workload]()
    path = learned(bpfence, tmp_path, command)
    for _ in range(3):
        done = bpfence("run", "--profile", str(path), "--", *command)
        assert done.returncode == 0, done.stderr
        audit = bpfence("learn", "--audit", str(path), "--json", "--", *command)
        assert audit.returncode == 0, audit.stdout + audit.stderr
        assert json.loads(audit.stdout[audit.stdout.index("{") :])["denied"] == []


def test_nginx_runs_under_its_profile(nginx: tuple[list[str], int], tmp_path: Path) -> None:
    command, port = nginx
    profiles = []
    serve(["learn", "-o", str(tmp_path / "first.json"), "--", *command], port)  # the first start makes folders that later ones find
    for attempt in range(2):
        out = tmp_path / f"{attempt}.json"
        code, said = serve(["learn", "-o", str(out), "--", *command], port)
        assert code == 0, said
        profiles.append(out.read_bytes())
    assert profiles[0] == profiles[1]
    for _ in range(3):
        code, said = serve(["learn", "--audit", str(tmp_path / "0.json"), "--", *command], port)
        assert (code, "would have denied nothing" in said) == (0, True), said
        code, said = serve(["run", "--profile", str(tmp_path / "0.json"), "--", *command], port)
        assert code == 0, said


# ---- a tutorial's profile ----


def test_a_tutorial_profile_is_mended_by_learning(bpfence: Bpfence, tmp_path: Path) -> None:
    """It lacks what today's C library starts every program with; merging what three programs use makes it work for them."""
    path = corpus("tutorial/seccomp-profile.json")
    ran = bpfence("run", "--profile", path, "--", "/bin/ls", "/")
    audit = bpfence("learn", "--audit", path, "--json", "--", "/bin/ls", "-l", "/")
    lacking = {found["name"] for found in json.loads(audit.stdout[audit.stdout.index("{\n") :])["denied"]}
    assert audit.returncode == 1
    assert {"rseq", "statx", "getdents64"} <= lacking
    assert ran.returncode != 0 or ran.stderr
    mended = tmp_path / "mended.json"
    shutil.copy(path, mended)
    commands = [["/bin/ls", "-l", "/"], PYTHON_RUN]
    for command in commands:
        done = bpfence("learn", "--merge", str(mended), "-o", str(mended), "--", *command)
        assert done.returncode == 0, done.stderr
    for command in commands:
        done = bpfence("run", "--profile", str(mended), "--", *command)
        assert (done.returncode, done.stderr) == (0, "")
        assert bpfence("learn", "--audit", str(mended), "--", *command).returncode == 0
    # What it denied on purpose it still denies.
    assert bpfence("run", "--profile", str(mended), "--", "mount", "-t", "tmpfs", "none", "/mnt").returncode != 0


def test_a_tutorial_profile_is_mended_for_nginx(nginx: tuple[list[str], int], tmp_path: Path) -> None:
    path = corpus("tutorial/seccomp-profile.json")
    command, port = nginx
    mended = tmp_path / "mended.json"
    code, said = serve(["learn", "--merge", path, "-o", str(mended), "--", *command], port)
    assert code == 0, said
    assert {"accept4", "epoll_wait"} <= names_of(mended)
    code, said = serve(["run", "--profile", str(mended), "--", *command], port)
    assert code == 0, said


# ---- audit ----


def test_audit_denies_nothing_and_tells_all(bpfence: Bpfence, profile: Profile, call: str, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    path = profile({"mkdir": "ERRNO", "rmdir": "KILL_PROCESS", "getppid": "TRAP"})
    done = bpfence("learn", "--audit", path, "--json", "--", "sh", "-c", f"mkdir {folder} && rmdir {folder} && {call} x86_64 {GETPPID}")
    assert done.returncode == 1, done.stderr
    found = {entry["name"]: entry for entry in json.loads(done.stdout[done.stdout.index("{") :])["denied"]}
    assert {name: entry["verdict"] for name, entry in found.items()} == {
        "mkdir": "ERRNO(EPERM)", "rmdir": "KILL_PROCESS", "getppid": "TRAP",
    }  # fmt: skip
    assert found["mkdir"]["args"]["path"] == str(folder)
    assert re.search(r"/(mkdir|busybox|coreutils)", found["mkdir"]["exe"])
    assert not folder.exists()


def test_audit_judges_arguments_and_other_doors(bpfence: Bpfence, profile: Profile, call: str) -> None:
    """A bitmap of calls could not: only the second of these is denied, and the third comes by a door that the profile shuts."""
    only = [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]
    path = profile(syscalls=[{"names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": only}])
    nr = number(Arch.X86_64, "personality")
    script = f"{call} x86_64 {nr} 0xffffffff; {call} x86_64 {nr} 8; {call} i386 {number(Arch.X86, 'getppid')}"
    done = bpfence("learn", "--audit", path, "--json", "--", "sh", "-c", script)
    denied = json.loads(done.stdout[done.stdout.index("{") :])["denied"]
    assert [(found["name"], found["times"]) for found in denied if found["arch"] == "x86_64"] == [("personality", 1)]
    assert ("getppid", "x86", "KILL_THREAD") in [(found["name"], found["arch"], found["verdict"]) for found in denied]


def test_audit_writes_the_profile_with_what_it_lacks(bpfence: Bpfence, tmp_path: Path) -> None:
    small, enough = tmp_path / "small.json", tmp_path / "enough.json"
    names = ["execve", "brk", "mmap", "openat", "read", "close", "fstat", "newfstatat", "munmap", "mprotect", "exit_group", "write"]
    small.write_text(json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": names, "action": "SCMP_ACT_ALLOW"}]}))
    assert bpfence("learn", "--audit", str(small), "-o", str(enough), "--", "/bin/ls", "/").returncode == 1
    assert bpfence("run", "--profile", str(enough), "--", "/bin/ls", "/").returncode == 0
    assert bpfence("learn", "--audit", str(enough), "--", "/bin/ls", "/").returncode == 0

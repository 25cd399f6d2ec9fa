# SPDX-License-Identifier: Apache-2.0
"""Docker's default profile with Docker's default capabilities: ordinary programs work, what it is there to stop is stopped."""

from __future__ import annotations

import errno

import pytest

from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import number

from .conftest import PYTHON, ROOT, Bpfence, corpus, program

DEFAULT = "oci-seccomp/moby-default.json"

WEB_SERVER = """
import http.server, threading, urllib.request
class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *a): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
threading.Thread(target=server.serve_forever, daemon=True).start()
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for _ in range(5):
    print(opener.open(f"http://127.0.0.1:{server.server_port}/").status)
server.shutdown()
"""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["sh", "-c", "echo $((6 * 7)) | cat; (exit 3) || echo sub"], "42\nsub\n"),
        ([PYTHON, "-c", "import ssl, socket, subprocess as s; print(s.check_output(['echo', 'out']).decode(), end='')"], "out\n"),
        (["apt-get", "--version"], "apt "),
        ([PYTHON, "-c", WEB_SERVER], "200\n" * 5),
    ],
    ids=["sh", "python3", "apt-get", "web server"],
)
def test_ordinary_programs_work(bpfence: Bpfence, command: list[str], said: str) -> None:
    path = corpus(DEFAULT)
    program(command[0], "apt")
    done = bpfence("run", "--profile", path, "--", *command)
    assert (done.returncode, done.stdout[: len(said)]) == (0, said), done.stderr


@pytest.mark.parametrize("name", ["unshare", "mount", "keyctl", "bpf", "io_uring_setup", "setns", "perf_event_open", "add_key"])
@pytest.mark.parametrize("door", [(Arch.X86_64, "x86_64"), (Arch.X86, "i386"), (Arch.X32, "x32")], ids=lambda door: door[1])
def test_what_it_stops_fails_with_eperm(bpfence: Bpfence, call: str, name: str, door: tuple[Arch, str]) -> None:
    """By every door: the arguments are such that the kernel itself would give another error (EINVAL, EFAULT, EBADF)."""
    path = corpus(DEFAULT)
    arch, word = door
    nr = number(arch, name)
    assert nr is not None
    arguments = [str(nr & ~0x40000000), "0xdead0000", "0", "0", "0xdead0000"]
    assert bpfence("run", "--profile", path, "--", call, word, *arguments).stdout == f"{-errno.EPERM}\n"


def test_tools_that_it_stops(bpfence: Bpfence) -> None:
    path = corpus(DEFAULT)
    for command in (["unshare", "-U", "true"], ["mount", "-t", "tmpfs", "none", "/mnt"]):
        program(command[0], "util-linux mount")
        done = bpfence("run", "--profile", path, "--", *command)
        assert done.returncode != 0
        assert "not permitted" in done.stderr or "permission denied" in done.stderr


def test_clone3_falls_back_and_namespaces_by_clone_do_not_pass(bpfence: Bpfence, call: str) -> None:
    path = corpus(DEFAULT)
    clone, clone3 = number(Arch.X86_64, "clone"), number(Arch.X86_64, "clone3")
    assert bpfence("run", "--profile", path, "--", call, "x86_64", str(clone3)).stdout == f"{-errno.ENOSYS}\n"
    assert bpfence("run", "--profile", path, "--", call, "x86_64", str(clone), hex(0x10000000)).stdout == f"{-errno.EPERM}\n"


def test_the_shipped_example_serves_and_stops(bpfence: Bpfence, call: str) -> None:
    path = str(ROOT / "examples" / "seccomp" / "web-service.json")
    done = bpfence("run", "--profile", path, "--", PYTHON, "-c", WEB_SERVER)
    assert (done.returncode, done.stdout) == (0, "200\n" * 5), done.stderr
    for name in ("mount", "ptrace", "bpf"):
        assert bpfence("run", "--profile", path, "--", call, "x86_64", str(number(Arch.X86_64, name))).stdout == f"{-errno.EPERM}\n"


def test_a_capability_opens_what_belongs_to_it(bpfence: Bpfence, call: str) -> None:
    path = corpus(DEFAULT)
    mount = number(Arch.X86_64, "mount")
    command = [call, "x86_64", str(mount), "0xdead0000", "0xdead0000"]
    assert bpfence("run", "--profile", path, "--cap", "sys_admin", "--", *command).stdout == f"{-errno.EFAULT}\n"
    assert bpfence("run", "--profile", path, "--cap", "none", "--", *command).stdout == f"{-errno.EPERM}\n"

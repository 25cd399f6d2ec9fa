# SPDX-License-Identifier: Apache-2.0
"""What a running agent gives up."""

from __future__ import annotations

import errno
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bpfence.agent import privileges
from bpfence.agent.privileges import CALLS, kept_mask, own_profile
from bpfence.errors import KernelError
from bpfence.kernel import landlock
from bpfence.seccomp.model import ProfileAction
from bpfence.syscalls.architectures import Arch
from bpfence.syscalls.table import number
from tests.unit.agent.test_agent import Rig
from tests.unit.outputs.places import until
from tests.unit.outputs.servers import Hook, Reader, certificate, listening


def kept_before() -> str:
    """The effective capabilities of this process."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")]
    return line.split()[1]


ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}
SCRIPT = """
import os, pathlib, sys
from bpfence.agent import privileges
privileges.drop(reads_processes=sys.argv[1] == "True")
lines = pathlib.Path("/proc/self/status").read_text().splitlines()
print(*(line.split()[1] for line in lines if line.startswith(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"))))
try:
    os.chroot("/")
    print("chroot works")
except PermissionError:
    print("chroot refused")
"""


def test_kept_mask() -> None:
    least = 1 << 39 | 1 << 38 | 1 << 21 | 1 << 2 | 1 << 24
    assert kept_mask() == least
    assert kept_mask(reads_processes=True) == least | 1 << 19


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")
@pytest.mark.parametrize("reads", [False, True])
def test_dropped_for_good(reads: bool) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(reads)], capture_output=True, text=True, check=True, env=ENVIRONMENT)
    sets, chroot = done.stdout.splitlines()
    inheritable, permitted, effective, bounding, ambient, no_new_privs = sets.split()
    assert inheritable == ambient == "0" * 16
    assert int(permitted, 16) & ~kept_mask(reads_processes=reads) == 0
    assert int(bounding, 16) & ~kept_mask(reads_processes=reads) == 0
    assert effective == permitted
    if int(kept_before(), 16) >> 19 & 1:
        assert int(effective, 16) >> 19 & 1 == reads
    assert no_new_privs == "1"
    assert chroot == "chroot refused"


READING = """
import pathlib, sys
from bpfence.agent import privileges
privileges.drop(reads_processes=sys.argv[1] == "True")
for name in sys.argv[3:]:
    try:
        print(len(pathlib.Path("/proc", sys.argv[2], name).read_bytes()) > 0)
    except PermissionError:
        print("refused")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start another user's process")
@pytest.mark.skipif(not int(kept_before(), 16) >> 19 & 1, reason="CAP_SYS_PTRACE is missing")
@pytest.mark.parametrize(
    ("reads", "files", "expected"),
    # CAP_PERFMON, which always stays, opens environ since about Linux 6.16.
    [(True, ["environ", "cmdline", "root/etc/passwd"], ["True"] * 3), (False, ["root/etc/passwd"], ["refused"])],
)
def test_what_falco_rules_read_of_other_users_processes(reads: bool, files: list[str], expected: list[str]) -> None:
    other = subprocess.Popen(["sleep", "60"], user=65534, group=65534, extra_groups=[], env={"SECRET": "x"})
    try:
        done = subprocess.run(
            [sys.executable, "-c", READING, str(reads), str(other.pid), *files],
            capture_output=True,
            text=True,
            check=True,
            env=ENVIRONMENT,
        )
    finally:
        other.kill()
        other.wait()
    assert done.stdout.split() == expected


# ---- a whole life under what was given up ----

LIFE = """
import ctypes, errno, grp, json, os, pwd, signal, socket, subprocess, sys, threading, time
from pathlib import Path
from bpfence.agent import privileges
from bpfence.agent.agent import Agent, Settings
from bpfence.host.cgroups import find_hierarchy
from bpfence.host.accounts import Accounts
from bpfence.host.cgroups import CgroupPaths
from bpfence.host.procfs import Procfs
from bpfence.outputs.routes import open_outputs
from tests.unit.agent.fakes import FakeKernel, write_policy

folder, falco = Path(sys.argv[1]), sys.argv[2] == "falco"
for name in ("policies", "log", "pins"):
    (folder / name).mkdir()
if falco:
    (folder / "policies" / "rules.yaml").write_text('''
- rule: Talk
  desc: d
  condition: evt.type in (connect) and fd.sip.name in (localhost) and user.name != nobody
  output: to %fd.sip.name by %user.name
  priority: INFO
''')
write_policy(folder / "policies" / "p.yaml")
followed = folder / "followed"
followed.write_text("x")
write_policy(folder / "policies" / "f.yaml", name="f", glob=str(followed), more=", follow: object")
log, said = folder / "log" / "a.jsonl", []
settings = Settings(
    policies=(str(folder / "policies"),), pin_dir=str(folder / "pins"), state_dir=folder / "state", ready_file=folder / "log" / "ready",
    record=folder / "log" / "record" if falco else None,
)
outputs = open_outputs([f"jsonl:{log}", "rich"], said.append, stream=sys.stderr)
agent = Agent(settings, outputs, report=said.append, kernel=FakeKernel())
agent.start()
engine = agent.life.engine
for turn in range(2):
    engine.say()
    agent.step(0.01)
    log.rename(folder / "log" / f"a.{turn}.jsonl")
    agent.reload()
    while agent.reloading:
        agent.step(1)
    assert engine.generation >= turn + 2, said  # more where addresses of hosts came meanwhile
engine.say()
agent.step(0.01)
if falco:
    (folder / "new").write_text("y")
    (folder / "new").replace(followed)
agent.step(0.2)
accounts = Accounts()
names = [accounts.user(0, accounts._own, 1).name, accounts.group(0, accounts._own, 1)]
for missing in (lambda: socket.getaddrinfo("localhost", 80), lambda: grp.getgrgid(54321)):
    try:
        missing()
    except (OSError, KeyError):
        pass
cgroups = CgroupPaths(find_hierarchy().root)
paths = cgroups.path(os.stat(find_hierarchy().root).st_ino)

def alerted():
    lines = [line for path in sorted((folder / "log").glob("*.jsonl")) for line in path.read_text().splitlines()]
    return sum(json.loads(line).get("rule") == "secret" for line in lines)

while alerted() < 3:
    time.sleep(0.001)
writers = [task for task in Path("/proc/self/task").iterdir() if task.name != str(os.getpid())]
held = set()
for task in writers:
    try:
        lines = (task / "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        continue  # a thread that was still ending
    held |= {line.split()[1] for line in lines if line.startswith("CapEff")}

def outcome(work):
    try:
        work()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "works"

status = dict(line.split(":\\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\\t" in line)
print(json.dumps({
    "seccomp": status["Seccomp"], "no_new_privs": status["NoNewPrivs"], "dumpable": ctypes.CDLL(None).prctl(3), "said": said,
    "alerts": alerted(), "held by threads": [int(mask, 16) & ~privileges.kept_mask(reads_processes=falco) for mask in held],
    "names": names, "cgroup": paths,
    "fork": outcome(os.fork), "exec": outcome(lambda: os.execv("/bin/true", ["true"])),
    "spawn": outcome(lambda: subprocess.run(["/bin/true"])),
    "others": outcome(lambda: os.kill(1, 0)), "itself": outcome(lambda: os.kill(os.getpid(), 0)), "chroot": outcome(lambda: os.chroot("/")),
    "listen": outcome(lambda: socket.socket().listen()), "read": outcome(lambda: Path("/etc/passwd").read_text()),
    "in the log's folder": outcome(lambda: (folder / "log" / "more").write_text("x")),
    "elsewhere": outcome(lambda: (folder / "elsewhere").write_text("x")),
}))
agent.stop()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")
@pytest.mark.parametrize("kind", ["native", "falco"])
def test_an_agent_lives_on_under_what_it_has_given_up(kind: str, tmp_path: Path) -> None:
    """Events, reloads, rotation, followed files, names of users, groups, hosts and cgroups; and nothing that it never does."""
    done = subprocess.run([sys.executable, "-c", LIFE, str(tmp_path), kind], capture_output=True, text=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("said") == []
    assert found.pop("elsewhere") == ("EACCES" if kind == "native" and landlock.version() else "works")
    assert found.pop("cgroup") == "/"
    assert found == {
        "seccomp": "2", "no_new_privs": "1", "dumpable": 0, "alerts": 3, "held by threads": [0], "names": ["root", "root"],
        "fork": "EPERM", "exec": "EPERM", "spawn": "EPERM", "others": "EPERM", "itself": "works", "chroot": "EPERM", "listen": "EPERM",
        "read": "works", "in the log's folder": "works",
    }  # fmt: skip


def test_the_filter_is_about_calls_that_there_are() -> None:
    words = " ".join(CALLS).split()
    assert len(words) == len(set(words))
    assert [word for word in words if number(Arch.X86_64, word) is None] == []
    never = {"execve", "execveat", "fork", "vfork", "ptrace", "mount", "setns", "unshare", "init_module", "process_vm_writev"}
    assert not never & set(words)
    assert own_profile().default_action is ProfileAction.ERRNO


def test_listening_is_allowed_where_a_socket_is_made_later_and_nothing_else_is() -> None:
    plain, listening = (profile.rules for profile in (own_profile(), own_profile(listens=True)))
    assert set(listening[0].names) - set(plain[0].names) == {"listen"}
    assert listening[1:] == plain[1:]


@pytest.mark.parametrize("fault", [OSError(errno.EPERM, "refused"), KernelError("no libseccomp")])
def test_privileges_that_cannot_be_given_up_end_the_start(fault: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise fault

    monkeypatch.setattr("bpfence.agent.privileges.drop", refuse)
    rig = Rig(tmp_path, drop_privileges=True)
    rig.policy()
    with pytest.raises(KernelError, match="privileges could not be given up") as refused:
        rig.agent.start()
    assert "--keep-privileges" in refused.value.hint
    assert rig.engine.closed is True
    kept = Rig(tmp_path, drop_privileges=False)
    kept.agent.start()
    kept.agent.stop()


# ---- Landlock ----


def test_landlock_is_left_out_where_a_folder_cannot_be_written_under_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not landlock.version():
        pytest.skip("needs Landlock")
    assert privileges.landlock_works([tmp_path]) == (True, "")
    (tmp_path / "other").mkdir()
    restrict = landlock.restrict
    monkeypatch.setattr(landlock, "restrict", lambda writable, removable: restrict([tmp_path / "other"]))
    works, why = privileges.landlock_works([tmp_path])
    assert not works
    assert why == f"{tmp_path}: Permission denied"
    monkeypatch.setattr(landlock, "version", lambda: 0)
    assert privileges.landlock_works([tmp_path]) == (False, "")


def test_landlock_is_for_the_thread_and_its_folders(tmp_path: Path) -> None:
    if not landlock.version():
        pytest.skip("needs Landlock")
    (tmp_path / "in").mkdir()
    (tmp_path / "empty").mkdir()
    found: list[str] = []

    def write(path: Path) -> None:
        try:
            path.write_text("x")
        except OSError as error:
            found.append(errno.errorcode[error.errno or 0])
        else:
            found.append("works")

    def work() -> None:
        landlock.restrict([tmp_path / "in", tmp_path / "not there"], [tmp_path])
        write(tmp_path / "in" / "a")
        (tmp_path / "in" / "a").rename(tmp_path / "in" / "b")
        write(tmp_path / "b")
        (tmp_path / "empty").rmdir()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == ["works", "EACCES"]
    assert not (tmp_path / "empty").exists()
    write(tmp_path / "b")
    assert found[-1] == "works"


# ---- outputs under what was given up ----

OUTPUTS = """
import json, sys, time
from pathlib import Path
from bpfence.agent import privileges
from bpfence.alerts.alert import Composer
from bpfence.kernel import landlock
from bpfence.outputs.routes import open_outputs
from bpfence.outputs.specs import spec_of

folder, said = Path(sys.argv[1]), []
outputs = open_outputs([spec_of(value) for value in json.loads(sys.argv[2])], said.append)
privileges.drop(landlock=(outputs.folders(), ()) if landlock.version() else None)
outputs.start()
composer = Composer("h", time.time_ns)
for number in range(20):
    outputs.write([composer.status("test", str(number))])
while any(queue.written < 20 for queue in outputs.queues()):
    time.sleep(0.001)
outputs.reopen()
outputs.write([composer.status("test", "20")])
outputs.close()
print(json.dumps({"said": said, "written": [queue.written for queue in outputs.queues()], "lost": outputs.lost_lines()}))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to give up")
def test_outputs_go_on_under_what_was_given_up(tmp_path: Path) -> None:
    """Connections are made, names of hosts looked up, keys that only root may read are read, files rotated."""
    ours = certificate(tmp_path, "ours")
    (tmp_path / "token").write_text("word")
    (tmp_path / "token").chmod(0o600)
    (tmp_path / "log").mkdir()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*ours)
    plain, secure = Reader(listening(socket.AF_UNIX, str(tmp_path / "socket"))), Reader(listening(), context=serving)
    hook, datagrams = Hook(lambda _: (200, {})), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    outputs = [
        {"to": f"jsonl:{tmp_path}/log/small", "rotate": {"size": "1KiB", "keep": 50}},
        f"unix:{tmp_path}/socket",
        f"syslog:udp:127.0.0.1:{datagrams.getsockname()[1]}",
        {"to": f"syslog:tls:127.0.0.1:{secure.listener.getsockname()[1]}", "tls": {"ca": ours[0], "name": "localhost"}},
        {"to": f"http://localhost:{hook.port}/", "token-file": str(tmp_path / "token")},
    ]
    done = subprocess.run(
        [sys.executable, "-c", OUTPUTS, str(tmp_path), json.dumps(outputs)], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"said": [], "written": [21] * 5, "lost": {}}
    assert len(list((tmp_path / "log").iterdir())) > 1
    until(lambda: len(plain.lines()) == len(secure.lines()) == 21)
    assert len(hook.lines()) == 21
    for end in (plain, secure, hook, datagrams):
        end.close()

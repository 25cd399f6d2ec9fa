# SPDX-License-Identifier: Apache-2.0
"""Names of kernels in, one pytest session over all of them out.

`pytest tests/kernel --kernels 6.12,5.10` boots each named kernel once (vmtest), runs pytest inside it as root, and replays the
guest's reports here as they come, one item per kernel and test. Which tests are there for which kernels: tests/kernel/selection.py.
Inside a guest (BPFENCE_GUEST=1) the same tests run directly. On a host without --kernels, tests/kernel is not collected: its tests load
programs that deny.
"""

from __future__ import annotations

import compileall
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import sleep  # by itself: unit tests that run meanwhile put others into modules
from typing import TYPE_CHECKING

import pytest

from tests.kernel.selection import expected, load_table, select
from vmtest import EmulatorError
from vmtest.kernels import KERNELS, Kernel, kernel_named

if TYPE_CHECKING:
    from tests.kubernetes.conftest import ApiServer

ROOT = Path(__file__).resolve().parent.parent
KERNEL_TESTS = ROOT / "tests" / "kernel"
OF_A_CLUSTER = ("tests/kernel/test_kubernetes.py", "tests/kernel/test_daemonset.py")
"""These ask an API server, which runs on this machine: emulated, its start alone would take minutes."""
PREPARED, AGENT_KUBECONFIG, TOKEN = "prepared", "agent.kubeconfig", "secret-admin"
"""Files of it that a guest finds, and the administrator's token."""
IN_GUEST = os.environ.get("BPFENCE_GUEST") == "1"
GUEST_SECONDS = 4800
TEST_SECONDS = 1500
"""A test may wait for the verifier of an emulated kernel to look at dozens of programs, on a machine that has other things to do."""
PASSED_ON = ("BPFENCE_COMMAND", "BPFENCE_SEED", "BPFENCE_POLICIES", "BPFENCE_STARTS", "BPFENCE_ROUNDS")
FALCO_RULES = ROOT.parent / "shared" / "corpora" / "falco" / "falco_rules.yaml"
ELSEWHERE = ("shared/corpora/", "`make kubernetes` builds it", "bpfence[kubernetes]", "is not installed here")
SOONER = ("mitigations=off", "init_on_alloc=0")
"""Kernel parameters that take a twentieth of a guest's processor time away: no detours for indirect calls, no memory cleared that is
about to be written. Benchmarks do without them."""
BOOTS = 4
"""How often a kernel is booted for its tests where the emulator ends it amid them (`vmtest.EmulatorError`): the tests that have not
finished run in the next. A kernel that ends otherwise is not booted again."""
AT_ONCE = 2  # guests running at a time: one computes while the other boots


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("bpfence")
    group.addoption("--kernels", default="", help="run tests/kernel on these kernels of vmtest's table: names with commas, or all")
    group.addoption("--whole", action="store_true", help="every kernel test on every kernel asked for, also where the tables narrow that")
    group.addoption("--guest-reports", default="", help="inside a guest: the file to append reports to")
    group.addoption("--guest-select", default="", help="inside a guest: a file with the node ids to run")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.is_relative_to(KERNEL_TESTS) and not IN_GUEST and not config.getoption("--kernels"):
        return True
    return None


def kernels_asked_for(wanted: str) -> tuple[Kernel, ...]:
    """Rows of vmtest's table, by their names with commas, or all."""
    if wanted == "all":
        return KERNELS
    return tuple(kernel_named(name.strip()) for name in wanted.split(",") if name.strip())


class Guest:
    """One booted kernel: a vmtest process, the reports it has delivered so far, and its console."""

    def __init__(self, kernel: str, config: pytest.Config, slots: threading.Semaphore) -> None:
        self.kernel = kernel
        self.config = config
        self.slots = slots
        self.folder = ROOT / ".build" / "guests" / kernel
        self.nodeids: list[str] = []
        self.told: list[str] = []  # for the summary
        self.by_test: dict[str, list[pytest.TestReport]] = {}
        self.finished: set[str] = set()
        self.ended = threading.Event()
        self.changed = threading.Condition()
        self.code: int | None = None
        self.thread: threading.Thread | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.server: ApiServer | None = None

    def start(self) -> None:
        """Begin booting in the background; calls after the first do nothing."""
        if self.thread is None:
            self.thread = threading.Thread(target=self._run, name=f"guest-{self.kernel}", daemon=True)
            self.thread.start()

    def _run(self) -> None:
        with self.slots:
            try:
                for left in reversed(range(BOOTS)):
                    self._boot()
                    self.nodeids = [nodeid for nodeid in self.nodeids if nodeid not in self.finished]
                    if self.code != EmulatorError.exit_code or not (left and self.nodeids):
                        break
                    self.told.append(f"kernel {self.kernel}: QEMU ended it amid {self.nodeids[0]}; the tests from there on ran in another")
                    (self.folder / "console.log").replace(self.folder / f"console-{BOOTS - left}.log")
                    with self.changed:
                        for nodeid in self.nodeids:
                            self.by_test.pop(nodeid, None)
            except BaseException as error:
                self.told.append(f"kernel {self.kernel}: no more of its reports were read: {type(error).__name__}: {error}")
                self.stop()
                raise
            finally:
                with self.changed:
                    self.ended.set()
                    self.changed.notify_all()

    def _boot(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        reports, select, arguments = (self.folder / name for name in ("reports.jsonl", "select.txt", "arguments.txt"))
        reports.write_text("")
        select.write_text("\n".join(self.nodeids))
        if FALCO_RULES.exists():
            shutil.copyfile(FALCO_RULES, self.folder / FALCO_RULES.name)  # the guest does not see everything beside the repository
        passed = [f"{name}={os.environ[name]}" for name in PASSED_ON if name in os.environ]
        files = dict.fromkeys(nodeid.partition("::")[0] for nodeid in self.nodeids)  # importing the others takes the guest long
        inside = ["env", "BPFENCE_GUEST=1", f"BPFENCE_KERNEL={self.kernel}", f"BPFENCE_LOGS={self.folder}"]
        server = self.server = api_server(self.folder) if any(nodeid.startswith(OF_A_CLUSTER) for nodeid in self.nodeids) else None
        inside += [f"BPFENCE_API_PORT={server.port}"] if server is not None else []
        inside += [f"PYTHONPATH={ROOT / 'src'}:{ROOT}", *passed, sys.executable, "-m", "pytest"]
        words = [*(str(ROOT / file) for file in files), f"--rootdir={ROOT}", f"--confcutdir={ROOT}", "-v", f"--timeout={TEST_SECONDS}"]
        words += [f"--guest-reports={reports}", f"--guest-select={select}", "-p", "no:hypothesispytest"]  # its import takes longest
        arguments.write_text("\n".join(words))
        # In a file, as the command line of this pytest is what tests see of the process above theirs: records hold the beginning of it.
        inside += ["-c", str(ROOT / "pyproject.toml"), f"@{arguments}"]
        vmtest = [sys.executable, "-m", "vmtest", "run", self.kernel, "--rwdir", str(self.folder), "--timeout", str(GUEST_SECONDS)]
        vmtest += [f"--append={parameter}" for parameter in SOONER]
        command = [*vmtest, *(["--network"] if server is not None else []), "--", *inside]
        with (
            contextlib.closing(server) if server is not None else contextlib.nullcontext(),
            (self.folder / "console.log").open("wb") as console,
        ):
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT)
            self.process = process
            offset = 0
            while True:
                ended = process.poll() is not None
                offset = self._read(reports, offset)
                if ended:
                    break
                sleep(0.3)
        self.code = process.returncode

    def _read(self, path: Path, offset: int) -> int:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        with self.changed:
            for line in whole.splitlines():
                report = self.config.hook.pytest_report_from_serializable(config=self.config, data=json.loads(line))
                if report.skipped and isinstance(report.longrepr, list):
                    report.longrepr = tuple(report.longrepr)  # JSON has no tuples, and pytest's summary wants one
                self.by_test.setdefault(report.nodeid, []).append(report)
                if report.when == "teardown":
                    self.finished.add(report.nodeid)
            self.changed.notify_all()
        return offset + len(whole)

    def reports(self, nodeid: str) -> list[pytest.TestReport]:
        """Every report of one test; waits for them. Empty when the guest ended without running it."""
        with self.changed:
            self.changed.wait_for(lambda: nodeid in self.finished or self.ended.is_set())
            return self.by_test.get(nodeid, []) if nodeid in self.finished else []

    def stop(self) -> None:
        """End a guest that is still running; vmtest takes QEMU with it."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        if self.server is not None:
            self.server.close()  # the thread that would may not come to it any more

    def failure(self) -> str:
        """What to show for a test that the guest never finished."""
        log = self.folder / "console.log"
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-60:]) if log.exists() else ""
        return f"kernel {self.kernel}: the guest ended (exit code {self.code}) without finishing this test; end of {log}:\n{tail}"


def api_server(folder: Path) -> ApiServer | None:
    """A Kubernetes API server on this machine with its files in a guest's folder; None where it cannot be had. PREPARED is there when the
    cluster has what bpfence needs."""
    from tests.kubernetes.conftest import AGENT, ApiServer  # needs what other tests do without
    from tools.build_kubernetes import program

    if not os.access(program(), os.X_OK) or importlib.util.find_spec("kubernetes") is None:
        return None
    shutil.rmtree(folder / "api", ignore_errors=True)
    (folder / "api").mkdir()
    made = ApiServer(program(), folder / "api", wait=False)

    def prepare() -> None:
        from tests.kubernetes import rig

        made.wait()
        rig.prepared(made.kubeconfig("admin"))
        made.kubeconfig(AGENT).rename(folder / "api" / AGENT_KUBECONFIG)
        (folder / "api" / PREPARED).touch()

    threading.Thread(target=prepare, name="api-server", daemon=True).start()
    return made


class GuestItem(pytest.Item):
    """One test on one kernel, run in the guest."""

    guest: Guest
    remote: str

    def runtest(self) -> None:
        raise NotImplementedError("guest items are replayed by pytest_runtest_protocol")

    def found(self) -> list[pytest.TestReport]:
        """The guest's reports, or one failure where it has none."""
        reports = self.guest.reports(self.remote)
        if reports:
            return reports
        return [
            pytest.TestReport(self.nodeid, self.location, {}, "failed", self.guest.failure(), "call"),
            pytest.TestReport(self.nodeid, self.location, {}, "passed", None, "teardown"),
        ]

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.name


class MatrixItem(pytest.Item):
    """After all kernels: every kernel test ran, not skipped, on at least one of them."""

    guests: list[Guest]
    nodeids: list[str]

    def runtest(self) -> None:
        raise NotImplementedError("judged by pytest_runtest_protocol, without the setup of the tests before it")

    def found(self) -> list[pytest.TestReport]:
        """One report."""
        never = self.never_ran()
        text = "these tests ran on no kernel of the table:\n" + "\n".join(never)
        report = pytest.TestReport(self.nodeid, self.location, {}, "failed" if never else "passed", text if never else None, "call")
        return [report, pytest.TestReport(self.nodeid, self.location, {}, "passed", None, "teardown")]

    def never_ran(self) -> list[str]:
        """Tests that no kernel ran, those that none was selected for included."""
        ran = {
            nodeid
            for guest in self.guests
            for nodeid, reports in guest.by_test.items()
            if any((report.when == "call" and not report.skipped) or counts(report) for report in reports)
        }
        return sorted(set(self.nodeids) - ran)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.name


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    if IN_GUEST:
        if config.getoption("--guest-select"):
            wanted = set(Path(config.getoption("--guest-select")).read_text().split("\n"))
            items[:] = [item for item in items if item.nodeid in wanted]
        items.sort(key=comes_last)
        return
    remote = sorted((item for item in items if item.path.is_relative_to(KERNEL_TESTS)), key=comes_last)
    if not remote:
        return
    items[:] = [item for item in items if item not in set(remote)]
    asked = kernels_asked_for(config.getoption("--kernels"))
    table = {} if config.getoption("--whole") else load_table()
    nodeids = [item.nodeid for item in remote]
    slots = threading.Semaphore(AT_ONCE)
    guests: list[Guest] = []
    for kernel in asked:
        selected = nodeids if config.getoption("--whole") else select(nodeids, kernel, table)
        if not selected:
            continue
        guest = Guest(kernel.name, config, slots)
        guest.nodeids = selected
        guests.append(guest)
        items += twins(session, guest, remote)
    if asked == KERNELS:
        matrix = MatrixItem.from_parent(session, name="every kernel test ran on some kernel", nodeid="tests/kernel matrix")
        matrix.guests, matrix.nodeids = guests, expected(nodeids, table)
        items.append(matrix)
    config.stash[GUESTS] = guests


def comes_last(item: pytest.Item) -> bool:
    """Whether a test stops what others share."""
    return item.get_closest_marker("last") is not None


def twins(session: pytest.Session, guest: Guest, remote: Iterable[pytest.Item]) -> Iterator[GuestItem]:
    """The items that stand for a guest's tests."""
    selected = set(guest.nodeids)
    for item in remote:
        if item.nodeid not in selected:
            continue
        file, _, inner = item.nodeid.partition("::")
        twin = GuestItem.from_parent(item.parent or session, name=item.name, nodeid=f"{file}::{guest.kernel}::{inner}")
        twin.guest, twin.remote = guest, item.nodeid
        twin.add_marker(pytest.mark.timeout(0))  # the guest has its own limits
        yield twin


def counts(report: pytest.TestReport) -> bool:
    """Whether a test that was skipped did what it could: it failed as expected, or lacked test data or a program, which no kernel would
    have had."""
    return report.skipped and (hasattr(report, "wasxfail") or any(text in str(report.longrepr) for text in ELSEWHERE))


GUESTS = pytest.StashKey[list[Guest]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    # Guests boot while the unit tests run; those with most to do first, so that the short ones fill the gap at the end.
    guests = session.config.stash.get(GUESTS, []) if not session.config.option.collectonly else []
    guests = sorted(guests, key=lambda guest: -len(guest.nodeids))
    for guest in guests:
        guest.start()
    try:
        return (yield)
    finally:
        for guest in guests:
            guest.stop()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if not isinstance(item, (GuestItem, MatrixItem)):
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in item.found():
        report.nodeid, report.location = item.nodeid, item.location
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for guest in config.stash.get(GUESTS, []):
        for line in guest.told:
            terminalreporter.write_line(line, yellow=True)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if _sink is not None:
        data = _config.hook.pytest_report_to_serializable(config=_config, report=report)
        _sink.write(json.dumps(data) + "\n")
        if report.when == "teardown":  # the host waits for this one, and a write to what it shares with the guest takes long
            _sink.flush()


_sink = None
_config: pytest.Config


def leave_bytecode(config: pytest.Config) -> None:
    """The package's bytecode beside its sources, and that of the kernel tests as pytest rewrites them when it collects them.

    Also where PYTHONDONTWRITEBYTECODE is set: without it every command that a test starts compiles the package anew, which is half of the
    command's start, and in an emulated machine a quarter of a minute.
    """
    compileall.compile_dir(ROOT / "src", quiet=2)
    if config.getoption("--kernels"):
        compileall.compile_dir(KERNEL_TESTS, quiet=2)  # what the tests import, which was imported before this
        sys.dont_write_bytecode = False


def with_signals() -> None:
    """What a shell without job control, or nohup, had ignored for its background does what it does elsewhere: tests end programs by it."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGQUIT, signal.SIG_DFL), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, usual)


def pytest_configure(config: pytest.Config) -> None:
    global _sink, _config  # noqa: PLW0603
    _config = config
    with_signals()
    if not IN_GUEST:
        leave_bytecode(config)
    if config.getoption("--guest-reports"):
        _sink = Path(config.getoption("--guest-reports")).open("a")  # noqa: SIM115 - closed in pytest_unconfigure


def pytest_unconfigure() -> None:
    if _sink is not None:
        _sink.close()

"""A kernel, a command and limits in, the command's output line by line and its exit code out.

``python3 -m vmtest`` and the benchmarks call ``boot``. The guest is QEMU with software emulation, started by virtme-ng: its root
file system is this machine's, read-only, with throw-away overlays, so a test finds the same interpreter and the same repository
at the same path. It never writes to this machine outside a temporary folder and the folders of ``rwdirs``.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from . import EmulatorError, GuestError, GuestTimeoutError, MissingToolError, NeverBeganError, UsageError
from .kernels import Image, Kernel, fetch
from .mirror import find_tool

REPOSITORY = Path(__file__).resolve().parent.parent
VIRTUAL_ENVIRONMENT = REPOSITORY / ".venv"

SHARE = "/run/vmtest"
"""Where the guest sees the temporary folder that carries the script in and the exit code out."""

EARLY_OVERLAYS = ("/etc", "/usr", "/var")
"""Folders that virtme-ng makes writable, in memory, because its own start-up writes there."""

CACHED_OVERLAYS = ("/usr", "/home", "/opt", "/root", "/srv")
"""Folders, besides the repository, made writable over a second 9p mount of the host's root that caches (cache=loose, which supposes
that the host leaves the files alone during the run); virtme-ng's own mount caches nothing and makes Python start three times slower."""

UDEV_RULE = """\
SUBSYSTEM=="virtio-ports", KERNEL=="vport*", ATTR{name}=="?*", SYMLINK+="virtio-ports/$attr{name}"
"""
"""The one udev rule that virtme-ng's start-up needs. It hides the host's rules, which would load a driver for every emulated device:
more than half of the boot time under software emulation."""

PARAMETERS = ("loglevel=5", "oops=panic")
"""Kernel parameters of every guest: warnings go to the console, an oops ends the guest. Not tsc=reliable, tempting as it is on 5.10, which
reads the slow emulated HPET when it has several processors: on a busy host the kernel measures the TSC's rate wrongly, and without its
watchdog the guest's clock then ran fifteen times too fast."""

BOOTS = 2
"""How often a guest is booted until its command begins. Under emulation a kernel now and then panics while it boots, such as when its
timers do not agree; once the command has begun nothing is tried again."""

STALE = re.compile(r"\bint3: [0-9a-f]{4} \[#1\]")
"""What the console says where a kernel met a breakpoint that it did not know. Where a kernel changes its own code, such as when a program
is attached, it puts a breakpoint there for a moment. QEMU before 8.1 can miss that it is taken away again, if another processor translates
that place in the same moment (its translator reads the code before it watches the page), and then runs the breakpoint that is no more.
With several processors that happens about once in some thousand attachments; on real hardware it cannot."""

HOST, ADDRESS = "10.0.2.2", "10.0.2.15/24"
"""With a network card: where the guest finds the loopback of this machine, and the address that QEMU gives it."""

EMULATED = "max,erms=off,fsrm=off,la57=off"
"""The emulated processor, where no instructions are counted: a guest takes a fifth less of processor time on it. QEMU copies and clears
memory byte by byte where the kernel uses `rep movsb` and `rep stosb`, as it does on a processor with ERMS and FSRM; with LA57 page tables
have one level more."""

CONSOLE_LINES = 40
CONSOLE_BYTES = 1 << 14


@dataclass(frozen=True, slots=True)
class Limits:
    """What a guest gets: processors, memory as QEMU writes it, seconds until it is killed, and the kind of clock and processor.

    ``icount``: one processor whose clock advances one nanosecond per instruction executed (QEMU's -icount shift=0), so that times
    measured inside are instruction counts. ``kvm``: use /dev/kvm; most test machines have none that works. ``network``: a network card,
    which nothing in the guest has set up: see ``HOST``.
    """

    cpus: int = 2
    memory: str = "2G"
    timeout: float = 900.0
    icount: bool = False
    kvm: bool = False
    network: bool = False

    def __post_init__(self) -> None:
        if self.icount and self.kvm:
            raise ValueError("icount counts emulated instructions, kvm emulates none: choose one")


def boot(
    kernel: Kernel,
    command: str | Sequence[str],
    *,
    cpus: int = 2,
    memory: str = "2G",
    icount: bool = False,
    kvm: bool = False,
    network: bool = False,
    append: Sequence[str] = (),
    rwdirs: Sequence[str | Path] = (),
    timeout: float = 900.0,
    output: BinaryIO | None = None,
) -> int:
    """Boot ``kernel``, run ``command`` as root in the repository, return its exit code.

    ``command`` is an argument list, or a shell script when it is a string. ``append`` adds kernel parameters. ``rwdirs`` are
    existing folders of this machine that the guest sees, and may change, at their own path. ``timeout`` is in seconds. Output, both
    streams merged, goes to ``output``, by default the standard output. Raises GuestTimeoutError, GuestError with the end of the kernel's
    console (EmulatorError where the emulator is the reason), MissingToolError, MirrorError. A guest that ends before its command begins is
    booted once more, which ``output`` says.
    """
    limits = Limits(1 if icount else cpus, memory, timeout, icount, kvm, network)
    image = fetch(kernel)
    folders = [Path(folder).absolute() for folder in rwdirs]
    out = output or sys.stdout.buffer
    deadline = time.monotonic() + limits.timeout

    def once() -> int:
        with tempfile.TemporaryDirectory(prefix="vmtest-", ignore_cleanup_errors=True) as temporary:
            share = Path(temporary, "share")
            write_share(share, command, folders)
            argv = virtme_command(kernel, image, limits, append=append, rwdirs=folders, share=share)
            return run_guest(argv, share, deadline, out)

    return until_begun(once, out)


def run_guest(argv: Sequence[str], share: Path, deadline: float, output: BinaryIO) -> int:
    """Run the guest that ``argv`` boots; its command's exit code. Raises as ``boot`` does. ``deadline`` is in monotonic seconds."""
    with guest_process(argv, {**os.environ, "TMPDIR": str(share.parent)}, share / "pid") as process:
        console = copy_output(process, deadline, output)
    return exit_code(share, console)


def until_begun(once: Callable[[], int], output: BinaryIO) -> int:
    """What ``once`` returns, which boots a guest; called again, at most ``BOOTS`` times, where the command never began."""
    for left in reversed(range(BOOTS)):
        try:
            return once()
        except NeverBeganError as error:
            if not left:
                raise
            output.write(f"vmtest: {error}\nvmtest: booting once more\n".encode())
            output.flush()
    raise AssertionError("a guest is booted at least once")


def find_virtme() -> Path:
    """virtme-ng's virtme-run: of this interpreter, of the repository's virtual environment, or on the PATH. Raises MissingToolError.

    virtme-run rather than vng: vng passes its arguments through a shell, which a blank in a path does not survive.
    """
    for folder in (Path(sys.executable).parent, VIRTUAL_ENVIRONMENT / "bin"):
        if (folder / "virtme-run").exists():
            return folder / "virtme-run"
    found = shutil.which("virtme-run")
    if found is None:
        raise MissingToolError("virtme-run", f"install it with: {VIRTUAL_ENVIRONMENT}/bin/pip install virtme-ng")
    return Path(found)


def virtme_command(
    kernel: Kernel, image: Image, limits: Limits, *, append: Sequence[str], rwdirs: Sequence[Path], share: Path
) -> list[str]:
    """The argument list that boots the guest and runs ``share``/run in it. Raises MissingToolError."""
    for tool in ("qemu-system-x86_64", "busybox", "modprobe", "file"):
        find_tool(tool)
    parameters = (*kernel.cmdline, *PARAMETERS, *append)
    command = [str(find_virtme()), "--kimg", str(image.vmlinuz), "--mods", "auto", "--force-9p", "--name", "guest", "--show-boot-console"]
    command += ["--cpus", str(limits.cpus), "--memory", limits.memory]
    command += [] if limits.kvm else ["--disable-kvm"]
    for parameter in parameters:
        command += ["--kopt", parameter]
    for writable in EARLY_OVERLAYS:
        command += ["--overlay-rwdir", writable]
    command += ["--rodir", f"/usr/lib/udev/rules.d={share}/udev", "--rodir", f"{SHARE}.modules={image.folder}/lib/modules"]
    command += ["--rwdir", f"{SHARE}={share}"]
    for number, folder in enumerate(rwdirs):
        command += ["--rwdir", f"{SHARE}.{number}={folder}"]
    command += ["--script-sh", f"exec sh {SHARE}/run"]
    return [*command, *qemu_options(limits, share)]


def qemu_options(limits: Limits, share: Path) -> list[str]:
    """What virtme-ng has no option for, as its last arguments: fewer devices to probe, a second view of the root, the counting clock."""
    options = ["--qemu-opts", "-machine", "sata=off,smbus=off,usb=off"]
    options += ["-pidfile", str(share / "pid")]
    options += ["-virtfs", "local,path=/,mount_tag=vmtest.root,security_model=none,readonly=on,multidevs=remap"]
    if limits.network:
        options += ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net,romfile="]
    if limits.icount:
        options += ["-icount", "shift=0,sleep=off"]
    elif not limits.kvm:
        options += ["-cpu", EMULATED]
    return options


def overlaid_folders(repository: Path) -> list[Path]:
    """The folders to overlay in the guest's script: those of ``CACHED_OVERLAYS`` that exist, and ``repository`` unless inside one."""
    folders = [Path(folder) for folder in CACHED_OVERLAYS if Path(folder).is_dir()]
    return folders if any(repository.is_relative_to(folder) for folder in folders) else [*folders, repository]


def guest_script(command: str | Sequence[str], rwdirs: Sequence[Path], repository: Path = REPOSITORY) -> str:
    """The shell script that the guest runs: mounts, then ``command``, then its exit code into the share."""
    line = command if isinstance(command, str) else shlex.join(command)
    overlays = " ".join(shlex.quote(str(folder)) for folder in overlaid_folders(repository))
    binds = "".join(f"bind {SHARE}.{number} {shlex.quote(str(folder))}\n" for number, folder in enumerate(rwdirs))
    return f"""\
exec </dev/null 2>&1
overlay() {{
    mkdir -p "$1" "{SHARE}.upper$1/upper" "{SHARE}.upper$1/work"
    mount -t overlay -o "lowerdir={SHARE}.root$1,upperdir={SHARE}.upper$1/upper,workdir={SHARE}.upper$1/work" overlay "$1"
}}
bind() {{
    mkdir -p "$2"
    mount --bind "$1" "$2"
}}
mkdir -p {SHARE}.root {SHARE}.upper
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro vmtest.root {SHARE}.root
mount -t tmpfs tmpfs {SHARE}.upper
mount -t tmpfs -o mode=1777 tmpfs /tmp
for folder in {overlays}; do overlay "$folder"; done
bind {SHARE}.modules /lib/modules
{binds}mount -t bpf -o mode=0700 bpf /sys/fs/bpf
mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup
mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing
ip link set lo up
ulimit -l unlimited
unset TMPDIR
export PATH={shlex.quote(str(repository / ".venv/bin"))}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root LANG=C.UTF-8 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
cd {shlex.quote(str(repository))}
echo >{SHARE}/began
sh -c {shlex.quote(line)}
echo $? >{SHARE}/status
sync
"""


def write_share(share: Path, command: str | Sequence[str], rwdirs: Sequence[Path]) -> None:
    """Fill the folder that the guest mounts at ``SHARE``."""
    for folder in rwdirs:
        if not folder.is_dir():
            raise UsageError(f"{folder} is not a folder; the guest can only share one that exists")
    (share / "udev").mkdir(parents=True)
    (share / "udev/50-vmtest.rules").write_text(UDEV_RULE)
    (share / "run").write_text(guest_script(command, rwdirs))


@contextlib.contextmanager
def guest_process(argv: Sequence[str], environment: Mapping[str, str], pidfile: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The running guest, in a process group of its own; when the block is left, for whatever reason, nothing of it runs on.

    QEMU, whose id is in ``pidfile``, is killed first and virtme-run given time to collect it and remove its files; then the group.
    """
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError, ValueError, subprocess.TimeoutExpired):
            qemu = int(pidfile.read_text())
            if os.getpgid(qemu) == process.pid:
                os.kill(qemu, signal.SIGKILL)
            process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def copy_output(process: subprocess.Popen[bytes], deadline: float, output: BinaryIO) -> list[str]:
    """Copy whole lines of the guest's output to ``output`` until it ends; returns the last ``CONSOLE_BYTES`` of its console, as lines.

    The console, which is ``process``'s standard error, holds the kernel's warnings and what virtme-run and QEMU complain of. Raises
    GuestTimeoutError at ``deadline``, in monotonic seconds.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    pending, console = b"", b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready and time.monotonic() >= deadline:
                output.write(pending)
                output.flush()
                raise GuestTimeoutError(
                    "\n".join(["the guest was killed at its time limit; the end of its console:", *lines(console)[-CONSOLE_LINES:]])
                )
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    console = (console + chunk)[-CONSOLE_BYTES:]
                else:
                    whole, newline, pending = (pending + chunk).rpartition(b"\n")
                    output.write(whole + newline)
                    output.flush()
    output.write(pending)
    output.flush()
    return lines(console)


def lines(console: bytes) -> list[str]:
    """A console's lines, without those that are empty."""
    return [line.rstrip() for line in console.decode(errors="replace").splitlines() if line.strip()]


def exit_code(share: Path, console: Sequence[str]) -> int:
    """The code that the guest's script left in ``share``. Raises GuestError, with the end of ``console``, when it left none;
    NeverBeganError when the script did not come as far as the command, EmulatorError when the emulator ended the kernel."""
    status = share / "status"
    text = status.read_text().strip() if status.exists() else ""
    if text.isdecimal():
        return int(text)
    tail = console[-CONSOLE_LINES:]
    if not (share / "began").exists():
        raise NeverBeganError("\n".join(["the guest ended while it booted; the end of its console:", *tail]))
    if any(STALE.search(line) for line in console):
        raise EmulatorError("\n".join(["the guest ended because QEMU ran code that was no more; the end of its console:", *tail]))
    raise GuestError("\n".join(["the guest ended before its command did; the end of its console:", *tail]))

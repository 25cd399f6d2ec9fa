"""The command line of a guest, its script, its exit code and its end, without a guest."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vmtest import EmulatorError, GuestError, GuestTimeoutError, MissingToolError, NeverBeganError, UsageError, guest, mirror
from vmtest.guest import EMULATED, Limits, qemu_options
from vmtest.kernels import Image, kernel_named


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "find_tool", lambda name: name)
    monkeypatch.setattr(guest, "find_virtme", lambda: Path("/v/virtme-run"))


def command(limits: Limits, *, name: str = "6.12", append: tuple[str, ...] = (), rwdirs: tuple[Path, ...] = ()) -> list[str]:
    image = Image(Path("/cache/6.12"), "R")
    return guest.virtme_command(kernel_named(name), image, limits, append=append, rwdirs=rwdirs, share=Path("/t/share"))


def pairs(argv: list[str]) -> set[tuple[str, str]]:
    return set(itertools.pairwise(argv))


@pytest.mark.usefixtures("tools")
def test_command_line() -> None:
    argv = command(Limits(cpus=3, memory="512M"), append=("debug",), rwdirs=(Path("/out"),))
    assert argv[:3] == ["/v/virtme-run", "--kimg", "/cache/6.12/vmlinuz"]
    assert "--disable-kvm" in argv
    assert "-icount" not in argv
    assert pairs(argv) >= {
        ("--cpus", "3"),
        ("--memory", "512M"),
        ("--kopt", "lsm=lockdown,bpf"),
        ("--kopt", "debug"),
        ("--rwdir", "/run/vmtest=/t/share"),
        ("--rwdir", "/run/vmtest.0=/out"),
        ("--script-sh", "exec sh /run/vmtest/run"),
    }
    options = argv.index("--qemu-opts")
    assert not any(word.startswith("--") for word in argv[options + 1 :]), "virtme-run takes the rest of the line as QEMU's"


@pytest.mark.usefixtures("tools")
def test_fmod_ret_flavour_leaves_the_lsm_list_alone() -> None:
    assert not any(word.startswith("lsm=") for word in command(Limits(), name="5.10-fmodret"))


@pytest.mark.usefixtures("tools")
def test_a_guest_has_a_network_card_when_it_is_asked_for() -> None:
    assert "-netdev" not in qemu_options(Limits(), Path("/share"))
    assert "user,id=net" in qemu_options(Limits(network=True), Path("/share"))


def test_icount_and_kvm_options() -> None:
    counting, emulated, real = (command(limits) for limits in (Limits(cpus=1, icount=True), Limits(), Limits(kvm=True)))
    assert ("-icount", "shift=0,sleep=off") in pairs(counting)
    assert [("-cpu", EMULATED) in pairs(argv) for argv in (counting, emulated, real)] == [False, True, False]
    assert "--disable-kvm" not in command(Limits(kvm=True))
    with pytest.raises(ValueError, match="choose one"):
        Limits(icount=True, kvm=True)


def test_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mirror.shutil, "which", lambda name, path=None: None)
    with pytest.raises(MissingToolError, match="apt install qemu-system-x86") as caught:
        command(Limits())
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    ("given", "expected"),
    [(["echo", "a b", "$x"], "sh -c 'echo '\"'\"'a b'\"'\"' '\"'\"'$x'\"'\"''"), ("uname -r; exit 7", "sh -c 'uname -r; exit 7'")],
)
def test_script_runs_the_command(given: str | list[str], expected: str) -> None:
    assert f"\necho >/run/vmtest/began\n{expected}\necho $? >/run/vmtest/status\n" in guest.guest_script(given, [])


def test_script_is_valid_shell_and_binds_after_hiding_tmp() -> None:
    script = guest.guest_script("true", [Path("/tmp/out put")], Path("/home/me/bpfence"))
    subprocess.run(["sh", "-n"], input=script.encode(), check=True)
    assert script.index("tmpfs /tmp") < script.index("bind /run/vmtest.0 '/tmp/out put'")


def test_repository_inside_an_overlaid_folder_gets_no_second_overlay() -> None:
    existing = [folder for folder in guest.overlaid_folders(Path("/work/x")) if folder != Path("/work/x")]
    assert guest.overlaid_folders(existing[0] / "somewhere") == existing
    assert guest.overlaid_folders(Path("/work/x")) == [*existing, Path("/work/x")]


def test_share_refuses_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        guest.write_share(tmp_path / "share", "true", [tmp_path / "absent"])


@pytest.mark.parametrize(("text", "expected"), [("0\n", 0), ("7\n", 7), ("255\n", 255)])
def test_exit_code(tmp_path: Path, text: str, expected: int) -> None:
    (tmp_path / "status").write_text(text)
    assert guest.exit_code(tmp_path, []) == expected


@pytest.mark.parametrize("text", [None, "", "killed\n"])
def test_no_exit_code_shows_the_console(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "began").touch()
    if text is not None:
        (tmp_path / "status").write_text(text)
    with pytest.raises(GuestError, match=r"before its command did.*\n.*Kernel panic") as caught:
        guest.exit_code(tmp_path, ["Kernel panic - not syncing"])
    assert caught.value.exit_code == 125
    assert not isinstance(caught.value, NeverBeganError)


OOPS = (
    "Oops: int3: 0000 [#1] PREEMPT SMP NOPTI",
    *(f"[  532.{n}]  frame_{n}+0x30f/0x4e0" for n in range(60)),
    "Kernel panic - not syncing",
)


def test_a_breakpoint_that_is_no_more_is_the_emulators_fault_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "began").touch()
    with pytest.raises(EmulatorError, match=r"code that was no more.*\n(?s:.*)Kernel panic") as caught:
        guest.exit_code(tmp_path, OOPS)
    assert caught.value.exit_code == 123
    assert "frame_0+" not in str(caught.value)
    for other in ("BUG: kernel NULL pointer dereference", "Oops: 0000 [#1] PREEMPT SMP", "comm: int3", "traps: x trap int3"):
        with pytest.raises(GuestError) as failed:
            guest.exit_code(tmp_path, [other, *OOPS[1:]])
        assert not isinstance(failed.value, EmulatorError)


PANIC = "import sys; sys.exit('Kernel panic - not syncing: IO-APIC + timer does not work')"
"""A guest that ends while it boots."""


def booted(folder: Path, *guests: str) -> tuple[int, int, str]:
    """What `until_begun` makes of guests that do this, one after another, in a share of their own: the exit code, how many were booted, the
    output."""
    output, done = io.BytesIO(), 0

    def once() -> int:
        nonlocal done
        done += 1
        share = folder / str(done)
        share.mkdir()
        return guest.run_guest([*python(guests[done - 1]), str(share)], share, time.monotonic() + 60, output)

    code = guest.until_begun(once, output)
    return code, done, output.getvalue().decode()


def test_a_guest_whose_command_never_began_is_booted_once_more(tmp_path: Path) -> None:
    works = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); (p / 'began').touch(); (p / 'status').write_text('7'); print('done')"
    code, boots, output = booted(tmp_path, PANIC, works)
    assert (code, boots) == (7, 2)
    assert "IO-APIC" in output
    assert output.endswith("vmtest: booting once more\ndone\n")


def test_a_second_boot_that_fails_is_the_last(tmp_path: Path) -> None:
    with pytest.raises(NeverBeganError, match=r"while it booted.*\n.*IO-APIC"):
        booted(tmp_path, PANIC, PANIC)


def test_what_has_begun_is_not_tried_again(tmp_path: Path) -> None:
    began = "import sys, pathlib; (pathlib.Path(sys.argv[1]) / 'began').touch(); sys.exit('Kernel panic')"
    with pytest.raises(GuestError, match="before its command did"):
        booted(tmp_path, began)


NO_PID = Path("/nonexistent/pid")


def python(source: str) -> list[str]:
    return [sys.executable, "-c", source]


def test_output_is_copied_to_its_last_unfinished_line() -> None:
    output = io.BytesIO()
    source = "import sys; print('one'); print('two', end=''); print('\\n'.join(map(str, range(999))), file=sys.stderr)"
    with guest.guest_process(python(source), os.environ, NO_PID) as process:
        console = guest.copy_output(process, time.monotonic() + 30, output)
    assert output.getvalue() == b"one\ntwo"
    assert console == [str(number) for number in range(999)]


def test_time_limit_kills_the_whole_group() -> None:
    output = io.BytesIO()
    source = "import subprocess; c = subprocess.Popen(['sleep', '60']); print(c.pid, flush=True); c.wait()"
    with (
        pytest.raises(GuestTimeoutError) as caught,
        guest.guest_process(python(source), os.environ, NO_PID) as process,
    ):
        guest.copy_output(process, time.monotonic() + 2, output)
    assert caught.value.exit_code == 124
    assert process.returncode == -9
    state = Path("/proc", output.getvalue().decode().strip(), "stat")
    deadline = time.monotonic() + 10
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"

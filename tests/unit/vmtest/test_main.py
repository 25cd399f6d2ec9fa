"""The command line of vmtest: what it accepts, prints and returns, without a guest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from vmtest import GuestTimeoutError, MissingToolError, __main__
from vmtest.kernels import KERNELS, Kernel


@pytest.fixture
def booted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | Sequence[str], dict[str, object]]]:
    calls: list[tuple[str, str | Sequence[str], dict[str, object]]] = []

    def boot(kernel: Kernel, command: str | Sequence[str], **options: object) -> int:
        calls.append((kernel.name, command, options))
        return 7

    monkeypatch.setattr(__main__, "boot", boot)
    monkeypatch.setattr(__main__.signal, "signal", lambda number, handler: None)
    return calls


def test_run_returns_the_commands_code(booted: list[tuple[str, str | Sequence[str], dict[str, object]]]) -> None:
    arguments = ["run", "6.12", "--icount", "--rwdir", "/a", "--rwdir", "/b", "--timeout", "5", "--", "ls", "-l", "--", "x"]
    assert __main__.main(arguments) == 7
    name, command, options = booted[0]
    assert (name, command) == ("6.12", ["ls", "-l", "--", "x"])
    assert (options["icount"], options["rwdirs"], options["timeout"]) == (True, ["/a", "/b"], 5.0)


def test_one_argument_is_a_script(booted: list[tuple[str, str | Sequence[str], dict[str, object]]]) -> None:
    __main__.main(["run", "6.1", "--", "uname -r; exit 7"])
    assert booted[0][1] == "uname -r; exit 7"


@pytest.mark.parametrize(
    ("error", "code"), [(GuestTimeoutError("late"), 124), (MissingToolError("gpgv", "install it with: apt install gpgv"), 3)]
)
def test_errors_become_codes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int) -> None:
    def boot(*arguments: object, **options: object) -> int:
        raise error

    monkeypatch.setattr(__main__, "boot", boot)
    assert __main__.main(["run", "6.1", "--", "true"]) == code
    assert str(error) in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [[], ["run", "6.1"], ["fetch"], ["fetch", "--all", "6.1"], ["run", "6.1", "--icount", "--kvm", "--", "true"]],
)
def test_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        __main__.main(arguments)
    assert caught.value.code == 2


def test_unknown_kernel_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["run", "4.19", "--", "true"]) == 2
    assert "4.19" in capsys.readouterr().err


def test_list_names_every_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("BPFENCE_CACHE", str(tmp_path))
    assert __main__.main(["list"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[:-1]] == [kernel.name for kernel in KERNELS]
    assert "not fetched" in printed

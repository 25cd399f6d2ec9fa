# SPDX-License-Identifier: Apache-2.0
"""Files and streams, whatever happens to them: how many lines went out is always known."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import shutil
import socket
import subprocess
import sys
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bpfence.outputs import places
from bpfence.outputs.places import File, Place, Rotated, Stream

LINES = [b"%0999d" % number for number in range(1000)]


def drained(descriptor: int) -> bytes:
    """What can be read now."""
    os.set_blocking(descriptor, False)
    found = b""
    try:
        while data := os.read(descriptor, 1 << 20):
            found += data
    except BlockingIOError:
        pass
    return found


def fill(place: Place, lines: list[bytes]) -> int:
    """Writes until there is no room; how many lines went out whole."""
    done = 0
    with pytest.raises(BlockingIOError):
        while True:
            done += place.write(lines[done:])
    return done


# ---- files ----


def test_a_file_is_appended_to_and_private(tmp_path: Path) -> None:
    path = tmp_path / "a:b.jsonl"
    for text in (b"one", b"two"):
        place = File(path)
        assert place.write([text, text]) == 2
        place.close()
    assert path.read_bytes() == b"one\none\ntwo\ntwo\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert (place.name, place.folder) == (f"jsonl:{path}", tmp_path)


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "a"
    place = File(path)
    place.write([b"old"])
    path.rename(tmp_path / "a.1")
    place.reopen()
    place.write([b"new"])
    place.close()
    assert ((tmp_path / "a.1").read_text(), path.read_text()) == ("old\n", "new\n")


def test_a_fifo_in_the_place_of_a_file_is_an_error_until_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    place = File(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError):
        place.reopen()
    with pytest.raises(OSError):
        place.write([b"nowhere"])
    path.unlink()
    assert place.write([b"here"]) == 1
    place.close()
    assert path.read_text() == "here\n"


FULL = """
import os, sys
from pathlib import Path
from typing import Any
from bpfence.outputs.places import File
folder = Path(sys.argv[1])
lines = [b"%0999d" % number for number in range(1000)]
(folder / "ballast").write_bytes(bytes(100_000))
place = File(folder / "a")
done = 0
try:
    while True:
        done += place.write(lines[done:])
except OSError as error:
    print(error.strerror)
assert place._file.size() > 1000 * done, "the last line was cut"
os.truncate(folder / "ballast", 0)
done += place.write(lines[done:done + 20])
place.close()
found = (folder / "a").read_bytes().split(b"\\n")
assert [line for line in found if line in lines] == lines[:done], (done, len(found))
assert len([line for line in found if line and line not in lines]) == 1, "what was cut is on a line of its own"
print("whole")
"""


def in_a_small_file_system(folder: Path, script: str) -> str:
    """What a script prints that has a file system of 200 kB at a folder, for itself."""
    words = [sys.executable, "-c", script, str(folder)]
    mounted = 'mount -t tmpfs -o size=200k none "$1" && shift && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mounted, "sh", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "src"}).stdout


def may_mount() -> bool:
    """Whether this process may make a mount namespace."""
    return shutil.which("unshare") is not None and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="mount namespaces are not allowed here")
def test_a_disk_that_becomes_full_cuts_no_count(tmp_path: Path) -> None:
    assert in_a_small_file_system(tmp_path, FULL).split("\n")[:2] == ["No space left on device", "whole"]


def test_a_device_that_is_full() -> None:
    place = File(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left"):
        place.write([b"x"])
    place.close()


# ---- streams ----


def test_a_pipe_without_room_is_no_wait_and_all_that_it_took_is_known() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        place = Stream(stream, "-")
        done = fill(place, LINES)
        found = drained(reader)
        place.wait(600)
        while done < 200:
            done += fill(place, LINES[:200][done:]) if done + 60 < 200 else place.write(LINES[done:200])
            found += drained(reader)
        place.close()
    assert found.split(b"\n") == [*LINES[:200], b""], "a line that was cut goes on where it was cut"
    os.close(reader)


def test_who_shares_the_pipe_notices_nothing() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        place = Stream(stream, "-")
        fill(place, LINES)
        assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK
        place.close()
        place.close()
        assert os.fstat(writer)
    os.close(reader)


def test_a_socket_without_room() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, os.fdopen(os.dup(ours.fileno()), "w") as stream:
        place = Stream(stream, "-")
        done = fill(place, LINES * 100)
        assert ours.getblocking()
        found = drained(theirs.fileno())
        assert found.count(b"\n") == done
        place.close()


def test_a_terminal_that_is_stopped() -> None:
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    with os.fdopen(theirs, "w") as stream:
        place = Stream(stream, "rich")
        done = fill(place, LINES)
        assert drained(ours).count(b"\n") == done
        place.close()
    os.close(ours)


@pytest.mark.parametrize("make", [os.pipe, lambda: tuple(end.detach() for end in socket.socketpair())])
def test_a_reader_that_is_gone_is_an_error(make: Callable[[], tuple[int, int]]) -> None:
    reader, writer = make()
    with os.fdopen(writer, "w") as stream:
        place = Stream(stream, "-")
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            place.write([b"unread"])
        place.wait(600)
        place.close()


def test_a_pipe_that_never_had_a_reader_is_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        place = Stream(stream, "-")
        with pytest.raises(BrokenPipeError):
            place.write([b"unread"])
        place.close()


def test_the_next_reader_of_a_fifo_gets_what_comes_then(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with (tmp_path / "fifo").open("w") as stream:
        place = Stream(stream, "-")
        assert place.write([b"one"]) == 1
        os.close(reader)
        with pytest.raises(BrokenPipeError):
            place.write([b"two"])
        reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        assert place.write([b"two"]) == 1
        assert os.read(reader, 100) == b"one\ntwo\n", "the pipe has kept what nobody read"
        place.close()
    os.close(reader)


def test_where_it_cannot_be_opened_once_more_it_is_written_to_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        with monkeypatch.context() as patch:
            patch.setattr(places.os, "open", refuse)
            place = Stream(stream, "-")
        assert place.write([b"one", b"two"]) == 2
        place.close()
    assert os.read(reader, 100) == b"one\ntwo\n"
    os.close(reader)


def test_a_stream_without_a_descriptor() -> None:
    stream = io.StringIO()
    place = Stream(stream, "-")
    assert place.write([b"one", b"two"]) == 2
    place.reopen()
    place.close()
    assert stream.getvalue() == "one\ntwo\n"


def test_a_file_as_standard_output_is_written_to_where_the_others_are(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as stream:
        stream.write("said before\n")
        place = Stream(stream, "-")
        place.write([b"line"])
        os.write(stream.fileno(), b"said after\n")
        place.write([b"line"])
        place.close()
        assert (tmp_path / "out").read_text() == "said before\nline\nsaid after\nline\n"


# ---- rotation ----


def rotated(path: Path, said: list[str] | None = None, **given: Any) -> Rotated:
    settings = {"size": 0, "seconds": 0, "keep": 2, **given}
    return Rotated(path, (said if said is not None else []).append, **settings)


def put_all(place: Rotated, lines: list[bytes]) -> None:
    while lines:
        lines = lines[place.write(lines) :]


def test_files_are_bounded_in_size_and_number(tmp_path: Path) -> None:
    place = rotated(tmp_path / "a", size=100)
    put_all(place, [b"%09d" % number for number in range(45)])
    place.close()
    files = {path.name: path.read_bytes().split() for path in tmp_path.iterdir()}
    assert {name: len(lines) for name, lines in files.items()} == {"a": 5, "a.1": 10, "a.2": 10}
    assert [int(line) for line in files["a.2"] + files["a.1"] + files["a"]] == list(range(20, 45))


def test_a_line_that_is_larger_than_a_file_has_one_to_itself(tmp_path: Path) -> None:
    place = rotated(tmp_path / "a", size=10)
    put_all(place, [b"x", b"y" * 50, b"z"])
    place.close()
    assert (tmp_path / "a.1").read_bytes() == b"y" * 50 + b"\n"


def test_a_file_is_begun_anew_in_another_period_also_after_a_restart(tmp_path: Path) -> None:
    moment = [1_000_000.0]
    for number, later in enumerate((0, 10, 3600, 7200)):
        moment[0] = 1_000_800.0 + later
        place = rotated(tmp_path / "a", seconds=3600, keep=5, now=lambda: moment[0])
        put_all(place, [b"%d" % number])
        os.utime(tmp_path / "a", (moment[0], moment[0]))
        place.close()
    found = {path.name: path.read_bytes().split() for path in tmp_path.iterdir()}
    assert found == {"a": [b"3"], "a.1": [b"2"], "a.2": [b"0", b"1"]}


def test_nothing_is_kept(tmp_path: Path) -> None:
    place = rotated(tmp_path / "a", size=10, keep=0)
    put_all(place, [b"12345", b"67890"])
    place.close()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"67890\n"


def test_a_file_that_cannot_be_renamed_grows_and_that_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "a.1").mkdir()
    place = rotated(tmp_path / "a", said, size=10, keep=1)
    put_all(place, [b"12345"] * 5)
    place.close()
    assert (tmp_path / "a").read_bytes() == b"12345\n" * 5
    assert len(said) == 1
    assert "cannot be rotated: Is a directory; it goes on in the same file" in said[0]

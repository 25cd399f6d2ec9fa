# SPDX-License-Identifier: Apache-2.0
"""Manual pages: one for each command, with all its options, which groff takes without a word."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from tools import build_man
from tools.build_man import build, commands, page, text


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("man")
    (folder / "gone.1").write_text("")
    build(folder)
    return folder


def test_every_command_has_a_page_with_its_options(pages: Path) -> None:
    found = dict(commands(build_man.cli))
    assert {path.name for path in pages.iterdir()} == {f"{'-'.join(path)}.1" for path in found}
    assert ("bpfence", "policy", "set-mode") in found
    for path, command in found.items():
        words = (pages / f"{'-'.join(path)}.1").read_text()
        for param in command.params:
            assert not isinstance(param, click.Option) or text(max(param.opts, key=len)) in words, (path, param.opts)
        assert isinstance(command, click.Group) or len(path) == 1 or ".SH EXAMPLES" in words, path


def test_the_same_commands_make_the_same_bytes(pages: Path, tmp_path: Path) -> None:
    build(tmp_path)
    assert {path.name: path.read_bytes() for path in pages.iterdir()} == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_groff_has_nothing_to_say(pages: Path) -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is missing: apt-get install groff")
    for path in sorted(pages.iterdir()):
        done = subprocess.run([groff, "-man", "-Tutf8", "-ww", "-Kutf8", str(path)], capture_output=True, text=True, check=True)
        assert done.stderr == "", path
        shown = re.sub(".\b", "", done.stdout)  # bold: letters that are struck twice
        assert "EXAMPLES" in shown or "COMMANDS" in shown


def test_no_word_is_a_request_of_roff() -> None:
    @click.command()
    def odd() -> None:
        """Say odd things.

        \b
        Examples:
          .so /etc/passwd
          'br \\n back\\slash -x
        """

    made = page(("odd",), odd)
    assert "\n\\&.so /etc/passwd\n" in made
    assert "\n\\&'br \\en back\\eslash \\-x\n" in made

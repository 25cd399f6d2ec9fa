"""The compiled core: what is declared, what the stub says, and what is built are one."""

from __future__ import annotations

import re
from pathlib import Path

import bpfence.compiler
from bpfence.compiler import build_core
from bpfence.compiler._core import lib

FOLDER = Path(bpfence.compiler.__file__).parent


def test_the_stub_names_everything_that_was_built() -> None:
    stub = (FOLDER / "_core.pyi").read_text().partition("class _Lib:")[2]
    named = set(re.findall(r"^    (?:def )?(\w+)[(:]", stub, re.MULTILINE))
    assert named == set(dir(lib))


def test_every_declared_function_is_in_the_source() -> None:
    declared = set(re.findall(r"(bpfence_\w+)\(", build_core.DECLARATIONS))
    source = "".join((FOLDER / name).read_text() for name in build_core.SOURCES)
    assert declared
    assert all(re.search(rf"^[\w ]+\*?{name}\(", source, re.MULTILINE) for name in declared)


def test_it_links_no_library() -> None:
    assert not build_core.make_builder()._assigned_source[-1].get("libraries")

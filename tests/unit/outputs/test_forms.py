# SPDX-License-Identifier: Apache-2.0
"""Forms by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bpfence.alerts.alert import Composer
from bpfence.outputs.forms import FORMS, recoded

LINE = Composer("h", lambda: 0).status("test", "Grüße")


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("native", b'{"time":'), ("falco", b'{"hostname":'), ("falco-text", b""), ("tetragon", b'{"bpfence'), ("rich", b""),
        ("kubearmor", b'{"Timestamp":'), ("cef", b"CEF:0|bpfence|bpfence|"), ("ocsf", b'{"time":0,'),
    ],
)  # fmt: skip
def test_every_form_is_the_bytes_of_one_line(name: str, first: bytes) -> None:
    made = FORMS[name]()(LINE)
    assert made.startswith(first)
    assert "Grüße".encode() in made
    assert not made.endswith(b"\n")


def test_there_are_no_others() -> None:
    assert set(FORMS) == {"native", "falco", "falco-text", "tetragon", "rich", "kubearmor", "cef", "ocsf"}


def test_what_an_encoding_lacks_is_escaped() -> None:
    assert b"Gr\\xfc\\xdfe" in recoded(FORMS["falco-text"](), "ascii")(LINE)
    assert "Grüße".encode("latin-1") in recoded(FORMS["falco-text"](), "latin-1")(LINE)


def test_a_form_is_imported_by_who_shows_it() -> None:
    script = "import sys, bpfence.outputs.routes, bpfence.outputs.forms as r; r.FORMS['native'](); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "bpfence.outputs.forms" in loaded
    assert not {name for name in loaded if name.startswith(("bpfence.dialects", "rich"))}

# SPDX-License-Identifier: Apache-2.0
"""Requests of the control socket: what is written is what is read, and nothing else is."""

from __future__ import annotations

import pytest

from bpfence.alerts.alert import SEVERITIES
from bpfence.errors import UsageError
from bpfence.services import requests
from bpfence.services.requests import decoded, encoded


@pytest.mark.parametrize(
    "request_",
    [
        requests.Status(),
        requests.Show(name="guard"),
        requests.Add(files=(requests.Text(name="a.yaml", text="a: 1"),)),
        requests.SetMode(names=("a", "b"), mode="audit"),
        requests.Events(follow=True, last=3, severity="high", policy=("web-*",)),
    ],
)
def test_what_is_asked_is_what_is_understood(request_: requests.Request) -> None:
    assert decoded(encoded(request_)) == request_


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"", "no request"),
        (b'{"ask":"status"}', "`version`"),
        (b'{"version":2,"ask":"status"}', "version 1"),
        (b'{"version":1,"ask":"stauts"}', "stauts"),
        (b'{"version":1,"ask":"status","more":1}', "more"),
        (b'{"version":1,"ask":"set-mode","names":["a"],"mode":"off"}', "off"),
        (b'{"version":1,"ask":"events","last":513}', "512"),
        (b'{"version":1,"ask":"remove","names":[]}', "names"),
        (b"[" * 100000, "no request"),
    ],
)
def test_everything_else_is_refused_in_words(line: bytes, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        decoded(line)


def test_severities_are_those_of_alerts() -> None:
    for severity in SEVERITIES:
        assert decoded(b'{"version":1,"ask":"events","severity":"%s"}' % severity.encode()) == requests.Events(severity=severity)  # type: ignore[arg-type]

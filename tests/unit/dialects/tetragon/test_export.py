# SPDX-License-Identifier: Apache-2.0
"""What options leave of Tetragon's form. What filters mean: `test_filters`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bpfence.alerts.alert import Alert, Composer
from bpfence.dialects.tetragon.export import Export
from bpfence.dialects.tetragon.show import line_as_json
from bpfence.errors import UsageError
from bpfence.events.loss import Loss
from tests.unit.dialects.tetragon.test_show import PROCESS, TIME

COMPOSER = Composer("node", lambda: 0)
LOSS = COMPOSER.loss(Loss(events={"file.open": 3}, gaps={}, undecodable={}))
STATUS = COMPOSER.status("started", "hello")


def line(event: str = "process.executed", **process: Any) -> Alert:
    return Alert(
        time=TIME,
        policy="p",
        rule="r",
        severity="low",
        tags=(),
        action="observe",
        mode="audit",
        message="m",
        errno=None,
        seq=1,
        host="node",
        event=event,
        process={**PROCESS, **process},
    )


def test_without_options_all_is_as_it_was() -> None:
    for one in (line(), LOSS, STATUS):
        assert Export()(one) == Export().clients(one) == line_as_json(one)


def test_events_are_allowed_and_denied() -> None:
    export = Export('{"event_set": ["PROCESS_EXEC"]}\n\n{"pid": [9]}\n', '{"binary_regex": ["/sh$"]}')
    assert export(line())
    assert export(line("process.exit", pid=9))
    assert export(line("process.exit")) == b""
    assert export(line(exe="/bin/sh")) == b""
    assert export.clients(line(exe="/bin/sh"))


def test_losses_and_the_agents_own_state_are_always_told() -> None:
    export = Export('{"pid": [1000]}', '{"event_set": ["RATE_LIMIT_INFO"]}')
    assert (export(LOSS), export(STATUS)) == (line_as_json(LOSS), line_as_json(STATUS))


def test_what_is_hidden_is_hidden_from_clients_too_and_before_fields_are_chosen() -> None:
    export = Export(fields='{"fields": "process.arguments"}', redact='{"redact": ["secret=([^ ]+)"]}')
    told = line(args=["x", "secret=abc", "y"])
    assert json.loads(export(told))["process_exec"] == {"process": {"arguments": "secret=***** y"}}
    assert json.loads(export.clients(told))["process_exec"]["process"]["arguments"] == "secret=***** y"
    assert json.loads(export.clients(told))["process_exec"]["parent"]


def test_filters_see_what_is_hidden() -> None:
    """A filter is about the event as it was; what is written has it no more."""
    export = Export('{"arguments_regex": ["secret=abc"]}', redact='{"redact": ["secret=([^ ]+)"]}')
    assert b"abc" not in export(line(args=["x", "secret=abc"]))
    assert export(line(args=["x", "secret=abc"]))
    assert export(line(args=["x", "secret=other"])) == b""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"allow": "x"}, "--export-allowlist or --export-denylist: it must be JSON"),
        ({"allow": "[" * 100_000}, "it must be JSON"),
        ({"deny": '{"nothing": 1}'}, "'nothing' is not supported"),
        ({"fields": '{"fields": 1}'}, "--export-fields"),
        ({"redact": '{"redact": ["secret"]}'}, "--export-redact: redact: a pattern without a group"),
    ],
)
def test_what_cannot_be_understood_ends_the_start(given: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match="--export") as error:
        Export(**given)
    assert said in str(error.value)

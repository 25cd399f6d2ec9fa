# SPDX-License-Identifier: Apache-2.0
"""The cases cover every event, every act of the trigger and every shipped policy; a skip can only name a probed feature."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import pytest

from bpfence.fields import EVENTS
from tests.kernel.cases import ROOT, Case
from tests.kernel.conftest import FEATURES
from tests.kernel.falco_range import load_shots

OF_OTHER_TESTS = (
    "elder", "hammer", "repeat", "pace", "each", "stay", "swap", "open-list", "hop", "setid", "receive", "socketpair", "unix-dial",
    "linkat-unreadable"
)  # fmt: skip
"""Acts that test_hammer, test_isolation, test_latency, test_lineage, test_differential, test_falco, test_runtimes, test_sensors,
test_uncertain and the harness use."""


def acts(case: Case) -> list[str]:
    return [str(word) for act in (*case.setup, *(step.do for _, step in case.steps())) for word in act]


def test_every_event_is_denied_and_allowed(cases: list[Case]) -> None:
    """Those of sensors are by test_overrides: no native policy denies there."""
    denied = {case.event for case in cases if any(kind == "attack" and step.fails != "ok" for kind, step in case.steps())}
    benign = {case.event for case in cases if case.benign}
    wanted = {event.name for event in EVENTS if event.deniable and not event.sensor}
    assert wanted - denied == set(), "events that no case denies"
    assert wanted - benign == set(), "events with no benign twin"


def test_every_act_is_used(cases: list[Case]) -> None:
    known = set(subprocess.run([str(ROOT / ".build/trigger"), "list"], capture_output=True, text=True, check=True).stdout.split())
    used = {word for case in cases for word in acts(case)}
    used |= {word for rule in load_shots() for shot in (*rule.fires, *rule.quiet) for word in shot.words()}
    assert known - used - {"list", "exit", *OF_OTHER_TESTS} == set(), "acts of the trigger that no case uses"


def test_required_features_are_known(cases: list[Case]) -> None:
    required = {feature for case in cases for feature in [*case.requires, *(f for _, step in case.steps() for f in step.requires)]}
    assert required - set(FEATURES) == set()


def test_the_table_of_features_is_true(probed: dict[str, str]) -> None:
    """In both directions: what a kernel is said to lack it lacks, or tests that could run there are skipped for nothing."""
    kernel = os.environ["BPFENCE_KERNEL"]
    assert probed == {feature: "no" if kernel in lacking else "yes" for feature, lacking in FEATURES.items()}


def test_every_shipped_policy_has_a_case(cases: list[Case]) -> None:
    shipped = {path.name for path in (ROOT / "examples/policies").glob("*.yaml")}
    covered = {case.shipped for case in cases if case.attack and case.benign}
    assert shipped - covered == set(), "shipped policies without an attack and a benign twin"


def test_a_missing_feature_skips_only_where_the_table_says_so(
    need: Callable[[list[str]], None], probed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    feature = "io_uring"
    monkeypatch.setitem(probed, feature, "no")
    with pytest.raises(pytest.fail.Exception, match="should have io_uring"):
        need([feature])
    monkeypatch.setitem(FEATURES, feature, ["here"])
    monkeypatch.setenv("BPFENCE_KERNEL", "here")
    with pytest.raises(pytest.skip.Exception, match="lacks: io_uring"):
        need([feature])

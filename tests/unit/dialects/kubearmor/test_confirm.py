# SPDX-License-Identifier: Apache-2.0
"""What alerts of KubeArmor's policies say in its words."""

from __future__ import annotations

import msgspec

from bpfence.dialects.kubearmor.confirm import Confirmed
from bpfence.dialects.kubearmor.dialect import KUBEARMOR, KubeArmorRules
from bpfence.documents.files import SourceFile
from tests.unit.dialects.kubearmor.corpus import document
from tests.unit.events.samples import observation

KEY = "KubeArmorPolicy/shop/p"


def rules(severity: int = 7, **spec: object) -> KubeArmorRules:
    given = {
        "severity": severity,
        "file": {"matchPaths": [{"path": "/a", "message": "no\x1b a"}, {"path": "/b"}, {"path": "/c", "action": "Allow"}]},
    }
    return KUBEARMOR.read([SourceFile("p", document({**given, **spec}).encode())], None)[0]


def test_said_of_rules() -> None:
    confirm = Confirmed(4)
    confirm.use(1, rules(), ())
    seen = msgspec.structs.replace(observation(fields={"event": "file.open", "file.path": "/b\n"}), generation=1)
    view = confirm.view(seen)
    first, second, posture = (
        view.said(*key) for key in ((KEY, "file.matchPaths[0]"), (KEY, "file.matchPaths[1]"), ("KubeArmor/DefaultPosture", "file"))
    )
    assert first is not None
    assert second is not None
    assert posture is not None
    assert (first.dialect, first.message) == ("kubearmor", "no\\x1b a")
    assert second.message == "File: file.open of /b\\x0a"
    assert second.details == {
        "kind": "KubeArmorPolicy", "policy": "p", "namespace": "shop", "operation": "File", "severity": 7, "action": "Block",
    }  # fmt: skip
    assert posture.details == {"kind": "KubeArmorPolicy", "policy": "DefaultPosture", "operation": "File", "action": "Audit"}
    assert view.said(KEY, "file.matchPaths[9]") is None
    assert (confirm.confirm(view, None), view.refused, confirm.hosts()) == ([], False, {})


def test_records_of_before_a_reload_say_what_was_in_force_then() -> None:
    confirm = Confirmed(2)
    for generation, severity in ((1, 1), (2, 2), (3, 3)):
        confirm.use(generation, rules(severity), ())
    confirm.use(4, None, ())

    def severity_of(generation: int) -> int | None:
        said = confirm.view(msgspec.structs.replace(observation(), generation=generation)).said(KEY, "file.matchPaths[1]")
        return said.details["severity"] if said is not None else None

    assert [severity_of(generation) for generation in (1, 3, 4)] == [None, 3, None]


def test_nothing_goes_on_beside_events() -> None:
    confirm = Confirmed(1)
    confirm.start(lambda: None)
    confirm.refused(1, 1)
    confirm.flush()
    confirm.reopen()
    confirm.close()
    assert (confirm.candidates, confirm.confirmed, confirm.faults.counts.total()) == (0, 0, 0)

# SPDX-License-Identifier: Apache-2.0
"""What alerts of KubeArmor's policies say in its words."""

from __future__ import annotations

import msgspec

from bpfence.dialects.kubearmor.confirm import confirm as confirming
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
    confirm = confirming(4)
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
    annotated = view.said("KubeArmor/DefaultPosture", "file-block")
    assert annotated is not None
    assert annotated.details == {**posture.details, "action": "Block"}
    assert view.said(KEY, "file.matchPaths[9]") is None
    assert (confirm.confirm(view, None), view.refused, confirm.hosts()) == ([], False, {})


def test_what_is_refused_of_what_is_allowed_is_blocked() -> None:
    confirm = confirming(4)
    confirm.use(1, rules(file={"matchPaths": [{"path": "/a", "readOnly": True}], "action": "Allow"}), ())
    seen = msgspec.structs.replace(observation(fields={"event": "file.unlink", "file.path": "/a"}), generation=1)
    said = confirm.view(seen).said(KEY, "file.matchPaths[0]")
    assert said is not None
    assert (said.details["policy"], said.details["action"]) == ("p", "Block")

# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the shape of a seccomp profile as JSON Schema out.

For the schemas of what holds a profile: native policies, and `objects`. The keys and values are those of `profile` and `model`.
"""

from __future__ import annotations

from typing import Any, Final

from bpfence.seccomp.model import ARGUMENTS, ArgOp, ProfileAction, ProfileFlag
from bpfence.seccomp.profile import MAX_ERRNO
from bpfence.syscalls.architectures import Arch

DECIMAL: Final = "^[0-9]{1,20}$"


def _object(required: tuple[str, ...] = (), **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def profile_schema(most: int | None = None) -> dict[str, Any]:
    """The JSON Schema of a seccomp profile: the OCI runtime specification's, with what Docker adds. `most`: the greatest number that what
    holds the profile keeps as it is; greater ones are texts there."""
    text: dict[str, Any] = {"type": "string"}
    number: dict[str, Any] = {"type": "integer", "minimum": 0}
    if most is not None:
        number = {"anyOf": [{**number, "maximum": most}, {"type": "string", "pattern": DECIMAL}]}
    action = {"enum": [*(action.value for action in ProfileAction), "SCMP_ACT_KILL"]}
    errno = {"type": "integer", "minimum": 0, "maximum": MAX_ERRNO}
    arch = {"enum": [arch.value for arch in Arch]}
    arches = {"type": "array", "items": arch}
    texts = {"type": "array", "items": text}
    conditions = _object(caps=texts, arches={"type": "array", "items": {"enum": [a.go_name for a in Arch]}}, minKernel=text)
    argument = _object(
        ("index", "value", "op"),
        index={"type": "integer", "minimum": 0, "maximum": ARGUMENTS - 1},
        value=number,
        valueTwo=number,
        op={"enum": [op.value for op in ArgOp]},
    )
    rule = _object(
        ("action",),
        names={**texts, "minItems": 1},
        name=text,
        action=action,
        errnoRet=errno,
        errno=text,
        args={"type": "array", "items": argument},
        comment=text,
        includes=conditions,
        excludes=conditions,
    )
    flag = {"enum": [known.value for known in ProfileFlag]}
    mapped = _object(("architecture",), architecture=arch, subArchitectures=arches)
    return {
        "title": "SeccompProfile",
        **_object(
            ("defaultAction",),
            defaultAction=action,
            defaultErrnoRet=errno,
            defaultErrno=text,
            architectures=arches,
            archMap={"type": "array", "items": mapped},
            flags={"type": "array", "items": flag},
            listenerPath=text,
            listenerMetadata=text,
            syscalls={"type": "array", "items": rule},
        ),
    }

# SPDX-License-Identifier: Apache-2.0
"""The policy languages, by name; files in, the language that each is of out.

A language is one line here. The first that claims a file has it; what none claims is native, whose reader says best what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from bpfence.dialects.dialect import Dialect
from bpfence.dialects.falco.dialect import FALCO
from bpfence.dialects.native.dialect import NATIVE
from bpfence.documents.files import Source

Dialects = Mapping[str, Dialect]
DIALECTS: Final[Dialects] = {dialect.name: dialect for dialect in (NATIVE, FALCO)}
"""In the order in which their policies are loaded. Importing it costs little: what reads and confirms is imported when it is called."""


def claimed(sources: Iterable[Source], dialects: Dialects = DIALECTS) -> dict[str, list[Source]]:
    """Files by the names of their languages, in the order of `dialects`; languages without files are left out."""
    found: dict[str, list[Source]] = {name: [] for name in dialects}
    for source in sources:
        claims = (name for name, dialect in dialects.items() if name != NATIVE.name and dialect.claims(source.data))
        found[next(claims, NATIVE.name)].append(source)
    return {name: files for name, files in found.items() if files}


def owner(policy: str, dialects: Dialects = DIALECTS) -> str:
    """The language whose rules go under the name of a policy."""
    return next((name for name, dialect in dialects.items() if policy in dialect.policies), NATIVE.name)

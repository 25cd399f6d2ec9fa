# SPDX-License-Identifier: Apache-2.0
"""The policy languages by name; files in, the language of each out.

A language is one line here. The first one that claims a file gets it. A file that none claims is native, because that reader says best what
is wrong with it. A file with nothing in it but comments (Falco ships its falco_rules.local.yaml so) is of the language of the files beside
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from bpfence.dialects.dialect import Dialect
from bpfence.dialects.falco.dialect import FALCO
from bpfence.dialects.kubearmor.dialect import KUBEARMOR
from bpfence.dialects.native.dialect import NATIVE
from bpfence.dialects.tetragon.dialect import TETRAGON
from bpfence.documents.files import SourceFile

Dialects = Mapping[str, Dialect]
DIALECTS: Final[Dialects] = {dialect.name: dialect for dialect in (NATIVE, FALCO, TETRAGON, KUBEARMOR)}
"""In the order in which their policies are loaded. Importing a language costs little: what reads and confirms is imported when it is
called."""


def claimed(sources: Iterable[SourceFile], dialects: Dialects = DIALECTS) -> dict[str, list[SourceFile]]:
    """Files by the names of their languages, in the order of `dialects`; languages without files are left out."""
    files = [(source, None if _is_blank(source.data) else _language(source.data, dialects)) for source in sources]
    said = {name for _, name in files if name is not None}
    beside = said.pop() if len(said) == 1 else NATIVE.name
    by_language: dict[str, list[SourceFile]] = {name: [] for name in dialects}
    for source, name in files:
        by_language[name or beside].append(source)
    return {name: sources for name, sources in by_language.items() if sources}


def _language(data: bytes, dialects: Dialects) -> str:
    return next((name for name, dialect in dialects.items() if name != NATIVE.name and dialect.claims(data)), NATIVE.name)


def _is_blank(data: bytes) -> bool:
    return all(not line or line.startswith(b"#") or line == b"---" for line in map(bytes.strip, data.splitlines()))


def owner(policy: str, dialects: Dialects = DIALECTS) -> str:
    """The language whose rules have this policy's name in alerts."""
    return next((name for name, dialect in dialects.items() if policy in dialect.policies), NATIVE.name)

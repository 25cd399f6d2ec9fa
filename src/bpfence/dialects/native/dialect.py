# SPDX-License-Identifier: Apache-2.0
"""bpfence's own language, in the shape of every dialect. The kernel decides it completely."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from bpfence.conditions.links import Resolver
from bpfence.dialects.decided import DecidedRules
from bpfence.dialects.dialect import Confirm, Context
from bpfence.documents.files import SourceFile
from bpfence.errors import Diagnostic

if TYPE_CHECKING:
    from bpfence.dialects.native.tools import NativeTools

_HEADER: Final = re.compile(rb"^apiVersion[ \t]*:(?![ \t]*[\"']?cilium\.io/)", re.MULTILINE)


class NativeRules(DecidedRules):
    """Policies as they were read."""

    resolver = Resolver()


class _Native:
    name = "native"
    title = "policies"
    policies = ()
    reads_processes = False
    options = ()
    forms = ()
    objects = ()

    def tools(self) -> NativeTools:
        """Imported when a command asks for them."""
        from bpfence.dialects.native.tools import NativeTools

        return NativeTools(self)

    def choose(self, given: Mapping[str, object]) -> None:
        """There is nothing to choose."""

    def claims(self, data: bytes) -> bool:
        """Whether there is a Kubernetes-style header, and none of tracing policies."""
        return _HEADER.search(data) is not None

    def read(self, sources: Sequence[SourceFile], options: object) -> tuple[NativeRules, list[Diagnostic]]:
        """The policies of all files."""
        from bpfence.dialects.native.read import load_sources

        policy_set, diagnostics = load_sources(sources)
        return NativeRules(policy_set), diagnostics

    def confirm(self, context: Context) -> Confirm | None:
        """Nothing is left to confirm."""
        return None


NATIVE: Final = _Native()

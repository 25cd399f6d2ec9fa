# SPDX-License-Identifier: Apache-2.0
"""Chosen programs in, the decision engine put into them out, where they are loaded without one of their own.

Called by `engine`. bpf/shared.bpf.c says what an extension is and why. The verifier walks the engine once for each of EXTENSIONS that is
needed, in the load of the first programs that want it; after that, programs of the same kind get it by a link alone. A program has it
before it is attached to its hook, so none ever runs without.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from bpfence.errors import KernelError
from bpfence.fields import EVENT_BY_NAME
from bpfence.kernel import libbpf
from bpfence.kernel.features import Answer, Features, Probe
from bpfence.kernel.hooks import PROGRAMS, Kind
from bpfence.kernel.libbpf import Object
from bpfence.kernel.pins import Pins
from bpfence.kernel.programs import Choice

OBJECT: Final = "shared.bpf.o"
"""Beside bpfence.bpf.o."""
FUNCTION: Final = "engine"
EXTENSIONS: Final = {Kind.HOOK: "engine_for_hooks", Kind.TRACEPOINT: "engine_for_tracepoints"}
"""What is put in place of FUNCTION in programs of each kind."""

_TAILS: Final = {row.variants[0].program: row.function for row in PROGRAMS if row.kind is Kind.TAIL}


def decides(choice: Choice) -> bool:
    """Whether a program has a place for the engine."""
    return choice.row.kind in EXTENSIONS and choice.row.decides


def wants(choice: Choice, events: Collection[str]) -> bool:
    """Whether a program needs the engine for `events` (full names). One that tracks processes gets there for its own events only."""
    return decides(choice) and (not choice.row.tracking or any(EVENT_BY_NAME[event].name in choice.events for event in events))


def _said(probe: Probe | None) -> str:
    return f"{probe.answer.value} ({probe.detail})" if probe else "not probed"


class Sharing:
    """The extensions that are loaded, and the links that put them into programs."""

    def __init__(self, features: Features) -> None:
        probe = features.probes.get("extensions")
        self.refused = "" if probe and probe.answer is Answer.YES else f"extensions: {_said(probe)}"
        """Why every program has an engine of its own; "" where they share one."""
        self._prototypes = features.prototypes
        self._extensions: dict[str, int] = {}
        self._function = 0
        self.links: dict[str, int] = {}

    def takes(self, choice: Choice) -> bool:
        """Whether a program is to be loaded from OBJECT."""
        row = choice.row
        return not self.refused and (row.kind in EXTENSIONS or not row.decides or row.whole or self.continues(choice))

    def continues(self, choice: Choice) -> bool:
        """Whether a program goes on in another one: its function is of the type of that one's. See bpf/calls.bpf.c."""
        if self.refused or not choice.row.tail:
            return False
        own = self._prototypes.get(choice.target)
        return own is not None and own == self._prototypes.get(_TAILS[choice.row.tail])

    def lacking(self, choices: Iterable[Choice], events: Collection[str]) -> tuple[Choice, ...]:
        """Those of `choices`, all of which are attached, that need the engine for `events` and are without."""
        return tuple(choice for choice in choices if self.takes(choice) and choice.program not in self.links and wants(choice, events))

    def aim(self, parsed: Object, loading: Iterable[Choice], loaded: Mapping[Choice, int]) -> tuple[str, ...]:
        """Has `parsed` load the extensions that programs need and that are not there: for those that it is going to load, or for
        `loaded` ones, which have a descriptor. Their names.
        """
        targets: dict[str, str | int] = {EXTENSIONS[choice.row.kind]: fd for choice, fd in loaded.items()}
        targets |= {EXTENSIONS[choice.row.kind]: choice.program for choice in loading}
        wanted = {extension: target for extension, target in targets.items() if extension not in self._extensions}
        for extension, target in wanted.items():
            parsed.aim(extension, FUNCTION, target)
        return tuple(wanted)

    def keep(self, parsed: Object, extensions: Iterable[str]) -> None:
        """The extensions that have been loaded."""
        self._function = parsed.function(FUNCTION)
        for extension in extensions:
            self._extensions[extension] = os.dup(parsed.fd(extension))

    def extend(self, choice: Choice, program_fd: int, pins: Pins | None) -> None:
        """Puts the engine into a loaded program, and pins what holds it there. KernelError: it cannot be."""
        link = libbpf.extend(self._extensions[EXTENSIONS[choice.row.kind]], program_fd, self._function)
        try:
            if pins:
                pins.pin_engine(choice.program, link)
        except BaseException:
            os.close(link)
            raise
        self.links[choice.program] = link

    def adopt(self, links: Mapping[str, int], choices: Iterable[Choice]) -> None:
        """Takes over what an earlier agent has put in. Without CAP_SYS_ADMIN the extensions are not found, and loaded anew if need be."""
        self.links = dict(links)
        for choice in choices:
            if choice.program in links and (extension := EXTENSIONS[choice.row.kind]) not in self._extensions:
                with contextlib.suppress(KernelError):
                    self._extensions[extension] = libbpf.program_of(links[choice.program])

    def drop(self, program: str) -> None:
        """A program that is detached."""
        if program in self.links:
            os.close(self.links.pop(program))

    def close(self) -> None:
        for fd in (*self.links.values(), *self._extensions.values()):
            os.close(fd)
        self.links, self._extensions = {}, {}

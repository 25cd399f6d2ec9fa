# SPDX-License-Identifier: Apache-2.0
"""The name of a form in, what turns lines into bytes out.

Called by `open_outputs`. A form makes the bytes of one line, UTF-8 and without a newline; it knows nothing of where they go. The forms of a
language are in that language's `show`; what none of the outputs shows is not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from bpfence.alerts.alert import Line, encode

Form = Callable[[Line], bytes]
Chosen = Callable[[Line], bytes | None]
"""A form that does not show every line."""


def _native() -> Form:
    return encode


def _rich() -> Form:
    from bpfence.outputs.terminal import People

    return People()


def _falco() -> Form:
    from bpfence.dialects.falco.show import line_as_json

    return line_as_json


def _falco_text() -> Form:
    from bpfence.dialects.falco.show import line_as_text

    return line_as_text


def _tetragon() -> Form:
    from bpfence.dialects.tetragon.show import line_as_json

    return line_as_json


def _kubearmor() -> Form:
    from bpfence.dialects.kubearmor.show import line_as_json

    return line_as_json


FORMS: Final[Mapping[str, Callable[[], Form]]] = MappingProxyType(
    {"native": _native, "rich": _rich, "falco": _falco, "falco-text": _falco_text, "tetragon": _tetragon, "kubearmor": _kubearmor}
)
"""The forms by name, each made when it is asked for."""


def recoded(form: Form, encoding: str) -> Form:
    """The form in another encoding than UTF-8; what that lacks is escaped."""

    def made(line: Line) -> bytes:
        return form(line).decode().encode(encoding, "backslashreplace")

    return made

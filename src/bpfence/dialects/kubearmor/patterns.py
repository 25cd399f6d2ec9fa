# SPDX-License-Identifier: Apache-2.0
"""A pattern as AppArmor has it in, a glob of the IR that matches the same paths out.

Called by `read`, which wants the mistakes, and by `entries`. The language is that of apparmor.d(5), "Globbing": `*` stops at '/', `**`
crosses it, `?` is one character, `[abc]`, `[^abc]`, `{a,b}`, and `\\` before a character means the character. A `*` or `**` that stands
for a whole part of the path stands for at least one character, so that `/a/*` is not `/a/` and `/**/b` is not `/b`.
"""

from __future__ import annotations

import re
from typing import Final

import re2

from bpfence import glob
from bpfence.conditions import values
from bpfence.documents.report import TextError
from bpfence.fields import FIELD_BY_NAME
from bpfence.policy import FALSE, Condition

_SPECIAL: Final = re.compile(r"([\\*?\[\]{},])")
QUIET = re2.Options()
"""For regular expressions of policies: what is wrong with one is a finding, and not for standard error."""
QUIET.log_errors = False


def translated(pattern: str) -> str:
    """The glob. TextError where the pattern cannot be read. The "/" at the end that stands for a directory is left out: no path that the
    kernel tells ends in one."""
    if not pattern.startswith(("/", "{")):
        hint = "variables of AppArmor are not known here: write the paths" if pattern.startswith("@") else "begin it with '/'"
        raise TextError("a pattern of paths begins with '/'", hint)
    text = pattern.removesuffix("/") if len(pattern) > 1 and not pattern.endswith("\\/") else pattern
    made: list[str] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char == "\\" and at + 1 < len(text):
            made.append(text[at : at + 2])
            at += 2
        elif char == "*":
            end = at
            while text[end : end + 1] == "*":
                end += 1
            whole = text[at - 1 : at] == "/" and text[end : end + 1] in ("", "/")
            made.append(("?" if whole else "") + ("**" if end - at > 1 else "*"))
            at = end
        elif char == "@" and text[at + 1 : at + 2] == "{":
            raise TextError("variables of AppArmor are not known here", "write the paths", offset=at)
        elif char == "[" and text[at + 1 : at + 2] == "!":
            made.append("[\\!")  # AppArmor negates with ^ alone
            at += 2
        else:
            made.append(char)
            at += 1
    result = "".join(made)
    try:
        glob.parse(result, "path")
    except glob.GlobError as error:
        raise TextError(error.message, error.hint, offset=min(error.position, len(pattern))) from None
    return result


def literal(text: str) -> str:
    """The glob that is nothing but a text."""
    return _SPECIAL.sub(r"\\\1", text)


def condition(pattern: str, field: str) -> Condition:
    """The condition that a field matches a pattern; FALSE where it never does."""
    text = translated(pattern)
    return FALSE if never(text)[0] else values.pattern(FIELD_BY_NAME[field], text)


def never(text: str) -> tuple[str, str]:
    """Why no path is matched by a glob of the IR, and what to write; empty where some may be."""
    try:
        values.pattern(FIELD_BY_NAME["file.path"], text)
    except TextError as problem:
        return problem.message, problem.hint
    return "", ""

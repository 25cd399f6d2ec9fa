# SPDX-License-Identifier: Apache-2.0
"""What a user may choose of Falco's rules, and the names that they go under. Light: every command imports it."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from bpfence.dialects.option import Option

WATCHING: Final = "falco"
"""The policy of the rules that only watch, and the name of the dialect."""
ENFORCING: Final = "falco-enforce"
"""The policy of the rules with `bpfence: {action: deny|kill}`."""
SUGGESTED: Final = (
    "container_id=%container.id container_name=%container.name container_image_repository=%container.image.repository"
    " container_image_tag=%container.image.tag k8s_pod_name=%k8s.pod.name k8s_ns_name=%k8s.ns.name"
)
"""What Falco puts after every output by default: the fields that its container plugin suggests (append_output: suggested_output)."""
PRIORITIES: Final = ("Emergency", "Alert", "Critical", "Error", "Warning", "Notice", "Informational", "Debug")
"""Falco's priorities as its output spells them, most urgent first."""
PathSource = Literal["kernel", "text"]
"""Which path a field such as fd.name is, in conditions: what the kernel resolved, or what the caller gave (`strict_paths` of Falco)."""


class FalcoOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How Falco's rules are chosen, compared and shown; see `load.select`, `confirm.rules.RuleSet` and `lower.links`."""

    matching: Literal["first", "all"] = "first"
    paths: PathSource = "kernel"
    append: str = SUGGESTED
    names: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()
    priority: str = "Debug"
    links: Literal["resolve", "as-written"] = "resolve"


FORMS: Final = ("falco", "falco-text")
"""How matches are shown as Falco shows them."""
OPTIONS: Final = (
    Option(
        ("--rule-matching", "--matching"), "matching", "Falco rules: report the first that an event matches, or all.", "first",
        ("first", "all"),
    ),
    Option(
        ("--strict-paths",), "paths", "Falco rules: compare paths as the kernel resolved them, or as the caller gave them.", "kernel",
        ("kernel", "text"),
    ),
    Option(
        ("--links",), "links",
        "Falco rules: paths also stand for what they lead to through this host's symbolic links, or only for themselves.", "resolve",
        ("resolve", "as-written"),
    ),
    Option(("--append-output",), "append", "Falco rules: goes after every output (default: container fields).", SUGGESTED, metavar="TEXT"),
    Option(("--rule",), "names", "Falco rules: only these (shell patterns). Repeatable.", (), many=True, metavar="NAME"),
    Option(("--tag",), "tags", "Falco rules: only those with this tag, enabled or not. Repeatable.", (), many=True, metavar="TAG"),
    Option(("--disable-rule",), "disabled", "Falco rules: not these (shell patterns). Repeatable.", (), many=True, metavar="NAME"),
    Option(("--priority",), "priority", "Falco rules: the least urgent to keep.", "Debug", PRIORITIES),
)  # fmt: skip
"""The options of `run`, `exec` and `test`, by the members of FalcoOptions."""

# SPDX-License-Identifier: Apache-2.0
"""Names of hosts in rules."""

from __future__ import annotations

from bpfence.dialects.falco.load import load_text
from bpfence.dialects.falco.read.hostnames import mentioned


def test_names_that_rules_mention() -> None:
    loaded, found = load_text(
        """
- rule: one
  desc: d
  condition: evt.type=connect and not (fd.sip.name in (a.example, b.example) or fd.rip.name = c.example) and proc.name = x.example
  output: o
  priority: INFO
- rule: two
  desc: d
  condition: evt.type=connect and (fd.cip.name = a.example or fd.lip.name startswith d)
  output: o
  priority: INFO
"""
    )
    assert [one for one in found if one.severity == "error"] == []
    assert mentioned(loaded.rules) == ("a.example", "b.example", "c.example")

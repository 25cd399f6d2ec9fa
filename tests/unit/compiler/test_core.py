"""bpfence.compiler.core: without what is built, the reference gives the same tables."""

from __future__ import annotations

import pytest

from bpfence.compiler import core
from bpfence.compiler.compile import compile_policies
from bpfence.policy import Action, Atom, Op, Policy, PolicySet, Rule


@pytest.mark.skipif(not core.BUILT, reason="the compiled core is not built")
def test_tables_are_the_same_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = [Atom("file.path", Op.GLOB, f"/srv/{n}/**/x?") for n in range(9)] + [
        Atom("process.args", Op.CONTAINS, f"w{n}") for n in range(4)
    ]
    rules = [Rule(policy="p", name=f"r{n}", events=("file.open",), condition=a, action=Action.DENY) for n, a in enumerate(atoms)]
    policies = PolicySet((Policy(name="p", rules=tuple(rules)),))
    built = compile_policies(policies)
    monkeypatch.setattr(core, "BUILT", False)
    assert compile_policies(policies) == built

# SPDX-License-Identifier: Apache-2.0
"""How far policies reach into containers, as the reference evaluator has it of what happens there."""

from __future__ import annotations

import random

import pytest

from bpfence.agent.reach import Extent, reach
from bpfence.compiler.workloads import selectors
from bpfence.dialects.native.read import load_text
from bpfence.evaluate import verdict
from bpfence.policy import Action, PolicySet, with_doubts
from bpfence.workloads.model import Container, Pod
from bpfence.workloads.select import selected

ID = "a" * 64
WEB = Container(ID, f"/docker/{ID}", name="web", image="docker.io/library/nginx:1.27", runtime="docker", labels={"tier": "front"})
BARE = Container(ID, f"/docker/{ID}")
TOLD = Container(ID, f"/{ID}", name="odd", image="redis:7")
IN_POD = Container(ID, f"/kubepods/{ID}", image="app:1", pod=Pod("etcd", "shop", labels={"tier": "back"}))


def policies(scope: str, rules: str = "[{name: r, on: open, match: {file.path: /x}, action: deny}]", more: str = "") -> PolicySet:
    kind = "apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\n"
    found, findings = load_text(f"{kind}metadata: {{name: p}}\nspec:\n  scope: {scope}\n  rules: {rules}\n{more}")
    assert [finding for finding in findings if finding.severity == "error"] == []
    return found


@pytest.mark.parametrize(
    ("scope", "container", "extent"),
    [
        ("{container: true}", WEB, "all"),
        ("{container: true}", TOLD, "all"),
        ("{container: false}", WEB, "none"),
        ("{image: 'nginx:*'}", WEB, "all"),
        ("{image: 'nginx:*'}", TOLD, "none"),
        ("{image: 'nginx:*'}", BARE, "unknown"),
        ("{image: 'nginx:*', unknown: inside}", BARE, "all"),
        ("{image: 'nginx:*', unknown: outside}", BARE, "none"),
        ("{image: 'nginx:*', unless: {labels: {tier: front}}}", WEB, "none"),
        ("{image: 'nginx:*', uid: 0}", WEB, "some"),
        ("{image: redis, uid: 0}", WEB, "none"),
        ("{exe: /usr/bin/*}", WEB, "some"),
        ("{namespace: shop}", IN_POD, "all"),
        ("{namespace: prod}", IN_POD, "none"),
        (f"{{cgroup: /docker/{ID}}}", WEB, "all"),
        (f"{{cgroup: /docker/{ID}/below}}", WEB, "some"),
        ("{cgroup: /system.slice}", WEB, "none"),
    ],
)
def test_extent(scope: str, container: Container, extent: Extent) -> None:
    found = reach(policies(scope).policies[0], container)
    assert (found.extent, found.rules) == (extent, () if extent == "none" else ("r",))


def test_rules_that_cannot_hold_there_are_left_out() -> None:
    rules = """
    - {name: host, on: open, match: {process.cgroup: /system.slice/**}, action: deny}
    - {name: any, on: exec, action: deny}
  default: {connect: deny}"""
    assert reach(policies("{container: true}", rules).policies[0], WEB).rules == ("any", "default")
    only = "[{name: host, on: open, match: {process.cgroup: /system.slice/**}, action: deny}]"
    assert reach(policies("{}", only).policies[0], WEB).extent == "none"


def random_container(rng: random.Random) -> Container:
    known = {} if rng.random() < 0.3 else {"image": rng.choice(("nginx:1.27", "redis")), "name": rng.choice(("web", "db"))}
    labels = None if rng.random() < 0.3 else {"tier": rng.choice(("front", "back"))}
    pod = Pod("p", rng.choice(("shop", "prod")), labels=labels) if rng.random() < 0.4 else None
    cgroup = f"/{'kubepods' if pod else rng.choice(('docker', 'odd'))}/{ID}"
    return Container(ID, cgroup, labels=labels if known else None, pod=pod, **known)


def random_scope(rng: random.Random) -> str:
    tests = ("image: 'nginx:*'", "container: 'w*'", "namespace: shop", "labels: {tier: front}", f"cgroup: /docker/{ID}")
    chosen = rng.sample(tests, rng.choice((1, 1, 2)))
    if rng.random() < 0.3:
        chosen.append("unless: {labels: {tier: back}}")
    if any(not test.startswith(("cgroup", "unless")) for test in chosen):
        chosen.append(f"unknown: {rng.choice(('inside', 'outside', 'audit'))}")
    return "{" + ", ".join(chosen) + "}"


@pytest.mark.parametrize("seed", range(200))
def test_random_scopes_agree_with_the_evaluator(seed: int) -> None:
    """Of scopes that ask about containers alone: what is denied, reported and let pass there."""
    rng = random.Random(seed)
    asked, container = policies(random_scope(rng)), random_container(rng)
    told = tuple(selected(container, selectors(with_doubts(asked))))
    event = {"event": "file.open", "file.path": "/x", "process.cgroup": container.cgroup, "process.container": told}
    wanted = {Action.DENY: "all", Action.AUDIT: "unknown", Action.NONE: "none"}[verdict(asked, event).action]
    assert reach(asked.policies[0], container).extent == wanted

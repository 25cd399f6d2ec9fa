# SPDX-License-Identifier: Apache-2.0
"""Policies in, the text of native policy files out.

Called by `bpfence convert --to native`. What is written is read back and compared before it is given out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bpfence import names
from bpfence.conditions.containers import inside
from bpfence.conditions.text import condition_text
from bpfence.conditions.values import conj, disj, negation
from bpfence.dialects.native.read import load_text
from bpfence.fields import EVENT_BY_NAME
from bpfence.policy import FALSE, TRUE, Action, And, Atom, Condition, Not, Op, Or, Policy, Rule, Selector


def document(policy: Policy) -> tuple[str, str]:
    """A YAML document, or "" and why the native format cannot say it. Rules' events, conditions, actions and errnos are written."""
    watched = [event for rule in policy.rules if rule.action >= Action.DENY for event in rule.events if not EVENT_BY_NAME[event].deniable]
    if watched:
        return "", f"{watched[0]} can only be watched"
    scope = _scope(policy)
    if scope is None:
        return "", "the native format has no such scope"
    lines = [
        "apiVersion: bpfence.io/v1alpha1",
        "kind: SecurityPolicy",
        f"metadata: {{name: {policy.name}}}",
        "spec:",
        f"  mode: {policy.mode}",
        f"  severity: {policy.severity}",
    ]
    if policy.tags:
        lines.append("  tags: [" + ", ".join(json.dumps(tag) for tag in policy.tags) + "]")
    if scope:
        lines.append(f"  scope: {json.dumps(scope)}")
    lines.append("  rules:")
    text = "\n".join([*lines, *(line for rule in policy.rules for line in _rule(rule, policy.scope))]) + "\n"
    problem = _differs(text, policy)
    return ("" if problem else text), problem


def _scope(policy: Policy) -> dict[str, Any] | None:
    """The `scope` of a policy, {} where it has none; None where it cannot be written."""
    if policy.scope == TRUE:
        return {}
    if policy.scope in (inside(), negation(inside())):
        return {"container": policy.scope == inside()}
    match policy.scope:
        case Atom(_, Op.SELECTS, Selector() as chosen):
            labels = {label.key: label.values[0] for label in chosen.labels if label.op == "in" and len(label.values) == 1}
            parts = {"namespace": list(chosen.namespaces), "container": list(chosen.names), "labels": labels}
            written = Selector(names=chosen.names, namespaces=chosen.namespaces, labels=chosen.labels)
            if written == chosen and len(labels) == len(chosen.labels):
                return {**{key: part for key, part in parts.items() if part}, "unknown": "audit" if policy.doubt != FALSE else "outside"}
    return None


def _within(condition: Condition, scope: Condition) -> Condition:
    """What a condition says beside the scope that it is in."""
    own = scope.parts if isinstance(scope, And) else (scope,)
    return conj(part for part in (condition.parts if isinstance(condition, And) else (condition,)) if part not in own)


def _rule(rule: Rule, scope: Condition) -> Iterator[str]:
    for event in rule.events:
        yield f"    - name: {rule.name}"
        yield f"      on: {event}"
        if (condition := _within(rule.condition_for(event), scope)) != TRUE:
            yield f"      condition: {json.dumps(condition_text(condition))}"
        yield f"      action: {rule.action.name.lower()}"
        if rule.action == Action.DENY:
            yield f"      errno: {names.name('errno', rule.errno)}"
        if rule.threshold:
            within = f"{rule.threshold.within // 1000}s"
            yield f"      threshold: {{count: {rule.threshold.count}, within: {within}, by: {rule.threshold.by}}}"
        if rule.message:
            yield f"      message: {json.dumps(rule.message)}"


def _differs(text: str, policy: Policy) -> str:
    """Why a document does not say what the policy says; "" where it does."""
    if any(rule.threshold and len(rule.events) > 1 for rule in policy.rules):
        return "the native format says a rule for each event, and these would count apart"
    policies, diagnostics = load_text(text)
    errors = [diagnostic for diagnostic in diagnostics if diagnostic.severity == "error"]
    if errors:
        return f"the native format cannot say it: {errors[0].message}"
    meant = {event: _normal(rule.condition_for(event)) for rule in policy.rules for event in rule.events}
    read = {event: _normal(rule.condition_for(event)) for _, rule in policies.rules() for event in rule.events}
    return "" if meant == read else "the native format cannot say it exactly"


def _normal(condition: Condition) -> Condition:
    """A condition with flags written one by one, so that two ways of writing the same compare equal."""
    match condition:
        case Atom(field, Op.ANYBITS, int(mask)):
            return disj([Atom(field, Op.ANYBITS, 1 << bit) for bit in range(mask.bit_length()) if mask >> bit & 1])
        case Not(part):
            return negation(_normal(part))
        case And(parts):
            return conj([_normal(part) for part in parts])
        case Or(parts):
            return disj([_normal(part) for part in parts])
    return condition

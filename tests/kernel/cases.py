# SPDX-License-Identifier: Apache-2.0
"""Case files in, typed cases and their steps out.

A kernel case is data (tests/cases/kernel/*.yaml): rules, the files they speak of, acts that must be stopped and acts that must not.
`harness` runs them; `test_cases` turns every step into one test. The form is described in tests/cases/kernel/README.md.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
CASES = ROOT / "tests" / "cases" / "kernel"
PLAYGROUND = Path("/run/bpfence-cases")
TRIGGER = PLAYGROUND / "trigger"
CGROUP = "/bpfence-cases"
TURNS = ("apart", "others", "files", "shipped")
OF_FILES = ("file", "modify")
"""Volleys whose rules are about the paths of files."""


class Loader(yaml.CSafeLoader):
    """YAML where only true and false are booleans: `on:` is a key of every rule. In C, as Python takes an emulated machine minutes."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str) -> Any:
    """The first document of a YAML text."""
    return yaml.load(text, Loader)  # noqa: S506 - a subclass of CSafeLoader


def write_yaml(document: dict[str, Any]) -> str:
    """A document as YAML text, keys in the document's order."""
    return yaml.dump(document, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)


class FileSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One file of a case: exactly one of the forms; `mode` and `owner` apply to what was made."""

    text: str | None = None
    size: int | None = None
    program: bool = False  # a copy of the trigger
    directory: bool = False
    symlink: str | None = None
    hardlink: str | None = None
    fifo: bool = False
    module: str = ""  # a module of the running kernel, by name, unpacked
    mode: int | None = None
    owner: int | None = None


class Step(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One act. `fails`: the errno's name, "ok", "killed", or "any" where the kernel's own answer does not matter."""

    do: list[str | int]
    fails: str | None = None
    alert: dict[str, str | int] = {}
    alerts: int | None = None  # how many alerts exactly; None: attacks at least one, benign acts none
    prints: str | None = None
    late: bool = False  # started outside the policy's scope, moved in when it says "ready"
    requires: list[str] = []


class Case(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One policy with its attacks and their benign twins."""

    name: str
    doc: str = ""
    event: str = ""
    rules: list[dict[str, Any]] = []
    shipped: str = ""  # a policy of examples/policies, by file name, instead of rules
    mode: Literal["enforce", "audit"] = "enforce"
    default: dict[str, str] = {}
    requires: list[str] = []
    files: dict[str, FileSpec | str] = {}
    target: bool | str = False  # a process outside the scope, running {dir}/service or this path; its pid is {target}
    setup: list[list[str | int]] = []  # acts performed outside the scope before each step
    volley: str = ""  # filled in: cases that are loaded together: a file's, a shipped policy alone
    apart: bool = False  # see `turn`
    inside: str = ""  # a path below the case's own cgroup: the scope is there
    attack: list[Step | list[str | int]] = []
    benign: list[Step | list[str | int]] = []

    @property
    def directory(self) -> Path:
        return PLAYGROUND / self.name

    @property
    def cgroup(self) -> str:
        return f"{CGROUP}/{self.name}/{self.inside}".rstrip("/")

    @property
    def turn(self) -> str:
        """With which others it is loaded where that is not done file by file. Tables take the product of what rules are about: all at
        once take an emulated machine minutes to compile, and there are 64 dimensions for them; in these four turns a tenth of that."""
        return "apart" if self.apart else "shipped" if self.shipped else "files" if self.volley in OF_FILES else "others"

    @property
    def service(self) -> Path:
        return Path(self.target) if isinstance(self.target, str) else self.directory / "service"

    def fill(self, text: str, target: int = 0) -> str:
        """`text` with {dir}, {trigger}, {cgroup} and {target} replaced; other braces are globs and stay."""
        for name, value in (("dir", self.directory), ("trigger", TRIGGER), ("cgroup", self.cgroup), ("target", target)):
            text = text.replace(f"{{{name}}}", str(value))
        return text

    def steps(self) -> list[tuple[str, Step]]:
        """Every step with the kind it belongs to, defaults filled in."""
        found = []
        for kind, steps in (("attack", self.attack), ("benign", self.benign)):
            for raw in steps:
                step = raw if isinstance(raw, Step) else Step(do=raw)
                if step.fails is None:
                    step = msgspec.structs.replace(step, fails="EPERM" if kind == "attack" and self.mode == "enforce" else "ok")
                found.append((kind, step))
        return found

    def policy(self) -> dict[str, Any]:
        """The native policy, scoped to the case's own cgroup."""
        if self.shipped:
            document: dict[str, Any] = read_yaml((ROOT / "examples" / "policies" / self.shipped).read_text())
            document["metadata"]["name"] = self.name
        else:
            spec: dict[str, Any] = {"mode": self.mode, "rules": self.rules}
            if self.default:
                spec["default"] = self.default
            document = {"apiVersion": "bpfence.io/v1alpha1", "kind": "SecurityPolicy", "metadata": {"name": self.name}, "spec": spec}
        document["spec"]["mode"] = self.mode
        document["spec"]["scope"] = {**document["spec"].get("scope", {}), "cgroup": self.cgroup}
        filled: dict[str, Any] = read_yaml(self.fill(write_yaml(document)))
        return filled


@functools.cache
def load_cases() -> list[Case]:
    """Every case of tests/cases/kernel, in file order. Raises on unknown keys, wrong types and names used twice."""
    cases: list[Case] = []
    for path in sorted(CASES.glob("*.yaml")):
        documents = read_yaml(path.read_text())
        try:
            cases += [
                msgspec.structs.replace(case, volley=case.name if case.shipped else path.stem)
                for case in msgspec.convert(documents, list[Case])
            ]
        except msgspec.ValidationError as error:
            raise ValueError(f"{path}: {error}") from error
    names = [case.name for case in cases]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"case names used twice: {sorted(twice)}")
    return cases


def step_id(case: Case, kind: str, position: int, step: Step) -> str:
    """A readable name for one step's test."""
    words = [str(word) for word in step.do]
    return f"{case.name}-{kind}{position}-{words[0]}{'-late' if step.late else ''}"

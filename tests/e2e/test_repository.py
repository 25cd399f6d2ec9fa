# SPDX-License-Identifier: Apache-2.0
"""What a newcomer meets first: the Makefile's help, the licences, the folders, tests that mirror sources."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
BPF_LICENCE = "GPL-2.0-only OR BSD-2-Clause"
UNMIRRORED = ROOT / "tests" / "e2e" / "unmirrored.txt"
"""Sources without a unit test of their own name. The list may only grow shorter."""
OWN_LAYOUT = ROOT / "tests" / "e2e" / "own_layout.txt"
"""Files with `# fmt: skip` at what is no table. The list may only grow shorter."""


def files() -> list[Path]:
    """Every file that is or may become part of the repository."""
    names = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE))
    printed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed)
    assert phony == {line.split()[0] for line in plain.splitlines() if line.startswith("  ")}


def test_ci_runs_the_readmes_test_command() -> None:
    run = (ROOT / ".ci" / "run").read_text()
    command = re.search(r"^exec (make \S+)", run, re.MULTILINE)
    assert command is not None
    assert command[1] in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("folder", ["src", "bpf", "tools", "tests/kernel", "benchmarks"])
def test_every_source_says_its_licence(folder: str) -> None:
    sources = [path for path in files() if path.is_relative_to(ROOT / folder) and path.suffix in (".py", ".c", ".h", ".sh")]
    without = []
    for path in sources:
        wanted = BPF_LICENCE if folder == "bpf" or path.name.endswith(".bpf.c") else "Apache-2.0"
        if f"SPDX-License-Identifier: {wanted}" not in path.read_text()[:300]:
            without.append(str(path.relative_to(ROOT)))
    assert without == []


def test_licence_texts_are_there() -> None:
    named = set(re.findall(r"[A-Z][\w.]+(?:-[\w.]+)+", tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license"]))
    assert named == {path.stem for path in (ROOT / "LICENSES").iterdir()}


def test_text_is_as_the_editors_configuration_says() -> None:
    """LF, a newline at the end, no blanks before it, tabs to indent C and never Python. Licences and test cases are as they are."""
    wrong = []
    for path in files():
        name, data = str(path.relative_to(ROOT)), path.read_bytes()
        if name.startswith(("LICENSE", "tests/cases/")) or b"\0" in data:
            continue
        tail = data == b"" or data.endswith(b"\n")
        tabs = b"\t" not in data if path.suffix == ".py" else not (path.suffix in (".c", ".h") and re.search(rb"^ {4,}[^ *]", data, re.M))
        if b"\r" in data or not tail or re.search(rb"[ \t]$", data, re.M) or not tabs:
            wrong.append(name)
    assert wrong == []


def test_hooks_before_a_commit_are_of_this_repository() -> None:
    """What they run is what `make dev` installs and `make check` runs; nothing is fetched."""
    hooks = [hook for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"] for hook in repo["hooks"]]
    assert {repo["repo"] for repo in yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]} == {"local"}
    check = subprocess.run(["make", "-n", "check"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for hook in hooks:
        if hook["language"] == "system":
            program = re.search(r"\.venv/bin/([\w-]+)", hook["entry"])
            assert program is not None, hook["id"]
            assert program[0] in check, hook["id"]


@pytest.mark.parametrize("name", ["act", "bug", "proposal"])
def test_forms_for_issues_have_what_they_need(name: str) -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert {"name", "description", "body"} <= set(form)
    asked = [entry for entry in form["body"] if entry["type"] != "markdown"]
    assert all(entry["type"] in ("input", "textarea", "dropdown", "checkboxes") and entry["attributes"]["label"] for entry in asked)
    ids = [entry["id"] for entry in asked]
    assert len(ids) == len(set(ids))


def test_unit_tests_mirror_the_sources() -> None:
    package = ROOT / "src" / "bpfence"
    sources = [path.relative_to(package) for path in package.rglob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    mirrored = {path for path in sources if (ROOT / "tests" / "unit" / path.parent / f"test_{path.name}").exists()}
    allowed = set(UNMIRRORED.read_text().split())
    missing = {str(path) for path in sources if path not in mirrored}
    assert missing - allowed == set(), "sources without a unit test of their name"
    assert allowed - missing == set(), "these have a test now: take them out of unmirrored.txt"


def test_nothing_asks_a_human_to_copy_a_change() -> None:
    phrase = "keep in " + "sync"
    found = [
        str(path.relative_to(ROOT)) for path in files() if path.suffix in (".py", ".c", ".h", ".md", ".yaml") and phrase in path.read_text()
    ]
    assert found == []


def test_packages_hold_no_code() -> None:
    """What a package's __init__.py does, everyone who imports one of its modules pays for: a docstring, constants and re-exports."""
    allowed = (ast.Expr, ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in (ROOT / "src").rglob("__init__.py")
        for node in ast.parse(path.read_text()).body
        if not isinstance(node, allowed)
    ]
    assert found == []


def _is_table(value: ast.expr | None) -> bool:
    """Whether a value is a literal of data, or a call whose last argument is one."""
    if isinstance(value, ast.Call):
        return bool(value.args) and _is_table(value.args[-1])
    if isinstance(value, ast.BinOp):
        return _is_table(value.left) or _is_table(value.right)
    if isinstance(value, (ast.DictComp, ast.GeneratorExp)):  # of a table that is written out in it
        return any(isinstance(part, (ast.Dict, ast.Tuple)) and _is_table(part) for part in ast.walk(value.generators[0].iter))
    return isinstance(value, (ast.Dict, ast.List, ast.Set, ast.Tuple)) and len(list(ast.iter_child_nodes(value))) > 3


def _tables_end(tree: ast.Module) -> Iterator[int]:
    """The lines on which statements end that read as a table."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(value=value) | ast.AnnAssign(value=value) | ast.Return(value=value) | ast.Expr(value=value):
                tables = [value]
            case ast.Assert(test=ast.Compare(comparators=comparators)):
                tables = comparators[-1:]
            case ast.For(iter=iterated):
                tables = [iterated]
            case ast.FunctionDef(decorator_list=decorators):
                tables = list(decorators)
            case _:
                continue
        yield from (table.end_lineno or 0 for table in tables if table is not None and _is_table(table))


def test_only_tables_keep_their_own_layout() -> None:
    """All else is laid out by `ruff format`, also where it would read a little better otherwise: nobody has to think about it."""
    allowed = set(OWN_LAYOUT.read_text().split())
    others: dict[str, list[int]] = {}
    for path in (path for path in files() if path.suffix == ".py"):
        text = path.read_text()
        marked = {number for number, line in enumerate(text.splitlines(), 1) if line.endswith("# fmt: skip")}
        marked -= set(_tables_end(ast.parse(text)) if marked else ())
        if marked:
            others[str(path.relative_to(ROOT))] = sorted(marked)
    assert {name: numbers for name, numbers in others.items() if name not in allowed} == {}
    assert allowed - others.keys() == set(), "these are laid out now: take them out of own_layout.txt"

# SPDX-License-Identifier: Apache-2.0
"""Pages of the site that are not in docs/: links that fit there, references of every module. That links lead somewhere: `make docs`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tools.site_pages import COPIES, FOLDERS, TEXTS, api, api_page, modules, pages, policies_page, with_links

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(
    ("folder", "link", "there"),
    [
        ("", "docs/falco.md", "falco.md"),
        ("", "docs/falco.md#lists", "falco.md#lists"),
        ("", "CHANGELOG.md", "changelog.md"),
        ("", "examples/policies", "shipped-policies.md"),
        ("docs", "falco.md", "falco.md"),
        ("docs", "../examples/policies/", "shipped-policies.md"),
        ("docs", "../schemas/securitypolicy.json", "schemas/securitypolicy.json"),
        ("docs", "../README.md", "index.md"),
        ("docs", "#here", "#here"),
        ("docs", "https://example.org/docs/x.md", "https://example.org/docs/x.md"),
    ],
)
def test_links_are_the_sites(folder: str, link: str, there: str) -> None:
    assert with_links(f"see [this]({link}) and (docs/x)", folder) == f"see [this]({there}) and (docs/x)"


def test_what_pages_are_made_of_is_there() -> None:
    assert [name for name in (*TEXTS, *FOLDERS, *COPIES) if not (ROOT / name).exists()] == []


def test_every_page_is_in_the_navigation_once() -> None:
    nav = re.findall(r"^ +- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    docs = {path.name for path in (ROOT / "docs").glob("*.md")}
    made = {place for place, _ in pages() if not place.startswith("api/")}
    assert sorted(nav) == sorted(docs | made)


def test_every_shipped_policy_is_shown() -> None:
    page = policies_page()
    for path in (ROOT / "examples" / "policies").glob("*.yaml"):
        assert f"## {path.stem}\n\n```yaml\n{path.read_text().rstrip()}\n```" in page


def test_every_dialect_has_a_page_of_references() -> None:
    dialects = {path.name for path in (ROOT / "src" / "bpfence" / "dialects").iterdir() if (path / "__init__.py").exists()}
    assert {f"dialects/{name}" for name in dialects} == {name for name in api() if name.startswith("dialects/")}
    assert "bpfence.dialects.dialect" in modules("dialects")
    assert [name for name in modules("dialects") if any(name.startswith(f"bpfence.dialects.{dialect}") for dialect in dialects)] == []


def test_a_package_goes_before_its_modules() -> None:
    names = modules("compiler")
    assert names[0] == "bpfence.compiler"
    assert "bpfence.compiler.lowering" in names
    assert modules("policy") == ["bpfence.policy"]
    assert api_page("policy") == "# bpfence.policy\n\n::: bpfence.policy\n"


def test_the_package_says_where_its_documentation_is() -> None:
    site = re.search(r"^site_url: (\S+)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert site is not None
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    assert urls["Documentation"] == site[1]
    assert urls["Changelog"] == site[1] + TEXTS["CHANGELOG.md"].removesuffix(".md") + "/"
    contacts = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml").read_text())["contact_links"]
    assert all(contact["url"].startswith(site[1]) for contact in contacts)

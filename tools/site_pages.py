# SPDX-License-Identifier: Apache-2.0
"""The repository in, the site's pages that are not in docs/ out: a hook of MkDocs, named in mkdocs.yml.

The README is the first page; what people expect in the root of a repository (CONTRIBUTING.md and its like), the shipped policies, and the
API, module by module from the sources' docstrings, are pages too. Links are written for readers of the repository and rewritten here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "bpfence"

TEXTS: Mapping[str, str] = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CODE_OF_CONDUCT.md": "code-of-conduct.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the repository's root -> pages."""

FOLDERS: Mapping[str, str] = {"examples/policies": "shipped-policies.md"}
"""Folders of the repository -> the page that shows them."""

COPIES = ("schemas/securitypolicy.json", "examples/falco/local_rules.yaml")
"""Files that pages link to, which the site carries as they are."""

API = ("policy", "compiler", "dialects")
"""Modules and packages of bpfence whose references are pages; each dialect is one more, and not in the page of all."""

LINK = re.compile(r"(\]\()([^)#\s]+)([^)\s]*\))")


def moved(target: str) -> str:
    """Where the site has what a link of the repository leads to, both counted from their root; what it does not know stays."""
    path = target.removesuffix("/")
    if path in TEXTS:
        return TEXTS[path]
    return FOLDERS.get(path, path.removeprefix("docs/"))


def with_links(text: str, folder: str) -> str:
    """Markdown of a file in a folder of the repository ("" or "docs"), with links for the site, where every such page is at the top."""

    def replace(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        if "://" in target:
            return match[0]
        return before + moved(target.removeprefix("../") if target.startswith("../") or not folder else f"{folder}/{target}") + after

    return LINK.sub(replace, text)


def policies_page() -> str:
    """Every shipped policy, whole, under its file's name."""
    parts = ["# Shipped policies", "Each has attacks and honest twins among the kernel tests. They lie in `examples/policies/`."]
    for path in sorted((ROOT / "examples" / "policies").glob("*.yaml")):
        parts += [f"## {path.stem}", f"```yaml\n{path.read_text().rstrip()}\n```"]
    return "\n\n".join(parts) + "\n"


def api() -> list[str]:
    """What has a page of references, as paths in the package."""
    dialects = (path.parent.relative_to(PACKAGE) for path in (PACKAGE / "dialects").glob("*/__init__.py"))
    return [*API, *sorted(map(str, dialects))]


def modules(name: str) -> list[str]:
    """A module, or a package and what is in it, by dotted name, the package first. What has a page of its own is left out."""
    path = PACKAGE / name
    sources = [path.with_suffix(".py")] if not path.is_dir() else path.rglob("*.py")
    elsewhere = [PACKAGE / other for other in api() if other.startswith(f"{name}/")]
    return sorted(dotted(source) for source in sources if not any(source.is_relative_to(other) for other in elsewhere))


def dotted(source: Path) -> str:
    """The name that a source file is imported by."""
    return ".".join(("bpfence", *source.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def api_page(name: str) -> str:
    """A page of mkdocstrings' references."""
    return "\n\n".join([f"# bpfence.{name.replace('/', '.')}", *(f"::: {module}" for module in modules(name))]) + "\n"


def pages() -> Iterator[tuple[str, Callable[[], str]]]:
    """Every page that is made here: its place in the site, and what makes it."""
    for source, page in TEXTS.items():
        yield page, lambda source=source: with_links((ROOT / source).read_text(), "")  # type: ignore[misc]
    yield "shipped-policies.md", policies_page
    for name in api():
        yield f"api/{name}.md", lambda name=name: api_page(name)  # type: ignore[misc]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """MkDocs asks first: the pages of references, which come and go with the dialects, are named here, before the last section."""
    assert config.nav is not None
    config.nav.insert(-1, {"API": [f"api/{name}.md" for name in api()]})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """MkDocs asks once, when it has listed docs/."""
    for place, make in pages():
        files.append(File.generated(config, place, content=make()))
    for name in COPIES:
        files.append(File.generated(config, name, content=(ROOT / name).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """MkDocs asks for each page, before it is rendered; those of docs/ still have their links."""
    made = page.file.generated_by is not None
    return markdown if made else with_links(markdown, "docs")

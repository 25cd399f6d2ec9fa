"""A Debian suite's name in, verified package records and files out.

``vmtest.kernels`` calls it. Where to look comes from this machine's apt configuration, or from ``BPFENCE_DEBIAN_MIRROR``;
what to believe comes from the Debian archive keyring: InRelease is checked by gpgv, the package index against InRelease,
each file against the index. It never installs anything and never touches apt's own state.

Formats: sources.list(5), https://wiki.debian.org/DebianRepository/Format, deb-version(7).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import lzma
import os
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import urllib.response
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import MirrorError, MissingToolError

MIRROR_VARIABLE = "BPFENCE_DEBIAN_MIRROR"

KEYRINGS = ("debian-archive-keyring.gpg", "debian-archive-keyring.pgp")

DEBIAN_SUITES = frozenset(
    ("bullseye", "bookworm", "trixie", "forky", "duke", "sid", "oldoldstable", "oldstable", "stable", "testing", "unstable")
)

PACKAGES_OF_TOOLS = {
    "apt-config": "apt",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "file": "file",
    "gpgv": "gpgv",
    "modprobe": "kmod",
    "qemu-system-x86_64": "qemu-system-x86",
}

Stanza = Mapping[str, str]
Progress = Callable[[int, int], None]


def find_tool(name: str) -> str:
    """Path of a host program, also looked for in the sbin folders that a user's PATH lacks.

    Raises MissingToolError with the apt package that brings it.
    """
    path = os.environ.get("PATH", os.defpath)
    found = shutil.which(name, path=os.pathsep.join((path, "/usr/sbin", "/sbin")))
    if found is None:
        raise MissingToolError(name, f"install it with: apt install {PACKAGES_OF_TOOLS.get(name, name)}")
    return found


@dataclass(frozen=True)
class Source:
    """One address of apt's sources, with the suites asked of it."""

    uri: str
    suites: tuple[str, ...]


def parse_stanzas(text: str) -> Iterator[dict[str, str]]:
    """Blocks of ``Field: value`` with continuation lines (deb822(5)); comment lines are dropped."""
    fields: dict[str, str] = {}
    last = ""
    for line in itertools.chain(text.splitlines(), [""]):
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
        elif line[0] in " \t":
            if last:
                fields[last] += "\n" + line.strip()
        elif ":" in line:
            last, value = line.split(":", 1)
            fields[last] = value.strip()


def parse_deb822_sources(text: str) -> Iterator[Source]:
    """The enabled ``deb`` entries of a .sources file."""
    for stanza in parse_stanzas(text):
        fields = {name.lower(): value for name, value in stanza.items()}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        for uri in fields.get("uris", "").split():
            yield Source(uri, tuple(fields.get("suites", "").split()))


def parse_one_line_sources(text: str) -> Iterator[Source]:
    """The ``deb`` entries of a .list file: ``deb [options] uri suite component…``."""
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s*)?(\S+)\s+([^\s#]+)", line)
        if match:
            yield Source(match[1], (match[2],))


def apt_settings(*arguments: str) -> str:
    """Output of ``apt-config`` with these arguments."""
    return subprocess.run([find_tool("apt-config"), *arguments], check=True, capture_output=True, text=True).stdout


def read_apt_sources() -> list[Source]:
    """Every enabled binary source of this machine's apt, in apt's order."""
    shell = apt_settings("shell", "list", "Dir::Etc::sourcelist/f", "parts", "Dir::Etc::sourceparts/d")
    paths = dict(re.findall(r"^(\w+)='(.*)'$", shell, re.MULTILINE))
    sources: list[Source] = []
    main = Path(paths.get("list", ""))
    if main.is_file():
        sources += parse_one_line_sources(main.read_text())
    parts = Path(paths.get("parts", ""))
    for path in sorted(parts.iterdir()) if parts.is_dir() else ():
        if path.suffix == ".list":
            sources += parse_one_line_sources(path.read_text())
        elif path.suffix == ".sources":
            sources += parse_deb822_sources(path.read_text())
    return sources


def expand_uri(uri: str) -> list[str]:
    """The addresses behind one apt URI: itself, or the lines of a ``mirror+file:`` list; none for a scheme we cannot read."""
    scheme = uri.partition(":")[0]
    if scheme in ("http", "https", "file"):
        return [uri.rstrip("/")]
    if scheme == "mirror+file":
        lines = Path(urllib.parse.urlsplit(uri).path).read_text().splitlines()
        return [line.split()[0].rstrip("/") for line in lines if line.strip() and not line.startswith("#")]
    return []


def debian_mirrors(sources: Iterable[Source], environment: Mapping[str, str]) -> list[str]:
    """Addresses to try for any Debian suite, without a trailing slash.

    ``BPFENCE_DEBIAN_MIRROR`` (one or several addresses, separated by blanks) replaces what apt says. Raises MirrorError when
    neither names a Debian mirror, as on Ubuntu.
    """
    named = environment.get(MIRROR_VARIABLE, "").split()
    if named:
        return [uri.rstrip("/") for uri in named]
    found = [
        uri
        for source in sources
        if any(re.split("[-/]", suite)[0] in DEBIAN_SUITES for suite in source.suites)
        for uri in expand_uri(source.uri)
    ]
    if not found:
        raise MirrorError(
            f"apt's sources name no Debian mirror; set {MIRROR_VARIABLE} to one, the folder that holds dists/ and pool/ "
            f"(https://www.debian.org/mirror/list), for example {MIRROR_VARIABLE}=http://MIRROR/debian"
        )
    return list(dict.fromkeys(found))


def apt_proxy(uri: str, settings: Mapping[str, str]) -> str | None:
    """The proxy apt would use for ``uri``: an address, "" for a direct connection, None when apt says nothing.

    ``settings``: name in lower case to value, as ``apt-config dump`` prints them; the order is apt-transport-http(1)'s.
    """
    parts = urllib.parse.urlsplit(uri)
    for scheme in (parts.scheme, "http"):
        for name in (f"acquire::{scheme}::proxy::{parts.hostname}", f"acquire::{scheme}::proxy"):
            value = settings.get(name, "")
            if value:
                return "" if value.upper() == "DIRECT" else value
    return None


@functools.cache
def apt_dump() -> Mapping[str, str]:
    """apt's settings, name in lower case to value; empty on a machine without apt."""
    try:
        text = apt_settings("dump")
    except MissingToolError:
        return {}
    return {name.lower(): value for name, value in re.findall(r'^(\S+) "(.*)";$', text, re.MULTILINE)}


def open_uri(uri: str) -> urllib.response.addinfourl:
    """Open ``uri`` through apt's proxy if it has one, else through the environment's. Raises MirrorError."""
    proxy = apt_proxy(uri, apt_dump())
    handlers = []
    if proxy is not None:
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy} if proxy else {}))
    try:
        response: urllib.response.addinfourl = urllib.request.build_opener(*handlers).open(uri, timeout=60)
    except (urllib.error.URLError, OSError) as error:
        raise MirrorError(f"{uri}: {error}") from error
    return response


def download(uri: str, target: Path, *, sha256: str, size: int, progress: Progress = lambda done, total: None) -> None:
    """Write ``uri`` to ``target``; MirrorError, and no file, unless its length in bytes and its digest are these."""
    digest = hashlib.sha256()
    done = 0
    try:
        with open_uri(uri) as response, target.open("wb") as out:
            while chunk := response.read(1 << 18):
                out.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                progress(done, size)
        if done != size or digest.hexdigest() != sha256:
            raise MirrorError(f"{uri}: {done} bytes with sha256 {digest.hexdigest()}, the index promises {size} bytes with {sha256}")
    except OSError as error:
        target.unlink(missing_ok=True)
        raise MirrorError(f"{uri}: {error}") from error
    except MirrorError:
        target.unlink(missing_ok=True)
        raise


def find_keyring() -> Path:
    """The Debian archive keyring of this machine."""
    for name in KEYRINGS:
        path = Path("/usr/share/keyrings", name)
        if path.exists():
            return path
    raise MissingToolError("the Debian archive keyring", "install it with: apt install debian-archive-keyring")


def verify_inrelease(signed: bytes, where: str) -> str:
    """The signed part of an InRelease file. Raises MirrorError unless one key of the keyring signed it and no signature is bad.

    A suite carries the signatures of several releases' keys, an older keyring knows only some of them: so gpgv's exit code,
    which wants them all, is not the answer; its status lines are (GnuPG's doc/DETAILS).
    """
    with tempfile.TemporaryDirectory(prefix="vmtest-") as folder:
        message, content = Path(folder, "InRelease"), Path(folder, "Release")
        message.write_bytes(signed)
        command = [find_tool("gpgv"), "--status-fd", "1", "--keyring", str(find_keyring())]
        run = subprocess.run([*command, "--output", str(content), str(message)], capture_output=True, text=True, check=False)
        status = {line.split()[1] for line in run.stdout.splitlines() if line.startswith("[GNUPG:] ")}
        if "GOODSIG" not in status or "VALIDSIG" not in status or "BADSIG" in status or not content.exists():
            raise MirrorError(f"{where}: its signature does not verify: {run.stderr.strip()}")
        return content.read_text()


@dataclass(frozen=True)
class Release:
    """A verified InRelease: where the suite is, and the digest and size of each of its index files."""

    base: str
    suite: str
    by_hash: bool
    files: Mapping[str, tuple[str, int]]


def parse_release(text: str, base: str, suite: str) -> Release:
    """Read a Release file. Raises MirrorError when it describes another suite than the one asked for."""
    fields = next(parse_stanzas(text), {})
    if suite not in (fields.get("Codename"), fields.get("Suite")):
        raise MirrorError(f"{base}: asked for {suite}, the signed file is of {fields.get('Codename', 'an unnamed suite')}")
    files = {}
    for line in fields.get("SHA256", "").splitlines():
        if line.strip():
            sha256, size, path = line.split()
            files[path] = (sha256, int(size))
    return Release(base, suite, fields.get("Acquire-By-Hash") == "yes", files)


def fetch_release(mirrors: Sequence[str], suites: Sequence[str]) -> Release:
    """The first of ``suites`` that one of ``mirrors`` has, its signature checked."""
    refusals = []
    for suite, base in itertools.product(suites, mirrors):
        where = f"{base}/dists/{suite}/InRelease"
        try:
            with open_uri(where) as response:
                signed = response.read()
        except MirrorError as error:
            refusals.append(str(error))
            continue
        return parse_release(verify_inrelease(signed, where), base, suite)
    raise MirrorError(
        f"no mirror has {' or '.join(suites)}:\n  " + "\n  ".join(refusals) + f"\nName one that does in {MIRROR_VARIABLE}; "
        "archived releases are listed at https://www.debian.org/distrib/archive"
    )


def fetch_packages(release: Release, folder: Path, *, architecture: str = "amd64") -> str:
    """The text of the suite's package index of component main."""
    path = f"main/binary-{architecture}/Packages.xz"
    if path not in release.files:
        raise MirrorError(f"{release.base}: {release.suite} has no {path}")
    sha256, size = release.files[path]
    remote = f"main/binary-{architecture}/by-hash/SHA256/{sha256}" if release.by_hash else path
    target = folder / "Packages.xz"
    download(f"{release.base}/dists/{release.suite}/{remote}", target, sha256=sha256, size=size)
    return lzma.decompress(target.read_bytes()).decode()


def version_key(version: str) -> tuple[object, ...]:
    """A sort key with the order of deb-version(7): ``~`` before the end, letters before other signs, numbers by value."""
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, _, revision = rest.rpartition("-") if "-" in rest else (rest, "", "0")
    return (int(epoch), _part_key(upstream), _part_key(revision))


def _part_key(part: str) -> tuple[object, ...]:
    keys: list[object] = []
    for text, number in re.findall(r"(\D*)(\d*)", part):
        signs = [-1 if sign == "~" else ord(sign) if sign.isalpha() else 256 + ord(sign) for sign in text]
        keys.append((*signs, 0))
        keys.append(int(number or "0"))
    return tuple(keys)


def newest_stanza(index: str, pattern: str) -> tuple[Stanza, re.Match[str]] | None:
    """The record with the highest version among the packages whose whole name matches ``pattern``."""
    found: list[tuple[Stanza, re.Match[str]]] = []
    for stanza in select_stanzas(index, pattern):
        match = re.fullmatch(pattern, stanza["Package"])
        assert match is not None
        found.append((stanza, match))
    return max(found, key=lambda pair: version_key(pair[0]["Version"]), default=None)


def select_stanzas(index: str, pattern: str) -> Iterator[Stanza]:
    """The records of a Packages file whose whole package name matches ``pattern``; the other 60,000 are not parsed."""
    whole = re.compile(pattern)
    for match in re.finditer(r"^Package: (\S+)$", index, re.MULTILINE):
        if whole.fullmatch(match[1]):
            end = index.find("\n\n", match.start())
            yield next(parse_stanzas(index[match.start() : end if end >= 0 else len(index)]))

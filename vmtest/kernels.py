"""A kernel's name in, an unpacked kernel with its modules on this machine out.

``KERNELS`` is the project's one list of kernels: tests, benchmarks, documentation and CI read it. ``vmtest.guest`` boots what
``fetch`` returns. Kernels come from Debian by ``vmtest.mirror`` and are kept in a cache folder, used without a network once
there; nothing is installed on this machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from . import MirrorError, UsageError
from .mirror import (
    Release,
    Stanza,
    debian_mirrors,
    download,
    fetch_packages,
    fetch_release,
    find_tool,
    newest_stanza,
    read_apt_sources,
    select_stanzas,
)

CACHE_VARIABLE = "BPFENCE_CACHE"

BPF_LSM = ("lsm=lockdown,bpf",)
"""Puts ``bpf`` in the active LSM list on every kernel of the table. The capability module is always on and first, whatever
``lsm=`` says (security/security.c, ordered_lsm_init); yama, apparmor and the rest of Debian's default stay out, so that no
verdict but the project's own is seen in a test."""

LOCKDOWN_ONLY = ("lsm=lockdown",)
"""Takes ``bpf`` out of the list where the image's own default has it."""

PREEMPTIBLE = ("preempt=full",)
"""Lets tasks be preempted inside the kernel, so inside BPF programs too (CONFIG_PREEMPT_DYNAMIC, Linux 5.12). Debian's images before 7.x
boot with voluntary preemption; 7.3 does this without a parameter."""

PREEMPTION_TESTS = (
    "tests/kernel/test_hammer.py",
    "tests/kernel/test_matrix.py::test_the_table_of_features_is_true",
)
"""What the preemptible rows are there for: the hammer, which starts, denies and is stopped. The rest knows no difference and runs on the
rows without the parameter, of which 7.3 is preemptible, too."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel to test on, and how to boot it.

    ``image`` names the cached packages, shared by the rows that differ in their command line only. ``suites`` are tried in
    order. ``release`` matches uname -r. ``packages`` hold the image and its modules, with ``{release}`` filled in; the newest
    version of the first one decides. ``only``: the tests that the row is there for, as beginnings of node ids; empty: all.
    """

    name: str
    image: str
    suites: tuple[str, ...]
    release: str
    packages: tuple[str, ...]
    cmdline: tuple[str, ...]
    note: str
    only: tuple[str, ...] = ()


KERNELS = (
    Kernel(
        name="5.10",
        image="5.10",
        suites=("bullseye", "bullseye-security"),
        release=r"5\.10\.0-\d+-amd64",
        packages=("linux-image-{release}",),
        cmdline=BPF_LSM,
        note="the oldest kernel supported: LSM programs and ring buffers, no bpf_loop, no BTF kfuncs",
    ),
    Kernel(
        name="5.10-fmodret",
        image="5.10",
        suites=("bullseye", "bullseye-security"),
        release=r"5\.10\.0-\d+-amd64",
        packages=("linux-image-{release}",),
        cmdline=(),
        note="the same image as its distribution boots it, without bpf in the LSM list: verdicts need fmod_ret programs",
    ),
    Kernel(
        name="6.1",
        image="6.1",
        suites=("bookworm",),
        release=r"6\.1\.0-\d+-amd64",
        packages=("linux-image-{release}",),
        cmdline=BPF_LSM,
        note="Debian 12's kernel: LSM cgroup programs (6.0), bpf_loop (5.17), dynptrs (5.19)",
    ),
    Kernel(
        name="6.12",
        image="6.12",
        suites=("trixie",),
        release=r"6\.12\.\d+\+deb13-amd64",
        packages=("linux-image-{release}",),
        cmdline=BPF_LSM,
        note="Debian 13's kernel; the benchmarks' reference: LSM hooks are static calls (6.12), file and path kfuncs",
    ),
    Kernel(
        name="6.12-preempt",
        image="6.12",
        suites=("trixie",),
        release=r"6\.12\.\d+\+deb13-amd64",
        packages=("linux-image-{release}",),
        cmdline=BPF_LSM + PREEMPTIBLE,
        note="the same image with full preemption: LSM programs can be interrupted, and others run meanwhile on the same processor",
        only=PREEMPTION_TESTS,
    ),
    Kernel(
        name="6.12-fmodret-preempt",
        image="6.12",
        suites=("trixie",),
        release=r"6\.12\.\d+\+deb13-amd64",
        packages=("linux-image-{release}",),
        cmdline=LOCKDOWN_ONLY + PREEMPTIBLE,
        note="the same without bpf in the LSM list: the kernel skips an fmod_ret program that is being preempted on the same processor",
        only=PREEMPTION_TESTS,
    ),
    Kernel(
        name="7.3",
        image="7.3",
        suites=("trixie-backports",),
        release=r"7\.3\.\d+\+deb13-amd64",
        packages=("linux-binary-{release}", "linux-modules-{release}", "linux-base-{release}"),
        cmdline=BPF_LSM,
        note="the newest kernel Debian packages; from 7.2 on image and modules are separate packages",
    ),
)


@dataclass(frozen=True, slots=True)
class Image:
    """An unpacked kernel: ``folder`` holds vmlinuz and lib/modules/``release``."""

    folder: Path
    release: str

    @property
    def vmlinuz(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def modules(self) -> Path:
        return self.folder / "lib/modules" / self.release


def kernel_named(name: str) -> Kernel:
    """The row of ``KERNELS`` with this name. Raises UsageError."""
    for kernel in KERNELS:
        if kernel.name == name:
            return kernel
    raise UsageError(f"no kernel is named {name!r}; there are {', '.join(kernel.name for kernel in KERNELS)}")


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where unpacked kernels are kept: ``$BPFENCE_CACHE``, ``$XDG_CACHE_HOME/bpfence`` or ~/.cache/bpfence, then kernels/."""
    named = environment.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser().absolute() / "kernels"
    base = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or Path.home(), ".cache")
    return Path(base, "bpfence", "kernels").absolute()


def cached(kernel: Kernel, cache: Path | None = None) -> Image | None:
    """The unpacked kernel if the cache has it."""
    folder = (cache or cache_folder()) / kernel.image
    releases = sorted(path.name for path in folder.glob("lib/modules/*"))
    return Image(folder, releases[0]) if releases else None


def fetch(kernel: Kernel, *, refresh: bool = False, cache: Path | None = None, log: TextIO = sys.stderr) -> Image:
    """The unpacked kernel, downloaded unless the cache has it or ``refresh`` asks for the newest.

    Two calls at once wait for each other; one that is killed leaves no half-written kernel. Raises MirrorError, MissingToolError.
    """
    cache = cache or cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    with locked(cache / f".{kernel.image}.lock"):
        image = cached(kernel, cache)
        if image is not None and not refresh:
            return image
        for left in cache.glob(f".{kernel.image}.new-*"):
            shutil.rmtree(left)
        staging = Path(tempfile.mkdtemp(prefix=f".{kernel.image}.new-", dir=cache))
        try:
            release = build(kernel, staging, log)
            target = cache / kernel.image
            if target.exists():
                target.rename(staging / "old")
            (staging / "image").rename(target)
        finally:
            shutil.rmtree(staging)
    return Image(target, release)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (flock(2)); it ends with the process at the latest."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def choose(kernel: Kernel, index: str) -> tuple[str, list[Stanza]]:
    """uname -r and the package records of the newest matching version in a Packages file. Raises MirrorError."""
    newest = newest_stanza(index, re.escape(kernel.packages[0]).replace(r"\{release\}", f"({kernel.release})"))
    if newest is None:
        raise MirrorError(f"{' or '.join(kernel.suites)} has no package {kernel.packages[0]} with {kernel.release}")
    first, match = newest
    release = str(match[1])
    stanzas = [first]
    for template in kernel.packages[1:]:
        name = template.format(release=release)
        same = [s for s in select_stanzas(index, re.escape(name)) if s["Version"] == first["Version"]]
        if not same:
            raise MirrorError(f"{' or '.join(kernel.suites)} has {first['Package']} but not {name} {first['Version']}")
        stanzas += same[:1]
    return release, stanzas


def build(kernel: Kernel, staging: Path, log: TextIO) -> str:
    """Download and unpack ``kernel`` into ``staging``/image. Returns uname -r."""
    dpkg_deb, depmod = find_tool("dpkg-deb"), find_tool("depmod")
    suite = fetch_release(debian_mirrors(read_apt_sources(), os.environ), kernel.suites)
    release, stanzas = choose(kernel, fetch_packages(suite, staging))
    unpacked = staging / "unpacked"
    for stanza in stanzas:
        package = staging / "package.deb"
        fetch_package(suite, stanza, package, f"{kernel.image}: {stanza['Package']} {stanza['Version']}", log)
        subprocess.run([dpkg_deb, "-x", package, unpacked], check=True)
        package.unlink()
    arrange(unpacked, staging / "image", release)
    subprocess.run([depmod, "-b", staging / "image", release], check=True)
    return release


def arrange(unpacked: Path, image: Path, release: str) -> None:
    """Move vmlinuz, config and the modules out of ``unpacked`` into one layout; the suites have three.

    usr/lib points to lib because kmod looks for modules under either, depending on how it was built.
    """
    places = {
        "vmlinuz": (f"boot/vmlinuz-{release}", f"usr/lib/modules/{release}/vmlinuz"),
        "config": (f"boot/config-{release}", f"usr/lib/modules/{release}/config"),
        f"lib/modules/{release}": (f"lib/modules/{release}", f"usr/lib/modules/{release}"),
    }
    (image / "lib/modules").mkdir(parents=True)
    (image / "usr").mkdir()
    (image / "usr/lib").symlink_to("../lib")
    for target, candidates in places.items():
        for candidate in candidates:
            if (unpacked / candidate).exists():
                (unpacked / candidate).rename(image / target)
                break
        else:
            raise MirrorError(f"the packages of {release} hold none of {', '.join(candidates)}")


def fetch_package(suite: Release, stanza: Stanza, target: Path, label: str, log: TextIO) -> None:
    """Download one package, with a bar when ``log`` is a terminal and one line otherwise."""
    size = int(stanza["Size"])
    bar = log.isatty()
    shown = -1

    def progress(done: int, total: int) -> None:
        nonlocal shown
        percent = 100 * done // total
        if bar and percent != shown:
            shown = percent
            log.write(f"\r{label}  [{'#' * (percent // 5):20}] {done >> 20}/{total >> 20} MiB")
            log.flush()

    if not bar:
        log.write(f"{label}, {size / 2**20:.1f} MiB\n")
        log.flush()
    uri = f"{suite.base}/{stanza['Filename']}"
    try:
        download(uri, target, sha256=stanza["SHA256"], size=size, progress=progress)
    finally:
        if bar:
            log.write("\n")

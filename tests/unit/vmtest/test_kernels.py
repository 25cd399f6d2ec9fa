"""The kernel table, the choice of packages, and the cache, without a network."""

from __future__ import annotations

import io
import re
import threading
import time
from pathlib import Path

import pytest

from vmtest import MirrorError, UsageError, kernels
from vmtest.kernels import KERNELS, cache_folder, cached, choose, fetch, kernel_named


def test_names_are_unique_and_images_agree() -> None:
    assert len({kernel.name for kernel in KERNELS}) == len(KERNELS)
    described = {(k.image, k.suites, k.release, k.packages) for k in KERNELS}
    assert len(described) == len({kernel.image for kernel in KERNELS})


def test_every_kernel_but_the_fmod_ret_flavours_has_the_bpf_lsm() -> None:
    without = {kernel.name for kernel in KERNELS if "lsm=lockdown,bpf" not in kernel.cmdline}
    assert without == {kernel.name for kernel in KERNELS if "fmodret" in kernel.name} == {"5.10-fmodret", "6.12-fmodret-preempt"}


def test_a_row_that_differs_in_preemption_only_is_there_for_some_tests_only() -> None:
    assert {kernel.name for kernel in KERNELS if "preempt=full" in kernel.cmdline} == {kernel.name for kernel in KERNELS if kernel.only}


@pytest.mark.parametrize("flavour", ["cloud-amd64", "rt-amd64", "arm64"])
def test_only_the_standard_flavour_matches(flavour: str) -> None:
    for release in ("5.10.0-32-", "6.1.0-50-", "6.12.117+deb13-", "7.3.4+deb13-"):
        assert not any(re.fullmatch(kernel.release, release + flavour) for kernel in KERNELS)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"5\.10, .*6\.12"):
        kernel_named("4.19")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"BPFENCE_CACHE": "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c/kernels"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/bpfence/kernels"),
        ({"HOME": "/h"}, "/h/.cache/bpfence/kernels"),
    ],
)
def test_cache_folder(environment: dict[str, str], expected: str) -> None:
    assert cache_folder(environment) == Path(expected)


def index(*packages: tuple[str, str]) -> str:
    return "\n".join(f"Package: {name}\nVersion: {version}\nSize: 1\n" for name, version in packages)


SPLIT = [
    (f"linux-{part}-7.3.{minor}+deb13-amd64", f"7.3.{minor}-1~bpo13+1") for part in ("base", "modules", "binary") for minor in (4, 11, 9)
]


def test_split_packages_of_the_newest_version() -> None:
    release, stanzas = choose(kernel_named("7.3"), index(*SPLIT))
    assert release == "7.3.11+deb13-amd64"
    assert [stanza["Package"] for stanza in stanzas] == [f"linux-{part}-7.3.11+deb13-amd64" for part in ("binary", "modules", "base")]


def test_a_missing_part_is_named() -> None:
    packages = [pair for pair in SPLIT if pair[0] != "linux-modules-7.3.11+deb13-amd64"]
    with pytest.raises(MirrorError, match=r"but not linux-modules-7\.3\.11\+deb13-amd64"):
        choose(kernel_named("7.3"), index(*packages))


def test_no_package_names_the_suite() -> None:
    with pytest.raises(MirrorError, match="trixie has no package"):
        choose(kernel_named("6.12"), index(("linux-image-6.1.0-50-amd64", "6.1.176-1")))


@pytest.mark.parametrize(
    "files",
    [
        ("boot/vmlinuz-R", "boot/config-R", "lib/modules/R/modules.order"),
        ("boot/vmlinuz-R", "boot/config-R", "usr/lib/modules/R/modules.order"),
        ("usr/lib/modules/R/vmlinuz", "usr/lib/modules/R/config", "usr/lib/modules/R/modules.order"),
    ],
    ids=["bookworm", "trixie", "backports"],
)
def test_three_layouts_become_one(tmp_path: Path, files: tuple[str, ...]) -> None:
    for name in files:
        path = tmp_path / "unpacked" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name.removesuffix("-R"))
    image = tmp_path / "image"
    kernels.arrange(tmp_path / "unpacked", image, "R")
    assert (image / "vmlinuz").read_text() == "vmlinuz"
    assert (image / "config").read_text() == "config"
    assert (image / "usr/lib/modules/R/modules.order").read_text() == "modules.order"


def fake_build(kernel: kernels.Kernel, staging: Path, log: io.StringIO) -> str:
    log.write("built\n")
    time.sleep(0.05)
    (staging / "image/lib/modules/R").mkdir(parents=True)
    return "R"


def test_fetch_builds_once_for_two_callers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "build", fake_build)
    log = io.StringIO()
    threads = [threading.Thread(target=fetch, args=(KERNELS[0],), kwargs={"cache": tmp_path, "log": log}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.getvalue() == "built\n"
    image = cached(KERNELS[0], tmp_path)
    assert image is not None
    assert image.modules.is_dir()


def test_refresh_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "build", fake_build)
    fetch(KERNELS[0], cache=tmp_path, log=io.StringIO())
    (tmp_path / KERNELS[0].image / "old").touch()
    fetch(KERNELS[0], cache=tmp_path, log=io.StringIO(), refresh=True)
    assert not (tmp_path / KERNELS[0].image / "old").exists()


def test_a_failed_fetch_leaves_nothing_and_keeps_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "build", fake_build)
    fetch(KERNELS[0], cache=tmp_path, log=io.StringIO())

    def failing_build(kernel: kernels.Kernel, staging: Path, log: io.StringIO) -> str:
        (staging / "half").touch()
        raise MirrorError("the mirror went away")

    monkeypatch.setattr(kernels, "build", failing_build)
    with pytest.raises(MirrorError):
        fetch(KERNELS[0], cache=tmp_path, log=io.StringIO(), refresh=True)
    assert cached(KERNELS[0], tmp_path) is not None
    assert not list(tmp_path.glob("*new-*"))


def test_leftovers_of_a_killed_fetch_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "build", fake_build)
    (tmp_path / f".{KERNELS[0].image}.new-killed/image").mkdir(parents=True)
    fetch(KERNELS[0], cache=tmp_path, log=io.StringIO())
    assert not list(tmp_path.glob("*.new-*"))

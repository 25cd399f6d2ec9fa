# SPDX-License-Identifier: Apache-2.0
"""Hooks put in place, looked at and taken away, on hosts made of folders."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bpfence.errors import UsageError
from bpfence.workloads import install as install_module
from bpfence.workloads.hook_program import HOOK
from bpfence.workloads.install import CONTAINERD, DAEMON, FOLDER, HOOKS, Asked, Host, Standing, install, standing, uninstall

CRI = 'version = {}\n[plugins."{}".containerd.runtimes.{}.options]\nBinaryName = "{}"\n'
WRAPPER = f"{FOLDER}/containerd-runtime"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(str(tmp_path), sys.executable, "/usr/bin")
    for name in ("runc", "podman", "dockerd"):
        path = tmp_path / "usr" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    return made


def put(host: Host, path: Path, text: str) -> Path:
    target = host.at(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return target


def of(host: Host, runtime: str) -> Standing:
    return next(found for found in standing(host) if found.runtime == runtime)


def daemon(host: Host) -> Any:
    return json.loads(host.at(DAEMON).read_text())


def test_nothing_is_installed(host: Host) -> None:
    assert {found.runtime: (found.here, found.holds) for found in standing(host)} == {
        "podman": (True, False), "crio": (False, False), "containerd": (False, False), "docker": (True, False),
    }  # fmt: skip
    assert all("bpfence hook install" in found.why for found in standing(host))
    for runtime in ("podman", "containerd", "docker"):
        assert uninstall(runtime, host) == []


def test_podman_and_crio(host: Host) -> None:
    done = install("podman", Asked("deny", 3.0), host)
    assert any(str(host.at(HOOKS)) in line for line in done)
    document = json.loads(host.at(HOOKS / "bpfence.json").read_text())
    assert (document["version"], document["when"], document["stages"]) == ("1.0.0", {"always": True}, ["createRuntime"])
    program = host.at(Path(document["hook"]["path"]))
    assert document["hook"]["args"][1:] == [HOOK, "--socket=/run/bpfence/hook.sock", "--seconds=3.0", "--on-failure=deny"]
    assert document["hook"]["timeout"] > 3
    assert subprocess.run([program, HOOK], input=b"", capture_output=True, check=False).returncode == 1
    for runtime in ("podman", "crio"):
        assert (of(host, runtime).holds, of(host, runtime).on_failure) == (True, "deny")
    program.chmod(0o777)
    assert of(host, "podman").holds is False
    program.unlink()
    assert "cannot be run" in of(host, "podman").why
    host.at(HOOKS / "bpfence.json").write_text("[" * 10)
    assert of(host, "podman").holds is None
    uninstall("crio", host)
    assert not host.at(HOOKS / "bpfence.json").exists()


def test_docker_keeps_its_other_settings(host: Host) -> None:
    path = put(host, DAEMON, json.dumps({"debug": True, "runtimes": {"kata": {"path": "/kata"}}, "default-runtime": "runc"}))
    path.chmod(0o600)
    install("docker", Asked(), host)
    assert daemon(host) == {
        "debug": True,
        "runtimes": {"kata": {"path": "/kata"}, "bpfence": {"path": f"{FOLDER}/docker-runtime"}},
        "default-runtime": "bpfence",
    }
    assert path.stat().st_mode & 0o777 == 0o600
    settings = json.loads(host.at(FOLDER / "docker-runtime.json").read_text())
    assert settings == {"runtime": f"{host.root}/usr/bin/runc", "socket": "/run/bpfence/hook.sock", "seconds": 5.0, "on_failure": "allow"}
    assert (of(host, "docker").holds, of(host, "docker").on_failure) == (True, "allow")
    install("docker", Asked("deny"), host)
    assert of(host, "docker").on_failure == "deny"
    Path(settings["runtime"]).unlink()
    assert "is not there" in of(host, "docker").why
    uninstall("docker", host, purge=True)
    assert daemon(host) == {"debug": True, "runtimes": {"kata": {"path": "/kata"}}}
    assert of(host, "docker").holds is False
    assert not host.at(FOLDER / "docker-runtime").exists()


def test_docker_without_settings(host: Host) -> None:
    install("docker", Asked(), host)
    uninstall("docker", host, purge=True)
    assert daemon(host) == {}


@pytest.mark.parametrize("runtime", ["docker", "containerd"])
def test_a_wrapper_stays_for_what_runs_and_only_passes_on(host: Host, runtime: str) -> None:
    real = host.at(Path("/usr/bin/runc"))
    real.write_text('#!/bin/sh\nprintf "%s|" "$@"\nexit 7\n')
    put(host, CONTAINERD, CRI.format(2, "io.containerd.grpc.v1.cri", "runc", WRAPPER))
    install(runtime, Asked("deny"), host)
    wrapper = host.at(FOLDER / f"{runtime}-runtime")
    done = uninstall(runtime, host)
    assert any("only passes on" in line and "--purge" in line for line in done)
    assert any("left to do" in line for line in done)
    assert of(host, runtime).holds is False
    bundle = host.at(Path("/bundle"))
    bundle.mkdir()
    (bundle / "config.json").write_text("{}")
    passed = subprocess.run([wrapper, "create", "--bundle", bundle, "a b", ""], capture_output=True, text=True, check=False)
    assert (passed.returncode, passed.stdout) == (7, f"create|--bundle|{bundle}|a b||")
    assert (bundle / "config.json").read_text() == "{}"
    if runtime == "docker":
        assert daemon(host) == {"runtimes": {"bpfence": {"path": f"{FOLDER}/docker-runtime"}}}
        assert of(host, runtime).why.endswith("`bpfence hook install --runtime docker`")
    else:
        assert "only passes on" in of(host, runtime).why
    install(runtime, Asked("deny"), host)
    assert of(host, runtime).holds is True
    assert json.loads(wrapper.with_name(f"{runtime}-runtime.json").read_text())["runtime"] == str(real)


def test_a_wrapper_that_does_not_say_what_it_stands_for_stays_as_it_is(host: Host) -> None:
    wrapper = put(host, FOLDER / "containerd-runtime", "x")
    put(host, FOLDER / "containerd-runtime.json", "{}")
    with pytest.raises(UsageError, match="does not say"):
        uninstall("containerd", host)
    assert wrapper.read_text() == "x"


@pytest.mark.parametrize("text", ["{", "[]", '{"runtimes": [1]}', '{"runtimes": 3}', '{"default-runtime": "kata"}'])
def test_settings_of_docker_that_are_not_understood_stay(host: Host, text: str) -> None:
    path = put(host, DAEMON, text)
    with pytest.raises(UsageError, match=r"daemon\.json"):
        install("docker", Asked(), host)
    assert path.read_text() == text
    assert not host.at(FOLDER).exists()


@pytest.mark.parametrize(("version", "plugin"), [(2, "io.containerd.grpc.v1.cri"), (3, "io.containerd.cri.v1.runtime")])
def test_containerd_is_told_by_its_owner(host: Host, version: int, plugin: str) -> None:
    put(host, CONTAINERD, f"version = {version}\n")
    done = install("containerd", Asked("deny"), host)
    assert any(f'[plugins."{plugin}".containerd.runtimes.runc.options]: BinaryName = "{WRAPPER}"' in line for line in done)
    assert of(host, "containerd").holds is False
    put(host, CONTAINERD, CRI.format(version, plugin, "runc", WRAPPER))
    assert (of(host, "containerd").holds, of(host, "containerd").on_failure) == (True, "deny")
    assert "names it already" in install("containerd", Asked("deny"), host)[-1]
    with pytest.raises(UsageError, match="take that out"):
        uninstall("containerd", host, purge=True)
    put(host, CONTAINERD, f"version = {version}\n")
    assert len(uninstall("containerd", host, purge=True)) == 2


def test_what_containerd_imports_replaces_a_plugins_settings(host: Host) -> None:
    plugin = "io.containerd.grpc.v1.cri"
    put(host, CONTAINERD, 'imports = ["conf.d/*.toml"]\n' + CRI.format(2, plugin, "runc", WRAPPER))
    install("containerd", Asked(), host)
    assert of(host, "containerd").holds is True
    put(host, CONTAINERD.parent / "conf.d" / "own.toml", CRI.format(2, plugin, "runc", "/usr/bin/other"))
    assert of(host, "containerd").holds is False
    put(host, CONTAINERD.parent / "conf.d" / "own.toml", "not = toml = at all")
    assert of(host, "containerd").holds is None


def test_another_default_runtime_of_containerd(host: Host) -> None:
    plugin = "io.containerd.grpc.v1.cri"
    install("containerd", Asked(), host)
    text = CRI.format(2, plugin, "runc", WRAPPER) + f'[plugins."{plugin}".containerd]\ndefault_runtime_name = "crun"\n'
    put(host, CONTAINERD, text)
    assert of(host, "containerd").holds is False


def test_the_real_runtime(host: Host) -> None:
    with pytest.raises(UsageError, match="--real PATH"):
        install("containerd", Asked(real="/nowhere/runc"), host)
    install("containerd", Asked(), host)
    with pytest.raises(UsageError, match="wrapper itself"):
        install("containerd", Asked(real=str(host.at(Path(WRAPPER)))), host)
    with pytest.raises(UsageError, match="no script"):
        install("podman", Asked(), Host(host.root, "/usr/bin/my python"))


def test_this_machine_has_an_answer() -> None:
    assert [found.runtime for found in standing()] == ["podman", "crio", "containerd", "docker"]


def test_no_interpreter_that_others_may_change_is_run_for_every_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "python"
    own.write_text("")
    own.chmod(0o777)
    monkeypatch.setattr(install_module, "_SYSTEM_PYTHON", str(tmp_path / "nowhere"))
    monkeypatch.setattr(install_module.sys, "executable", str(own))
    with pytest.raises(UsageError, match="not root's alone"):
        install_module._interpreter()


# ---- NRI ----


def nri(host: Host, on_failure: install_module.OnFailure = "deny") -> list[str]:
    return install("containerd", Asked(on_failure, 3.0, "/run/s", nri=True), host)


def section(text: str, version: int = 2) -> str:
    return f'version = {version}\n[plugins."io.containerd.nri.v1.nri"]\n{text}\n'


def test_a_plugin_of_nri(host: Host) -> None:
    done = nri(host)
    plugin, settings = host.at(install_module.NRI_PLUGIN), json.loads(host.at(install_module.NRI_SETTINGS).read_text())
    assert plugin.read_text().startswith(f"#!{sys.executable} -IS\n")
    assert plugin.stat().st_mode & 0o777 == 0o755
    assert (settings["socket"], settings["seconds"], settings["on_failure"]) == ("/run/s", 3.0, "deny")
    assert Path(settings["hook"]).read_text().startswith(f"#!{sys.executable} -IS\n")
    assert "disable = false" in done[-2]
    assert "restart containerd" in done[-1]
    gone = uninstall("containerd", host)
    assert [line.removeprefix("removed ") for line in gone] == [str(plugin), str(host.at(install_module.NRI_SETTINGS)), settings["hook"]]
    assert uninstall("containerd", host) == []
    assert of(host, "containerd").holds is False


@pytest.mark.parametrize(
    ("config", "holds", "word"),
    [
        (section("disable = false"), True, "by NRI"),
        (section("", version=3), True, "by NRI"),
        ("version = 3\n", True, "by NRI"),
        (section("disable = true", version=3), False, "disables it"),
        (section('plugin_path = "/srv"\ndisable = false'), False, "/srv"),
        (section('plugin_path = "/opt/nri/plugins"\ndisable = false'), True, "by NRI"),
        ("version = 2\n", None, "before containerd 2.0"),
        (None, None, "before containerd 2.0"),
    ],
)
def test_whether_nri_is_on(host: Host, config: str | None, holds: bool | None, word: str) -> None:
    if config is not None:
        put(host, CONTAINERD, config)
    done = nri(host)
    assert any("left to do: in " in line for line in done) == (holds is not True)
    found = of(host, "containerd")
    assert (found.holds, word in found.why) == (holds, True), found
    assert found.on_failure == ("" if holds is False else "deny")


@pytest.mark.parametrize("lost", ["settings", "hook", "plugin"])
def test_a_plugin_that_cannot_ask(host: Host, lost: str) -> None:
    put(host, CONTAINERD, section("disable = false"))
    nri(host)
    hook = Path(json.loads(host.at(install_module.NRI_SETTINGS).read_text())["hook"])
    if lost == "plugin":
        host.at(install_module.NRI_PLUGIN).chmod(0o777)
    else:
        (host.at(install_module.NRI_SETTINGS) if lost == "settings" else hook).unlink()
    assert of(host, "containerd").holds is False


def test_cri_o_and_those_without_nri(host: Host) -> None:
    assert any("crio" in line for line in install("crio", Asked(nri=True), host))
    assert of(host, "crio").holds is None
    assert uninstall("crio", host)
    for runtime in ("podman", "docker"):
        with pytest.raises(UsageError, match="has no NRI"):
            install(runtime, Asked(nri=True), host)


def test_the_wrapper_counts_before_nri(host: Host) -> None:
    nri(host)
    install("containerd", Asked("allow"), host)
    put(host, CONTAINERD, CRI.format(2, "io.containerd.grpc.v1.cri", "runc", WRAPPER))
    found = of(host, "containerd")
    assert (found.holds, found.on_failure) == (True, "allow")

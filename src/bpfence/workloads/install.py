# SPDX-License-Identifier: Apache-2.0
"""Container runtimes of a host in, the hook put in place, taken away or looked at, what was done out.

Called by `bpfence hook` and by `doctor`. Podman and CRI-O read hooks from a folder. containerd and Docker have none: they are told to call
a program that gives each bundle the hook and then is the real runtime (`hook_program`, which is copied for both ways). With NRI containerd
and CRI-O start a plugin, which asks the agent (`nri_program`).
"""

from __future__ import annotations

import glob
import json
import os
import shlex
import shutil
import stat
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from bpfence.errors import UsageError
from bpfence.workloads import hook_program, nri_program
from bpfence.workloads.bundle import read_regular
from bpfence.workloads.hook import SOCKET

OnFailure = Literal["allow", "deny"]
RUNTIMES: Final = ("podman", "crio", "containerd", "docker")
TITLES: Final = {"podman": "Podman", "crio": "CRI-O", "containerd": "containerd (CRI)", "docker": "Docker"}
_PROGRAMS: Final = {"podman": ("podman",), "crio": ("crio",), "containerd": ("containerd",), "docker": ("dockerd",)}
_SOCKETS: Final = {
    "podman": "/run/podman/podman.sock",
    "crio": "/run/crio/crio.sock",
    "containerd": "/run/containerd/containerd.sock",
    "docker": "/run/docker.sock",
}
_REAL: Final = ("runc", "crun")
_SYSTEM_PYTHON: Final = "/usr/bin/python3"
_SEARCH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FOLDER: Final = Path("/usr/local/libexec/bpfence")
HOOKS: Final = Path("/usr/share/containers/oci/hooks.d")
"""Where both Podman and CRI-O look unless they are told otherwise."""
DAEMON: Final = Path("/etc/docker/daemon.json")
CONTAINERD: Final = Path("/etc/containerd/config.toml")
CRIO: Final = Path("/etc/crio/crio.conf")
NRI_PLUGIN: Final = Path(f"/opt/nri/plugins/{nri_program.INDEX}-{nri_program.NAME}")
NRI_SETTINGS: Final = Path(f"/etc/nri/conf.d/{nri_program.INDEX}-{nri_program.NAME}.conf")
"""Where containerd and CRI-O look for plugins and for what these are told, unless they are told otherwise."""
WITH_NRI: Final = ("containerd", "crio")
SECONDS: Final = 5.0
MAX_CONFIG: Final = 1 << 20
MAX_SHEBANG: Final = 127
_WRAPPER: Final = "bpfence"
"""What Docker calls the wrapped runtime."""
_NRI_SECTION: Final = "io.containerd.nri.v1.nri"
_CRI_PLUGINS: Final = ("io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri")


class Standing(msgspec.Struct, frozen=True):
    """One runtime on this host. `holds`: whether it tells of containers before their first instruction; None: not known."""

    runtime: str
    title: str
    here: bool
    holds: bool | None
    why: str = ""
    on_failure: str = ""


class Host(msgspec.Struct, frozen=True):
    """Where things are; another `root` in tests. `interpreter` runs the program, `search` is where runtimes are."""

    root: str = ""
    interpreter: str = ""
    search: str = _SEARCH

    def at(self, path: Path) -> Path:
        """A path of the host."""
        return Path(f"{self.root}{path}")

    def has(self, runtime: str) -> bool:
        """Whether a runtime is installed, or runs."""
        return any(self.program(name) for name in _PROGRAMS[runtime]) or os.path.exists(self.at(Path(_SOCKETS[runtime])))

    def program(self, name: str) -> str | None:
        """Where a program is."""
        return shutil.which(name, path=":".join(self.root + folder for folder in self.search.split(":")))


class Asked(msgspec.Struct, frozen=True):
    """How the hook is to behave. `real`: the runtime that is wrapped, or "" for the first of runc and crun that is there. `nri`: a plugin
    of NRI in place of the hook."""

    on_failure: OnFailure = "allow"
    seconds: float = SECONDS
    socket: str = str(SOCKET)
    real: str = ""
    nri: bool = False


# ---- install, uninstall ----


def install(runtime: str, asked: Asked, host: Host) -> list[str]:
    """Put the hook in place for one runtime; what was done and what is left to do, in sentences. UsageError, OSError."""
    if asked.nri:
        return _install_nri(runtime, asked, host)
    if runtime in ("podman", "crio"):
        return _install_hook(asked, host)
    if runtime == "containerd":
        return [f"wrote {_install_wrapper(runtime, asked, host)}", *_containerd_lines(_wrapper(runtime), host)]
    settings, path = _docker_with(_wrapper(runtime), host), host.at(DAEMON)
    done = [f"wrote {_install_wrapper(runtime, asked, host)}", f"wrote {path}"]
    _write(path, settings, None)
    return [*done, "left to do: `systemctl reload docker`; containers that are made from then on have the hook"]


def _install_hook(asked: Asked, host: Host) -> list[str]:
    program = _copy("hook", host)
    settings: dict[str, object] = {"socket": asked.socket, "seconds": asked.seconds, "on_failure": asked.on_failure}
    entry = hook_program.entry(str(FOLDER / "hook"), settings)
    document = {"version": "1.0.0", "hook": entry, "when": {"always": True}, "stages": ["createRuntime"]}
    path = host.at(HOOKS / "bpfence.json")
    _write(path, json.dumps(document, indent=2) + "\n", 0o644)
    return [
        f"wrote {program}",
        f"wrote {path}",
        "Podman and CRI-O read it for every container that they make from now on; CRI-O within a moment",
    ]


def _install_nri(runtime: str, asked: Asked, host: Host) -> list[str]:
    if runtime not in WITH_NRI:
        raise UsageError(f"{TITLES[runtime]} has no NRI: leave out --nri")
    program = _copy("nri-hook", host)
    settings: dict[str, object] = {"socket": asked.socket, "seconds": asked.seconds, "on_failure": asked.on_failure}
    path = host.at(NRI_SETTINGS)
    _write(path, json.dumps({**settings, "hook": str(program)}, indent=2) + "\n", 0o644)
    plugin = _program(NRI_PLUGIN, nri_program.__file__, host)
    done = [f"wrote {program}", f"wrote {path}", f"wrote {plugin}"]
    off, why = _nri_off(runtime, host)
    if off is not False:
        section = f'[plugins."{_NRI_SECTION}"]: disable = false' if runtime == "containerd" else "[crio.nri]: enable_nri = true"
        done.append(f"left to do: in {host.at(CONTAINERD if runtime == 'containerd' else CRIO)}, {section} ({why})")
    return [*done, f"left to do: `systemctl restart {runtime}`, which leaves containers running: it starts its plugins then"]


def _install_wrapper(runtime: str, asked: Asked, host: Host) -> Path:
    names = (asked.real,) if asked.real else _REAL
    real = next((found for name in names if (found := name if name.startswith("/") else host.program(name))), None)
    own = host.at(_wrapper(runtime))
    if real is None or not os.access(real, os.X_OK):
        raise UsageError(f"{' and '.join(names)}: not found; --real PATH says which runtime {TITLES[runtime]} uses")
    if os.path.realpath(real) == os.path.realpath(own):
        raise UsageError(f"{real} is the wrapper itself; --real PATH says which runtime it stands for")
    settings = {"runtime": real, "socket": asked.socket, "seconds": asked.seconds, "on_failure": asked.on_failure}
    _write(_settings(own), json.dumps(settings, indent=2) + "\n", 0o644)
    return _copy(own.name, host)


def _wrapper(runtime: str) -> Path:
    return FOLDER / f"{runtime}-runtime"


def _copy(name: str, host: Host) -> Path:
    """A copy of the hook's program that runs by itself."""
    return _program(FOLDER / name, hook_program.__file__, host)


def _program(path: Path, source: str, host: Host) -> Path:
    interpreter = host.interpreter or _interpreter()
    first = f"#!{interpreter} -IS\n"
    if len(first) > MAX_SHEBANG or any(letter.isspace() for letter in interpreter):
        raise UsageError(f"{interpreter}: the kernel starts no script by an interpreter of such a path")
    path = host.at(path)
    _write(path, first + Path(source).read_text(encoding="utf-8"), 0o755)
    return path


def _interpreter() -> str:
    """The system's Python where there is one, since its name outlives upgrades and it is root's; else that which runs bpfence. UsageError
    where others than root may change that: it would run as root for every container."""
    if os.access(_SYSTEM_PYTHON, os.X_OK):
        return _SYSTEM_PYTHON
    own = os.path.realpath(sys.executable)
    for path in (Path(own), *Path(own).parents):
        status = path.stat()
        if status.st_uid != 0 or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
            hint = f"install Python as {_SYSTEM_PYTHON}"
            raise UsageError(f"{path} is not root's alone, and what is below it would run as root for every container: {hint}")
    return own


def _docker_with(wrapper: Path, host: Host) -> str:
    """Docker's settings with the wrapped runtime as the default. UsageError where they have another one."""
    path = host.at(DAEMON)
    settings = _json(path) or {}
    runtimes = settings.get("runtimes") or {}
    before = settings.get("default-runtime")
    if not isinstance(runtimes, dict):
        raise UsageError(f"{path}: runtimes is no object")
    if before not in (None, "runc", _WRAPPER):
        raise UsageError(f"{path}: the default runtime is {before!r}, which would not be called any more: take that line out first")
    settings["runtimes"] = runtimes | {_WRAPPER: {"path": str(wrapper)}}
    settings["default-runtime"] = _WRAPPER
    return json.dumps(settings, indent=2) + "\n"


def _containerd_lines(wrapper: Path, host: Host) -> list[str]:
    """What the owner of containerd's settings has to add. What a file adds that they import replaces the settings of whole plugins."""
    path = host.at(CONTAINERD)
    config = _containerd_config(host)
    if _named_by_containerd(config) == str(wrapper):
        return [f"{path} names it already"]
    plugin = _CRI_PLUGINS[0] if config.get("version", 2) == 3 else _CRI_PLUGINS[1]
    table = f'[plugins."{plugin}".containerd.runtimes.{_default(_cri(config))}.options]'
    return [
        f'left to do: in {path}, in the table {table}: BinaryName = "{wrapper}"',
        "left to do: `systemctl restart containerd`, which leaves containers running",
    ]


def uninstall(runtime: str, host: Host, purge: bool = False) -> list[str]:
    """Take the hook away. UsageError, OSError.

    A wrapper stays, because containerd calls it for the containers that it has started (to kill, to delete, to execute in them), and
    Docker starts those by it that were made with it; from now on it only passes on. `purge`: it goes, too.
    """
    removed = _uninstall_nri(host) if runtime in WITH_NRI else []
    if runtime in ("podman", "crio"):
        gone = [path for path in (host.at(HOOKS / "bpfence.json"), host.at(FOLDER / "hook")) if _remove(path)]
        return removed + [f"removed {path}" for path in gone]
    own = host.at(_wrapper(runtime))
    done = removed
    named = runtime == "containerd" and _named_by_containerd(_containerd_config(host)) == str(_wrapper(runtime))
    if named and purge:
        raise UsageError(f"{host.at(CONTAINERD)} names {_wrapper(runtime)}: take that out and restart containerd first, or nothing starts")
    if runtime == "docker" and (told := _forget_docker(host, purge)):
        done += [told, "left to do: `systemctl reload docker`"]
    if named:
        done.append(f"left to do: take BinaryName = {str(_wrapper(runtime))!r} out of {host.at(CONTAINERD)}, and restart containerd")
    if not purge:
        return done + _pass_on(own)
    return done + [f"removed {path}" for path in (own, _settings(own)) if _remove(path)]


def _uninstall_nri(host: Host) -> list[str]:
    """Take the plugin away. One that runs lets all containers start when its file is gone, and ends with its runtime."""
    return [f"removed {path}" for path in map(host.at, (NRI_PLUGIN, NRI_SETTINGS, FOLDER / "nri-hook")) if _remove(path)]


def _settings(own: Path) -> Path:
    return own.with_name(own.name + ".json")


def _pass_on(own: Path) -> list[str]:
    """Have a wrapper do nothing but be the real runtime. It needs bpfence and its interpreter no more."""
    settings = _json(_settings(own))
    if settings is None:
        return []
    real = _text(settings, "runtime")
    if not real:
        raise UsageError(f"{_settings(own)}: it does not say which runtime {own} stands for")
    _write(own, f'#!/bin/sh\n# The hook of bpfence was taken away: this only passes on.\nexec {shlex.quote(real)} "$@"\n', 0o755)
    _write(_settings(own), json.dumps(settings | {"hook": False}, indent=2) + "\n", 0o644)
    return [f"{own} stays for the containers that were made with it, and only passes on to {real}; --purge removes it when they are gone"]


def _forget_docker(host: Host, purge: bool) -> str:
    """Take the wrapped runtime out of Docker's settings. Its name stays unless `purge`: Docker starts by it what was made with it."""
    path = host.at(DAEMON)
    settings = _json(path)
    if not settings or not isinstance(settings.get("runtimes"), dict) or _WRAPPER not in settings["runtimes"]:
        return ""
    before = json.dumps(settings)
    if purge:
        del settings["runtimes"][_WRAPPER]
    if not settings["runtimes"]:
        del settings["runtimes"]
    if settings.get("default-runtime") == _WRAPPER:
        del settings["default-runtime"]
    if json.dumps(settings) == before:
        return ""
    _write(path, json.dumps(settings, indent=2) + "\n", None)
    return f"wrote {path}"


# ---- status ----


def standing(host: Host | None = None) -> list[Standing]:
    """Every runtime, and whether it tells of containers before their first instruction."""
    host = host or Host()
    return [_standing(runtime, host) for runtime in RUNTIMES]


def _standing(runtime: str, host: Host) -> Standing:
    here = host.has(runtime)
    try:
        if runtime in ("podman", "crio"):
            holds, why, on_failure = _hook_standing(host)
        elif runtime == "docker":
            holds, why, on_failure = _docker_standing(host)
        else:
            holds, why, on_failure = _containerd_standing(host)
        if not holds and runtime in WITH_NRI and os.path.lexists(host.at(NRI_PLUGIN)):
            holds, why, on_failure = _nri_standing(runtime, host)
    except (UsageError, OSError) as error:
        holds, why, on_failure = None, str(error), ""
    return Standing(runtime, TITLES[runtime], here, holds, why, on_failure)


_Finding = tuple[bool | None, str, str]


def _hook_standing(host: Host) -> _Finding:
    path = host.at(HOOKS / "bpfence.json")
    document = _json(path)
    if document is None:
        return False, "no hook is installed: `bpfence hook install`", ""
    arguments = _words(document, "hook", "args")
    program = host.at(Path(_text(document, "hook", "path") or "/"))
    if missing := _unusable(program):
        return False, f"{path} names a program that cannot be run: {missing}", ""
    return True, f"by {path}", next((word.partition("=")[2] for word in arguments if word.startswith("--on-failure=")), "")


def _docker_standing(host: Host) -> _Finding:
    path = host.at(DAEMON)
    settings = _json(path) or {}
    named = _text(settings, "runtimes", _WRAPPER, "path")
    if not named or settings.get("default-runtime") != _WRAPPER:
        return False, f"{path} does not make the wrapped runtime the default: `bpfence hook install --runtime docker`", ""
    return _wrapper_standing(host, named, f"by {path}, unless a container asks for another runtime")


def _containerd_standing(host: Host) -> _Finding:
    named = _named_by_containerd(_containerd_config(host))
    if named != str(_wrapper("containerd")):
        return False, f"{host.at(CONTAINERD)} does not name the wrapped runtime: `bpfence hook install --runtime containerd` says how", ""
    return _wrapper_standing(host, named, f"by {host.at(CONTAINERD)}; `ctr` and nerdctl need --runc-binary {named}")


def _nri_standing(runtime: str, host: Host) -> _Finding:
    plugin, path = host.at(NRI_PLUGIN), host.at(NRI_SETTINGS)
    settings = _json(path)
    if missing := _unusable(plugin):
        return False, f"{plugin} cannot be run: {missing}", ""
    if settings is None:
        return False, f"{path} is not there: `bpfence hook install --nri`", ""
    hook = Path(_text(settings, "hook") or "/")
    if missing := _unusable(hook):
        return False, f"{path} names a program that cannot be run: {missing}", ""
    off, why = _nri_off(runtime, host)
    if off:
        return False, f"{plugin} is there, but NRI is off: {why}", ""
    on_failure = _text(settings, "on_failure")
    return (
        (True, f"by NRI, {plugin}, if {TITLES[runtime]} was started since", on_failure)
        if off is False
        else (None, f"{plugin}: {why}", on_failure)
    )


def _nri_off(runtime: str, host: Host) -> tuple[bool | None, str]:
    """Whether a runtime's settings turn NRI off, or look for plugins elsewhere; None: that is not told by them."""
    if runtime == "crio":
        return None, "CRI-O has NRI from 1.26 on, turned on by its settings or, from 1.30 on, without"
    config = _containerd_config(host)
    section = config.get("plugins", {}).get(_NRI_SECTION)
    section = section if isinstance(section, dict) else {}
    path = host.at(CONTAINERD)
    if section.get("disable") is True:
        return True, f"{path} disables it"
    if (folder := _text(section, "plugin_path")) not in ("", str(NRI_PLUGIN.parent)):
        return True, f"{path} has its plugins in {folder}"
    if section.get("disable") is False or config.get("version") == 3:
        return False, ""
    return None, f"{path} does not say whether it is on: before containerd 2.0 it is not"


def _wrapper_standing(host: Host, named: str, why: str) -> _Finding:
    program = host.at(Path(named))
    settings = _json(_settings(program)) or {}
    if settings.get("hook") is False:
        return False, f"{program} only passes on: `bpfence hook install`", ""
    if missing := _unusable(program) or (not settings and "its settings are missing") or "":
        return False, f"{program}: {missing}", ""
    real = _text(settings, "runtime")
    if not os.access(real, os.X_OK):
        return False, f"{program} stands for {real}, which is not there", ""
    return True, why, _text(settings, "on_failure")


def _unusable(program: Path) -> str:
    """Why a program that root runs cannot be, or should not."""
    try:
        status = os.lstat(program)
        interpreter = read_regular(str(program), MAX_CONFIG).split(b"\n", 1)[0].removeprefix(b"#!").split(b" ")[0]
    except OSError as error:
        return error.strerror or str(error)
    if status.st_uid != os.geteuid() and status.st_uid != 0:
        return f"it belongs to user {status.st_uid}"
    if status.st_mode & 0o022 or not status.st_mode & stat.S_IXUSR:
        return "others may write it, or nobody may execute it"
    return "" if os.access(interpreter, os.X_OK) else f"its interpreter {os.fsdecode(interpreter)} is not there"


# ---- files ----


def _json(path: Path) -> dict[str, Any] | None:
    """A JSON object in a file, None where there is no file. UsageError where it is something else."""
    try:
        value = json.loads(read_regular(str(path.resolve()), MAX_CONFIG))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path}: not a JSON object")
    return value


def _text(value: Mapping[str, Any], *names: str) -> str:
    """A text some objects down; "" where there is none."""
    found: object = value
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, str) else ""


def _words(value: Mapping[str, Any], *names: str) -> list[str]:
    found: object = value
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return [word for word in found if isinstance(word, str)] if isinstance(found, list) else []


def _containerd_config(host: Host) -> dict[str, Any]:
    """containerd's settings, with those that it imports in the places of whole plugins. UsageError."""
    path = host.at(CONTAINERD)
    config: dict[str, Any] = {}
    for file in _imported(path, host):
        try:
            more = tomllib.loads(read_regular(str(file.resolve()), MAX_CONFIG).decode())
        except FileNotFoundError:
            continue
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{file}: {error}") from None
        added = more.get("plugins")
        plugins = config.get("plugins", {}) | (added if isinstance(added, dict) else {})
        config = {**config, **more, "plugins": plugins}
    return config


def _imported(path: Path, host: Host) -> Iterator[Path]:
    yield path
    try:
        config = tomllib.loads(read_regular(str(path.resolve()), MAX_CONFIG).decode())
    except (OSError, ValueError, RecursionError):
        return
    imports = config.get("imports")
    for pattern in imports[:16] if isinstance(imports, list) else ():
        if isinstance(pattern, str):
            absolute = pattern if pattern.startswith("/") else f"{CONTAINERD.parent}/{pattern}"
            yield from map(Path, sorted(glob.glob(f"{glob.escape(host.root)}{absolute}"))[:64])


def _cri(config: Mapping[str, Any]) -> dict[str, Any]:
    plugins = config.get("plugins", {})
    for name in _CRI_PLUGINS:
        section = plugins.get(name)
        if isinstance(section, dict) and isinstance(section.get("containerd"), dict):
            return dict(section["containerd"])
    return {}


def _default(cri: Mapping[str, Any]) -> str:
    return _text(cri, "default_runtime_name") or "runc"


def _named_by_containerd(config: Mapping[str, Any]) -> str:
    cri = _cri(config)
    return _text(cri, "runtimes", _default(cri), "options", "BinaryName")


def _write(path: Path, text: str, mode: int | None) -> None:
    """Put a file in place at once; `mode` None: as it was, or 0644."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    if mode is None:
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True

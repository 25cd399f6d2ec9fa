# SPDX-License-Identifier: Apache-2.0
"""A container that is about to start in, the agent's answer out: what container runtimes execute. Installed as a copy (`install`).

Two ways to be called. As a hook, `--bpfence-hook --socket=… --seconds=… --on-failure=…`: the state of a container on standard input goes to
the agent, which answers when the container's policies are in force. As a runtime, with the words of runc or crun: the bundle of a container
that is to be created is given that hook, and the real runtime is executed. It runs once for each container, between others and their
container: it stands alone, imports little (`_socket`: the module above it takes longer than all the rest) and ends in a bounded time.
"""

import _socket
import os
import sys
import time

MAX_STATE = 256 << 10
MAX_CONFIG = 64 << 20
MAX_ANSWER = 4096
HOOK = "--bpfence-hook"
BUNDLE_COMMANDS = ("create", "run", "restore")
VALUED = ("--root", "--log", "--log-format", "--log-level", "--criu", "--rootless", "--cgroup-manager")
"""Options of runc and crun before the command that take the next word."""


class HookError(Exception):
    """What kept us from an answer, or the agent's refusal."""


# ---- the hook ----


def hook(words: list[str]) -> int:
    """Tell the agent; 0: the container starts."""
    options = dict(word[2:].split("=", 1) for word in words if word.startswith("--") and "=" in word)
    try:
        ask(options["socket"], read_state(), float(options["seconds"]))
    except (HookError, OSError, KeyError, ValueError) as error:
        lets_go = options.get("on-failure") == "allow"
        consequence = "the container starts without waiting for policies" if lets_go else "the container does not start"
        sys.stderr.write(f"bpfence: {type(error).__name__}: {str(error)[:500]!r}; {consequence}\n")
        return 0 if lets_go else 1
    return 0


def read_state() -> bytes:
    """Standard input."""
    parts, left = [], MAX_STATE + 1
    while left > 0 and (part := os.read(0, left)):
        parts.append(part)
        left -= len(part)
    if left <= 0:
        raise HookError("the state of the container is too long")
    return b"".join(parts)


def ask(path: str, state: bytes, seconds: float) -> None:
    """Send a state, and how long the container may wait, and wait for the answer so long. HookError, OSError where it is not `ok`."""
    end = time.monotonic() + seconds

    def left() -> float:
        return max(end - time.monotonic(), 0.001)

    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.settimeout(left())
    while True:
        try:
            connection.connect(path)
            break
        except BlockingIOError:  # more hooks wait there than it takes
            if time.monotonic() > end:
                raise HookError("no answer in time") from None
            time.sleep(0.02)
    uid = int.from_bytes(connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[4:8], sys.byteorder)
    if uid not in (0, os.geteuid()):
        raise HookError(f"user {uid} listens at {path}, not root")
    view = memoryview(state + b"\0" + str(seconds).encode())
    while view:
        connection.settimeout(left())
        view = view[connection.send(view) :]
    connection.shutdown(_socket.SHUT_WR)
    answer = b""
    while len(answer) < MAX_ANSWER and not answer.endswith(b"\n"):
        if time.monotonic() > end:
            raise HookError("no answer in time")
        connection.settimeout(left())
        part = connection.recv(MAX_ANSWER)
        if not part:
            break
        answer += part
    if answer != b"ok\n":
        raise HookError(answer.decode("utf-8", "replace").strip() or "no answer")


# ---- the runtime ----


def runtime(own: str, words: list[str]) -> int:
    """Give the bundle the hook, where one is to be created, and become the real runtime; the exit code where that is not to be."""
    import json
    import signal

    with open(f"{own}.json", encoding="utf-8") as file:  # noqa: PTH123  # pathlib costs its import
        settings = json.load(file)
    bundle = bundle_of(words)
    if bundle is not None:
        try:
            add_hook(os.path.join(bundle, "config.json"), entry(own, settings))
        except (OSError, ValueError, TypeError, RecursionError, HookError) as error:
            text = f"bpfence: {bundle}: no hook could be added: {str(error)[:500]}"
            if settings["on_failure"] != "allow":
                complain(words, text)
                return 1
            sys.stderr.write(text + "\n")
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # the interpreter ignores them, and what is ignored stays so
        signal.signal(number, signal.SIG_DFL)
    return os.execv(settings["runtime"], [settings["runtime"], *words])


def entry(own: str, settings: dict[str, object]) -> dict[str, object]:
    """The hook as a bundle names it. The runtime gives up a little later than the hook itself."""
    seconds = settings["seconds"]
    assert isinstance(seconds, (int, float))
    options = [f"--socket={settings['socket']}", f"--seconds={seconds}", f"--on-failure={settings['on_failure']}"]
    return {"path": own, "args": [own, HOOK, *options], "timeout": int(seconds) + 3}


def command_at(words: list[str]) -> int:
    """The index of runc's command in its words; their count where there is none."""
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 2 if words[at] in VALUED else 1
    return at


def bundle_of(words: list[str]) -> str | None:
    """The bundle that is about to be created; None for all other commands."""
    at = command_at(words)
    if at >= len(words) or words[at] not in BUNDLE_COMMANDS:
        return None
    for number, word in enumerate(words[at + 1 :], at + 1):
        name, given, value = word.partition("=")
        if name in ("--bundle", "-b", "-bundle"):
            return value if given else (words[number + 1] if number + 1 < len(words) else ".")
    return "."


def add_hook(path: str, hook_entry: dict[str, object]) -> None:
    """Put the hook first into a bundle's config.json. OSError, ValueError, HookError."""
    import json

    with open(path, "rb") as file:  # noqa: PTH123
        data = file.read(MAX_CONFIG + 1)
    if len(data) > MAX_CONFIG:
        raise HookError("it is too long")
    config = json.loads(data)
    if not isinstance(config, dict):
        raise HookError("it is no object")
    hooks = config["hooks"] = {} if config.get("hooks") is None else config["hooks"]
    if not isinstance(hooks, dict):
        raise HookError("its hooks are no object")
    before = [] if hooks.get("createRuntime") is None else hooks["createRuntime"]
    if not isinstance(before, list):
        raise HookError("its createRuntime hooks are no list")
    others = [other for other in before if not (isinstance(other, dict) and HOOK in list(other.get("args") or ()))]
    hooks["createRuntime"] = [hook_entry, *others]
    made = f"{path}.bpfence-{os.getpid()}"
    descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            json.dump(config, out)
        status = os.stat(path)
        os.chmod(made, status.st_mode & 0o777)
        os.chown(made, status.st_uid, status.st_gid)
        os.rename(made, path)
    except BaseException:
        os.unlink(made)
        raise


def complain(words: list[str], text: str) -> None:
    """Say why nothing starts, where the caller of a runtime looks: in its log, and on standard error."""
    import json

    sys.stderr.write(text + "\n")
    options = words[: command_at(words)]
    for number, word in enumerate(options):
        name, given, value = word.partition("=")
        if name == "--log":
            log = value if given else [*options, ""][number + 1]
            with open(log, "a", encoding="utf-8") as file:  # noqa: PTH123
                file.write(json.dumps({"level": "error", "msg": text}) + "\n")


def main(own: str, words: list[str]) -> int:
    """The exit code; as a runtime only where that could not be executed."""
    if words[:1] == [HOOK]:
        return hook(words[1:])
    try:
        return runtime(own, words)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"bpfence: {own}: {type(error).__name__}: {str(error)[:500]}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(os.path.abspath(__file__), sys.argv[1:]))

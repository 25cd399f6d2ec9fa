# SPDX-License-Identifier: Apache-2.0
"""An agent with a control socket, whose kernel is made of lists."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bpfence.agent.agent import Agent, Settings
from bpfence.outputs.routes import Outputs
from bpfence.rpc.lines import LineServer, asked
from bpfence.services.control import ControlService
from tests.unit.agent.fakes import POLICY, FakeKernel

WAIT = 60.0


def native(name: str, mode: str = "enforce", glob: str = "/added/**") -> str:
    return POLICY % (name, mode, "secret", glob, "")


class Rig:
    """An agent with a control socket; its loop runs in a thread."""

    def __init__(self, folder: Path, *policies: Path, seconds: float = WAIT, users: tuple[int, ...] = (), mode: str | None = None) -> None:
        self.said: list[str] = []
        self.path = folder / "own" / "control.sock"
        server = LineServer(self.path, report=self.said.append)
        self.service = ControlService(server, self.said.append, "0.0 of a test", users=users, seconds=seconds)
        self.kernel = FakeKernel()
        outputs = Outputs([(self.service.form, self.service.clients)], self.said.append)
        settings = Settings(policies=tuple(map(str, policies)), mode=mode, state_dir=folder / "state", drop_privileges=False)
        self.agent = Agent(
            settings, outputs, report=self.said.append, kernel=self.kernel, feed=self.service, modes=self.service.modes, metered=True
        )
        self.service.join(self.agent)
        self.over = threading.Event()
        self.agent.start()
        self.thread = threading.Thread(target=self._work)
        self.thread.start()

    def _work(self) -> None:
        while not self.over.is_set():
            self.agent.step(0.02)

    def until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + WAIT
        while not done():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def answer(self, ask: str, **more: Any) -> dict[str, Any]:
        [line] = asked(self.path, json.dumps({"version": 1, "ask": ask, **more}).encode(), WAIT)
        found: dict[str, Any] = json.loads(line)
        assert found["version"] == 1
        return found

    def result(self, ask: str, **more: Any) -> dict[str, Any]:
        found = self.answer(ask, **more)
        assert "error" not in found, found
        result: dict[str, Any] = found["result"]
        return result

    def refusal(self, ask: str, **more: Any) -> str:
        return str(self.answer(ask, **more)["error"]["message"])

    def add(self, *texts: str) -> dict[str, Any]:
        return self.answer("add", files=[{"name": f"{n}.yaml", "text": text} for n, text in enumerate(texts)])

    def modes(self) -> dict[str, str]:
        """Of the policies in force."""
        loaded = self.agent.loaded
        assert loaded is not None
        return {policy.name: policy.mode for policy in loaded.policies.policies}

    def close(self) -> None:
        self.over.set()
        self.thread.join()
        self.agent.stop()

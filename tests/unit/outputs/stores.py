# SPDX-License-Identifier: Apache-2.0
"""Requests in, what Loki and Elasticsearch answer out: small stores that keep the contract of their interfaces, on disk, so that they can
be killed. The real servers are in no registry. Run as a program: `stores.py KIND FILE PORT`."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.unit.outputs.servers import Hook, Request

Stored = tuple[str, str]
"""What makes an entry the same as another, and the entry."""


class Store:
    """Entries, none twice, in a file. `turned_down`: of an entry, the status that it gets instead of being stored; 0: it is stored."""

    def __init__(self, file: Path, turned_down: Callable[[str], int] = lambda _: 0) -> None:
        self.turned_down = turned_down
        self.again = 0
        self.entries: dict[str, str] = {}
        if file.exists():
            whole = file.read_text()
            self.entries = dict(json.loads(line) for line in whole[: whole.rfind("\n") + 1].splitlines())
        self._file = file.open("a")
        self._lock = threading.Lock()

    def put(self, key: str, entry: str) -> bool:
        """Store an entry; whether it is new."""
        with self._lock:
            if key in self.entries:
                self.again += 1
                return False
            self.entries[key] = entry
            self._file.write(json.dumps([key, entry]) + "\n")
            self._file.flush()
            return True

    def close(self) -> None:
        self._file.close()


class Elastic(Store):
    """POST /INDEX/_bulk."""

    def __call__(self, request: Request) -> tuple[Any, ...]:
        path, headers, body = request
        assert path.split("?")[0] == "/logs/bpfence/_bulk", path
        assert headers["content-type"] == "application/x-ndjson"
        assert body.endswith(b"\n")
        lines = body.decode().split("\n")[:-1]
        assert len(lines) % 2 == 0
        items: list[Any] = []
        for action, document in zip(lines[::2], lines[1::2], strict=True):
            [(name, told)] = json.loads(action).items()
            assert (name, list(told)) == ("create", ["_id"])
            assert "T" in json.loads(document)["@timestamp"]
            if status := self.turned_down(document):
                items.append({"create": {"status": status, "error": {"type": "some_exception", "reason": "bad\nwords"}}})
            else:
                items.append({"create": {"status": 201 if self.put(told["_id"], document) else 409}})
        errors = any(item["create"]["status"] not in (200, 201) for item in items)
        return 200, {"Content-Type": "application/json"}, json.dumps({"errors": errors, "items": items}).encode()


class LokiStore(Store):
    """POST /loki/api/v1/push. Like Loki it stores what is right of a request that it answers with 400."""

    def __call__(self, request: Request) -> tuple[Any, ...]:
        path, headers, body = request
        assert path == "/loki/api/v1/push"
        assert headers["content-type"] == "application/json"
        status = 204
        for stream in json.loads(body)["streams"]:
            assert all(isinstance(part, str) for label in stream["stream"].items() for part in label)
            for moment, line in stream["values"]:
                assert isinstance(moment, str)
                assert moment.isdigit()
                if turned := self.turned_down(line):
                    status = turned
                else:
                    self.put(json.dumps([stream["stream"], moment, line], sort_keys=True), line)
        return status, {}


if __name__ == "__main__":
    hook = Hook({"elastic": Elastic, "loki": LokiStore}[sys.argv[1]](Path(sys.argv[2])), port=int(sys.argv[3]))
    print(hook.port, flush=True)
    sys.stdin.read()
    os._exit(0)

# SPDX-License-Identifier: Apache-2.0
"""Lines in, a real Kafka broker (KRaft) out: each is there once, also when the broker is killed in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bpfence.outputs import kafka, sink
from bpfence.outputs.routes import open_outputs
from bpfence.outputs.specs import spec_of
from tests.unit.outputs.places import until
from tests.unit.outputs.test_choice import alert, in_pod
from tests.unit.outputs.test_stores import numbered
from tools.fetch_kafka import folder

pytestmark = [
    pytest.mark.skipif(shutil.which("java") is None, reason="java is not installed (Debian's package default-jre-headless)"),
    pytest.mark.skipif(not folder().exists(), reason="no Kafka broker in the cache: run `make kafka` (it takes Maven)"),
]
ROOT = Path(__file__).resolve().parents[2]
FOREVER = 600.0


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Broker:
    """A broker that is its own controller."""

    def __init__(self, place: Path) -> None:
        self.port, controller = free_port(), free_port()
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None
        settings = {
            "process.roles": "broker,controller", "node.id": 1, "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}", "log.dirs": place / "data",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}", "controller.listener.names": "CONTROLLER",
            "offsets.topic.replication.factor": 1, "transaction.state.log.replication.factor": 1, "transaction.state.log.min.isr": 1,
            "min.insync.replicas": 1, "num.partitions": 3, "message.max.bytes": 100_000,
        }  # fmt: skip
        (place / "server.properties").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self._run("kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", "server.properties", "--standalone").wait()

    def _run(self, *words: str) -> subprocess.Popen[bytes]:
        command = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{folder()}/*", *words]
        with (self._place / "log").open("ab") as log:
            return subprocess.Popen(command, cwd=self._place, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def start(self) -> None:
        self._process = self._run("kafka.Kafka", "server.properties")

    def stop(self) -> None:
        """Stand still."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def records(self, topic: str, count: int) -> list[tuple[str, str, int]]:
        """Key, value and partition of all records of a topic; waits for so many, and a moment for more."""
        from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

        given = {"bootstrap.servers": f"127.0.0.1:{self.port}", "group.id": "t", "enable.auto.commit": False, "enable.partition.eof": True}
        reader = Consumer(given)
        reader.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in range(3)])
        found: list[tuple[str, str, int]] = []
        ended: set[int] = set()
        while len(found) < count or len(ended) < 3:
            message = reader.poll(1.0)
            if message is None:
                continue
            if message.error() is not None:
                ended.add(message.partition())
            else:
                found.append((message.key().decode(), message.value().decode(), message.partition()))
        reader.close()
        return found


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    made = Broker(tmp_path_factory.mktemp("kafka"))
    made.start()
    yield made
    made.kill()


@pytest.fixture(autouse=True)
def haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(sink, "MAX_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(kafka, "SECONDS", 0.5)


def written(
    broker: Broker, topic: str, lines: list[Any], midway: Callable[[Any], None] = lambda _: None, **more: Any
) -> tuple[int, int, list[str]]:
    said: list[str] = []
    outputs = open_outputs([spec_of({"to": f"kafka:127.0.0.1:{broker.port}/{topic}", **more})], said.append, close_seconds=FOREVER)
    outputs.start()
    outputs.write(lines)
    midway(outputs)
    until(lambda: outputs.queues()[0].written + outputs.queues()[0].dropped == len(lines))
    [queue] = outputs.queues()
    outputs.close()
    return queue.written, queue.dropped, said


def numbers(records: list[tuple[str, str, int]]) -> Counter[int]:
    return Counter(int(json.loads(value)["message"].split()[1]) for _, value, _ in records)


def test_every_line_is_there_once_in_order_under_the_hosts_key(broker: Broker) -> None:
    assert written(broker, "plain", numbered(2500))[:2] == (2500, 0)
    found = broker.records("plain", 2500)
    assert list(numbers(found)) == list(range(2500))
    assert len({key for key, _, _ in found}) == len({partition for _, _, partition in found}) == 1
    assert numbers(found).total() == 2500


def test_lines_of_a_workload_have_its_key(broker: Broker) -> None:
    lines = [in_pod(f"n{number % 4}") for number in range(40)] + [alert()]
    assert written(broker, "workloads", lines, key="workload")[:2] == (41, 0)
    found = broker.records("workloads", 41)
    keys = Counter(key for key, _, _ in found)
    assert [keys[f"n{number}/p"] for number in range(4)] == [10] * 4
    assert len({(key, partition) for key, _, partition in found}) == len(keys)


def test_what_is_too_long_is_lost_alone(broker: Broker) -> None:
    lines = numbered(3)
    random = Random(1)  # what cannot be compressed: the broker measures a batch as it comes
    lines.insert(1, alert(tags=tuple(f"{random.getrandbits(4000):x}" for _ in range(400))))
    taken, lost, said = written(broker, "long", lines)
    assert (taken, lost) == (3, 1)
    assert [text for text in said if "refuses lines, which are dropped" in text]
    assert sorted(numbers(broker.records("long", 3))) == [0, 1, 2]


def test_a_broker_that_stands_still_and_one_that_is_killed(broker: Broker) -> None:
    """Nothing is lost, and nothing is there twice: lines under way are those of one idempotent producer."""

    def midway(outputs: Any) -> None:
        until(lambda: outputs.queues()[0].written > 0)
        broker.stop()
        time.sleep(1.5)  # longer than a write waits
        broker.go_on()
        outputs.write(numbered(10_000)[5000:])
        until(lambda: outputs.queues()[0].written > 1000)
        broker.kill()
        broker.start()

    said: list[str] = []
    outputs = open_outputs([spec_of(f"kafka:127.0.0.1:{broker.port}/killed")], said.append, close_seconds=FOREVER)
    outputs.start()
    outputs.write(numbered(5000))
    midway(outputs)
    until(lambda: outputs.queues()[0].written + outputs.queues()[0].dropped == 10_000)
    assert outputs.queues()[0].written == 10_000
    outputs.close()
    assert numbers(broker.records("killed", 10_000)) == Counter(range(10_000))


CONFINED = """
import sys, time
from bpfence.agent import privileges
from bpfence.outputs.routes import open_outputs
from bpfence.outputs.specs import spec_of
from tests.unit.outputs.test_stores import numbered

outputs = open_outputs([spec_of(sys.argv[1])], print, close_seconds=600)
privileges.drop()
outputs.start()
outputs.write(numbered(50))
while outputs.queues()[0].written + outputs.queues()[0].dropped < 50:
    time.sleep(0.05)
print(outputs.queues()[0].written)
outputs.close()
"""


def test_lines_come_from_a_process_that_has_given_up_what_the_agent_does(broker: Broker) -> None:
    """The library's threads and sockets are under the agent's own filter of system calls."""
    command = [sys.executable, "-c", CONFINED, f"kafka:127.0.0.1:{broker.port}/confined"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "50\n"), done.stderr
    assert numbers(broker.records("confined", 50)) == Counter(range(50))

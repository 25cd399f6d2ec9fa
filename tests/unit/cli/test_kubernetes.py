# SPDX-License-Identifier: Apache-2.0
"""webhook, as a command of its own."""

from __future__ import annotations

import http.client
import os
import re
import signal
import ssl
import subprocess
import sys
from pathlib import Path

from click.testing import CliRunner

from bpfence.cli.main import cli
from tests.unit.k8s.test_webhook import certificate


def test_it_answers_until_it_is_stopped(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    command = [
        sys.executable,
        "-m",
        "bpfence",
        "webhook",
        "--listen",
        "127.0.0.1:0",
        "--tls-cert",
        str(files[0]),
        "--tls-key",
        str(files[1]),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": "src"}) as process:
        assert process.stderr is not None
        found = re.search(r"listening on port (\d+)", process.stderr.readline())
        assert found is not None
        connection = http.client.HTTPSConnection(
            "127.0.0.1", int(found[1]), context=ssl.create_default_context(cafile=str(files[0])), timeout=60
        )
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_it_asks_a_cluster_only_when_told_to(tmp_path: Path) -> None:
    files = [str(path) for path in certificate(tmp_path)]
    words = ["webhook", "--tls-cert", files[0], "--tls-key", files[1]]
    result = CliRunner().invoke(cli, [*words, "--kubeconfig", files[0]], standalone_mode=False)
    assert (result.return_value, "add --kubernetes" in result.stderr) == (2, True)
    result = CliRunner().invoke(cli, [*words, "--kubernetes", "--kubeconfig", files[0]], standalone_mode=False)
    assert (result.return_value, "kubeconfig" in result.stderr) == (2, True)


def test_what_it_cannot_begin_with(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("nonsense")
    result = CliRunner().invoke(
        cli, ["webhook", "--tls-cert", str(tmp_path / "x"), "--tls-key", str(tmp_path / "x")], standalone_mode=False
    )
    assert result.return_value == 2
    assert "the certificate cannot be read" in result.stderr

# SPDX-License-Identifier: Apache-2.0
"""A real API server with its etcd, on this machine's loopback: one for all tests of this folder."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import TOKEN
from tests.unit.k8s.server import until
from tools.build_kubernetes import program

if TYPE_CHECKING:
    from tests.kubernetes import rig

AGENT = "system:serviceaccount:bpfence:bpfence-agent"
WEBHOOK = "system:serviceaccount:bpfence:bpfence-webhook"
"""Whom the chart's roles are bound to."""
TOKENS = {
    "admin": (TOKEN, '"system:masters"'),
    AGENT: ("secret-agent", '"system:serviceaccounts"'),
    WEBHOOK: ("secret-webhook", '"system:serviceaccounts"'),
}
START_SECONDS = 240
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: c
clusters: [{{name: k, cluster: {{server: "{server}", certificate-authority: "{authority}"}}}}]
users: [{{name: u, user: {{token: {token}}}}}]
contexts: [{{name: c, context: {{cluster: k, user: u}}}}]
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ApiServer:
    """etcd and kube-apiserver, each a process of the same program. `address`: that of the API server; `wait`: until it answers."""

    def __init__(self, binary: Path, folder: Path, *, wait: bool = True) -> None:
        self.folder = folder
        self._binary = str(binary)
        self._log = (folder / "server.log").open("ab")
        self.port, etcd, peers = free_port(), free_port(), free_port()
        self._etcd_url = f"http://127.0.0.1:{etcd}"
        peer_url = f"http://127.0.0.1:{peers}"
        self.address = f"https://127.0.0.1:{self.port}"
        (folder / "tokens.csv").write_text(
            "".join(f"{token},{user},{n},{groups}\n" for n, (user, (token, groups)) in enumerate(TOKENS.items()))
        )
        subprocess.run(["openssl", "genrsa", "-out", str(folder / "sa.key"), "2048"], check=True, capture_output=True)
        subprocess.run(
            ["openssl", "rsa", "-in", str(folder / "sa.key"), "-pubout", "-out", str(folder / "sa.pub")], check=True, capture_output=True
        )
        self._etcd = self._start(
            "etcd",
            f"--data-dir={folder}/etcd",
            f"--listen-client-urls={self._etcd_url}",
            f"--advertise-client-urls={self._etcd_url}",
            f"--listen-peer-urls={peer_url}",
            f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster=default={peer_url}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        )
        self._api: subprocess.Popen[bytes] | None = None
        self.start(wait=wait)

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([self._binary, *arguments], stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL, cwd=self.folder)

    def start(self, *, wait: bool = True) -> None:
        """Start the API server."""
        self._api = self._start(
            "kube-apiserver",
            f"--etcd-servers={self._etcd_url}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self.port}",
            f"--cert-dir={self.folder}/certs",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.folder}/sa.pub",
            f"--service-account-signing-key-file={self.folder}/sa.key",
            "--authorization-mode=RBAC",
            f"--token-auth-file={self.folder}/tokens.csv",
            "--service-cluster-ip-range=10.0.0.0/24",
            "--disable-admission-plugins=ServiceAccount",
            "--endpoint-reconciler-type=none",
            "--allow-privileged=true",
        )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it answers."""
        until(self._ready, START_SECONDS)

    def _ready(self) -> bool:
        assert self._api is not None
        assert self._api.poll() is None, (self.folder / "server.log").read_text()[-3000:]
        try:
            context = ssl.create_default_context(cafile=str(self.authority))
            asked = urllib.request.Request(f"{self.address}/readyz", headers={"Authorization": f"Bearer {TOKENS['admin'][0]}"})
            with urllib.request.urlopen(asked, context=context, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            time.sleep(0.1)
            return False

    @property
    def authority(self) -> Path:
        """The certificate that it made itself."""
        return self.folder / "certs" / "apiserver.crt"

    def kill(self) -> None:
        """The API server goes away without a word; etcd stays."""
        assert self._api is not None
        self._api.kill()
        self._api.wait()

    def kubeconfig(self, user: str) -> Path:
        """A file that says where it is, and who asks."""
        path = self.folder / f"kubeconfig-{TOKENS[user][0]}"
        path.write_text(KUBECONFIG.format(server=self.address, authority=self.authority, token=TOKENS[user][0]))
        return path

    def close(self) -> None:
        """End both."""
        for process in (self._api, self._etcd):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        self._log.close()


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    binary = program()
    if not os.access(binary, os.X_OK):
        pytest.skip(f"needs an API server: `make kubernetes` builds it ({binary} is not there)")
    made = ApiServer(binary, tmp_path_factory.mktemp("kubernetes"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def client(api_server: ApiServer) -> rig.Client:
    """A cluster with the CRDs, the chart's roles, and a namespace."""
    from tests.kubernetes import rig

    return rig.prepared(api_server.kubeconfig("admin"))


@pytest.fixture
def nodes(client: rig.Client, api_server: ApiServer, tmp_path: Path) -> Iterator[Callable[..., rig.Node]]:
    from tests.kubernetes import rig

    made: list[rig.Node] = []

    def make(name: str = "n1", **more: Any) -> rig.Node:
        made.append(rig.Node(api_server, tmp_path, name, **more))
        return made[-1]

    yield make
    for node in made:
        if not node.agent.stopping:
            node.stop()
    for kind in rig.PLURALS.values():
        if kind.startswith("cluster"):
            client.custom.delete_collection_cluster_custom_object(rig.GROUP, rig.VERSION, kind)
        else:
            client.custom.delete_collection_namespaced_custom_object(rig.GROUP, rig.VERSION, "shop", kind)
    client.core.delete_collection_namespaced_pod("shop", grace_period_seconds=0)

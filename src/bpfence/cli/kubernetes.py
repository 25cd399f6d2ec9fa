# SPDX-License-Identifier: Apache-2.0
"""A certificate and an address in, answers to a cluster's admission reviews out: `webhook`."""

from __future__ import annotations

import select
import signal
import threading
from pathlib import Path
from typing import Final

import click

from bpfence.cli.show import Command, message_queue
from bpfence.host.signals import Signals
from bpfence.k8s.webhook import Server, address_of

FILE: Final = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(cls=Command, short_help="Answer a cluster that asks whether policies are right.")
@click.option("--tls-cert", required=True, type=FILE, help="The certificate, with its chain, in PEM. Read again when it changes.")
@click.option("--tls-key", required=True, type=FILE, help="Its key.")
@click.option("--listen", default=":9443", show_default=True, metavar="ADDRESS", help="HOST:PORT, or :PORT for all addresses.")
def webhook(tls_cert: Path, tls_key: Path, listen: str) -> int:
    """Answer the API server of a Kubernetes cluster that is about to store a SecurityPolicy or ClusterSecurityPolicy: policies with a
    mistake are refused, with what `bpfence check` says of them.

    Stops at SIGTERM or SIGINT. The chart in deploy/helm runs it and tells the API server of it.

    \b
    Examples:
      bpfence webhook --tls-cert /tls/tls.crt --tls-key /tls/tls.key --listen :9443
    """
    report = message_queue()
    with Server(address_of(listen), tls_cert, tls_key, report) as server, Signals({signal.SIGTERM, signal.SIGINT}) as signals:
        thread = threading.Thread(target=server.serve_forever, name="bpfence-webhook", daemon=True)
        thread.start()
        report(f"webhook: listening on port {server.server_address[1]}")
        select.select([signals], [], [])
        server.shutdown()
        thread.join(1.0)
    return 0


COMMANDS: Final = (webhook,)

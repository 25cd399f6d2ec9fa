# SPDX-License-Identifier: Apache-2.0
"""A certificate and an address in, answers to a cluster's admission reviews out: `webhook`."""

from __future__ import annotations

import contextlib
import select
import signal
import threading
from pathlib import Path
from typing import Final

import click

from bpfence.cli.show import Command, message_queue
from bpfence.errors import UsageError
from bpfence.host.signals import Signals
from bpfence.k8s.bindings import Bindings
from bpfence.k8s.client import connect
from bpfence.k8s.tidy import Tidier
from bpfence.k8s.webhook import Server, address_of

FILE: Final = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(cls=Command, short_help="Answer a cluster that asks whether policies are right.")
@click.option(
    "--kubernetes",
    "in_cluster",
    is_flag=True,
    help="Look at the cluster, too: give pods the seccomp profiles that are bound to them, and tidy the status of policies.",
)
@click.option("--kubeconfig", type=FILE, help="How the API server is reached, from outside of a pod.")
@click.option("--tls-cert", required=True, type=FILE, help="The certificate, with its chain, in PEM. Read again when it changes.")
@click.option("--tls-key", required=True, type=FILE, help="Its key.")
@click.option("--listen", default=":9443", show_default=True, metavar="ADDRESS", help="HOST:PORT, or :PORT for all addresses.")
def webhook(in_cluster: bool, kubeconfig: Path | None, tls_cert: Path, tls_key: Path, listen: str) -> int:
    """Answer the API server of a Kubernetes cluster that is about to store a policy (at /validate): policies and seccomp profiles with a
    mistake are refused, with what `bpfence check` says of them.

    With --kubernetes also for pods (at /mutate), which are given the profiles that SeccompProfile and ClusterSeccompProfile objects bind to
    them; and entries of nodes that are gone are taken out of the status of policies and profiles.

    Stops at SIGTERM or SIGINT. The chart in deploy/helm runs it and tells the API server of it.

    \b
    Examples:
      bpfence webhook --tls-cert /tls/tls.crt --tls-key /tls/tls.key --listen :9443
      bpfence webhook --kubernetes --tls-cert /tls/tls.crt --tls-key /tls/tls.key
    """
    if kubeconfig is not None and not in_cluster:
        raise UsageError("--kubeconfig is about a cluster: add --kubernetes")
    report = message_queue()
    bound = None
    with contextlib.ExitStack() as stack:
        if in_cluster:
            api = connect(kubeconfig)
            bound, tidier = Bindings(api, report), Tidier(api, report)
            stack.callback(tidier.close)
            stack.callback(bound.close)
        server = stack.enter_context(Server(address_of(listen), tls_cert, tls_key, report, bound))
        signals = stack.enter_context(Signals({signal.SIGTERM, signal.SIGINT}))
        if bound is not None:
            bound.start()
            tidier.start()
        thread = threading.Thread(target=server.serve_forever, name="bpfence-webhook", daemon=True)
        thread.start()
        report(f"webhook: listening on port {server.server_address[1]}")
        select.select([signals], [], [])
        server.shutdown()
        thread.join(1.0)
    return 0


COMMANDS: Final = (webhook,)

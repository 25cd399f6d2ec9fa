# SPDX-License-Identifier: Apache-2.0
"""A client of KubeArmor's log service, of the gRPC library's: what `karmor` and the relay ask, as bytes on the same wire."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bpfence.dialects.kubearmor import wire

WAIT = 60.0


class Watcher:
    """What KubeArmor's clients call."""

    def __init__(self, target: str) -> None:
        grpc = pytest.importorskip("grpc", reason="needs grpcio: pip install 'bpfence[grpc]'")
        self.error = grpc.RpcError
        self.channel = grpc.insecure_channel(target)

    def health_check(self, nonce: int) -> int:
        request, response = (wire.messages()[name] for name in wire.METHODS["HealthCheck"])
        ask = self.channel.unary_unary(
            f"/{wire.SERVICE}/HealthCheck", request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        return int(ask(request(nonce=nonce), timeout=WAIT, wait_for_ready=True).Retval)

    def serving(self, service: str) -> int:
        """The status of gRPC's own health checking."""
        request, response = (wire.health()[name] for name in ("HealthCheckRequest", "HealthCheckResponse"))
        ask = self.channel.unary_unary(
            f"/{wire.HEALTH_SERVICE}/Check", request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        return int(ask(request(service=service), timeout=WAIT, wait_for_ready=True).status)

    @contextmanager
    def watching(self, method: str, choice: str = "") -> Iterator[Any]:
        """What is streamed, from when the service has taken the request."""
        request, response = (wire.messages()[name] for name in wire.METHODS[method])
        ask = self.channel.unary_stream(
            f"/{wire.SERVICE}/{method}", request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        stream = ask(request(Filter=choice), timeout=WAIT, wait_for_ready=True)
        stream.initial_metadata()
        try:
            yield stream
        finally:
            stream.cancel()

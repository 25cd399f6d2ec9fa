# SPDX-License-Identifier: Apache-2.0
"""A client of Tetragon's service, of the gRPC library's: what `tetra` asks, as bytes on the same wire."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bpfence.dialects.tetragon import wire

WAIT = 60.0


class Client:
    """What `tetra` calls."""

    def __init__(self, path: Path) -> None:
        grpc = pytest.importorskip("grpc", reason="needs grpcio: pip install 'bpfence[grpc]'")
        self.error = grpc.RpcError
        self.channel = grpc.insecure_channel(f"unix://{path}")

    def call(self, method: str, **given: Any) -> Any:
        request, response = (wire.messages()[name] for name in wire.METHODS[method])
        ask = self.channel.unary_unary(
            f"/{wire.SERVICE}/{method}", request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        return ask(request(**given), timeout=WAIT, wait_for_ready=True)

    def refused(self, method: str, **given: Any) -> tuple[str, str]:
        with pytest.raises(self.error) as error:
            self.call(method, **given)
        return error.value.code().name, error.value.details()

    def events(self, **given: Any) -> Any:
        request, response = wire.messages()["GetEventsRequest"], wire.messages()["GetEventsResponse"]
        ask = self.channel.unary_stream(
            f"/{wire.SERVICE}/GetEvents", request_serializer=request.SerializeToString, response_deserializer=response.FromString
        )
        return ask(request(**given), timeout=WAIT, wait_for_ready=True)

    def listed(self) -> dict[str, Any]:
        return {one.name: one for one in self.call("ListTracingPolicies").policies}

    @contextmanager
    def listening(self, **given: Any) -> Iterator[Any]:
        """Events, from when the service has taken the request."""
        stream = self.events(**given)
        stream.initial_metadata()
        try:
            yield stream
        finally:
            stream.cancel()

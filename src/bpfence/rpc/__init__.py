# SPDX-License-Identifier: Apache-2.0
"""gRPC, for both sides: messages are tables in, classes out (`messages`); methods by name in, a socket that answers them out (`server`).

    messages    tables of fields                        → classes of protobuf
    server      a place, methods                        → a gRPC server on a socket, and its streams

Below everything that speaks some interface: `workloads.cri` asks with it, `services` answer with it. It knows none of their messages. The
libraries (`bpfence[cri]`, `bpfence[grpc]`: the same two) are imported when they are needed.
"""

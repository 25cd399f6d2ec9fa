# SPDX-License-Identifier: Apache-2.0
"""Calls between processes, for both sides: tables of messages in, classes out; methods in, a socket that answers them out.

    messages    tables of fields                        → classes of protobuf
    server      a place, methods                        → a gRPC server on a socket, and its streams
    lines       a path, a function of a request's line  → a server of lines on a unix socket, and its streams; needs no library

Below everything that speaks some interface: `workloads.cri` asks with it, `services` answer with it. It knows none of their messages. The
libraries of gRPC (`bpfence[cri]`, `bpfence[grpc]`: the same two) are imported when they are needed.
"""

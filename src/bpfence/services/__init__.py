# SPDX-License-Identifier: Apache-2.0
"""What clients ask in, answers of this agent out: its own interface and those of others, on sockets of bpfence.

    control     the control socket: `bpfence events --follow`, `policy`, `top`, `status`; its requests are `requests`
    tetragon    the FineGuidanceSensors of Tetragon's `tetra`, over gRPC
    kubearmor   the LogService of KubeArmor's `karmor` and its relay, over gRPC

For the agent a service is a feed of policies (`agent.feed`), though there may be none, and one or more outputs (`outputs`), whose lines go
to the clients that listen. Sockets and limits are those of `rpc.lines` and `rpc.server`.
"""

# SPDX-License-Identifier: Apache-2.0
"""What others' clients ask over gRPC in, answers of this agent out: their interfaces, on sockets of bpfence.

    tetragon    the FineGuidanceSensors of Tetragon's `tetra`
    kubearmor   the LogService of KubeArmor's `karmor` and its relay

For the agent a service is a feed of policies (`agent.feed`), though there may be none, and one or more outputs (`outputs`), whose lines go
to the clients that listen.
Sockets and limits are those of `rpc.server`.
"""

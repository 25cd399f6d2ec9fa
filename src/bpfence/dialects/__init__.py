# SPDX-License-Identifier: Apache-2.0
"""Policy languages: text in, the policy model (`bpfence.policy`) out. One package for each; none knows another."""

# SPDX-License-Identifier: Apache-2.0
"""Who a process works for: cgroup → container → pod, and where that is learned from."""

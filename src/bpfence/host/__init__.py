# SPDX-License-Identifier: Apache-2.0
"""Looks at this machine that are bounded in time and size, because what is looked at may belong to an attacker.

procfs      /proc                    accounts    users and groups, a container's too
cgroups     cgroup ids → paths       hostnames   names of hosts → addresses, in the background
links       paths → what symbolic links make of them
kubelet     seccomp profiles → files in the kubelet's folder
"""

# SPDX-License-Identifier: Apache-2.0
"""One command in a cgroup of its own or under seccomp filters: run, watched, learned from.

command     profiles and a command → the command under them
sandbox     a cgroup of its own around a command
supervise   calls answered one by one     callers   who makes a call, with which arguments
learn       the calls of a command → what a profile must allow
"""

# SPDX-License-Identifier: Apache-2.0
"""KubeArmor's policies.

read       text → policies whose entries have their final action, severity, tags and message; diagnostics
model      what those are
lower/     entries and selectors → policies of the IR; the posture of allow lists
confirm    an event that the kernel decided by an entry → what the entry says of it
show       an alert → KubeArmor's JSON
"""

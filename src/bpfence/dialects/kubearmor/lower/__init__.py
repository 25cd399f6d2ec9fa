# SPDX-License-Identifier: Apache-2.0
"""KubeArmor's policies in, policies of the IR that mean the same out.

patterns   AppArmor's globs → globs of the IR
scopes     selectors → the processes that a policy is about
entries    one entry → its events and conditions
policies   all of it, and the posture of allow lists
"""

# SPDX-License-Identifier: Apache-2.0
"""Kubernetes manifests in, a judgement of their pods, and hardened manifests, out; knows no cluster.

kinds       facts of the Kubernetes API that others need, too
manifest    bytes → workloads: fields with their places, as Kubernetes resolves them
findings    the codes, and a finding
standards   the Pod Security Standards: each control, what breaks it
judge       everything else that weakens a pod; the whole judgement
edit        changes of a document → changes of its text; all else stays as it is
bind        a pod, bindings of seccomp profiles → the patch of a mutating webhook
harden      a manifest → the same one, hardened, and what was left
"""

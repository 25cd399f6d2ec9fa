# SPDX-License-Identifier: Apache-2.0
"""bpfence.documents.headers: only what stands at the root of a document tells its group."""

from __future__ import annotations

import pytest

from bpfence.documents.headers import has_group

GROUP = b"security.kubearmor.com"
OTHER = b"apiVersion: bpfence.io/v1alpha1\nkind: SecurityPolicy\n"


@pytest.mark.parametrize(
    ("data", "has"),
    [
        (b"apiVersion: security.kubearmor.com/v1\n", True),
        (b"\xef\xbb\xbfapiVersion: security.kubearmor.com/v1\n", True),
        (b'{"kind":"KubeArmorPolicy","apiVersion":"security.kubearmor.com/v1","spec":{}}', True),
        (b'{\n    "apiVersion": "security.kubearmor.com/v1"\n}', True),
        (b"apiVersion: !!str security.kubearmor.com/v1\n", True),
        (b"apiVersion:\n  security.kubearmor.com/v1\n", True),
        (b"metadata: {a: [b]}\n? [c]\n: d\napiVersion: security.kubearmor.com/v1\n", True),
        (OTHER + b"---\napiVersion: security.kubearmor.com/v1\n", True),
        (OTHER + b"metadata:\n  note: |\n    apiVersion: security.kubearmor.com/v1\n", False),
        (OTHER + b"metadata:\n  apiVersion: security.kubearmor.com/v1\n", False),
        (b"# apiVersion: security.kubearmor.com/v1\n" + OTHER, False),
        (b"apiVersion: v1\nkind: List\nitems:\n- apiVersion: security.kubearmor.com/v1\n", True),
        (b'{"kind":"List","items":[{"spec":{"a":[1]},"apiVersion":"security.kubearmor.com/v1"}]}', True),
        (b"spec:\n  items:\n  - apiVersion: security.kubearmor.com/v1\n", False),
        (b"items:\n- metadata:\n    apiVersion: security.kubearmor.com/v1\n", False),
        (b"items:\n  apiVersion: security.kubearmor.com/v1\n", False),
        (b"metadata: {a: &v security.kubearmor.com/v1}\napiVersion: *v\n", True),
        (b"base: &b {apiVersion: security.kubearmor.com/v1}\n<<: *b\n", True),
        (b"<<: {apiVersion: security.kubearmor.com/v1}\n", True),
        (b"<<: [{a: b}, {apiVersion: security.kubearmor.com/v1}]\n", True),
        (b"kind: List\na: &v {apiVersion: security.kubearmor.com/v1}\nitems: [*v]\n", True),
        (b"kind: List\na: &v security.kubearmor.com/v1\nitems: [{apiVersion: *v}]\n", True),
        (b"<<: {apiVersion: security.kubearmor.com/v1}\napiVersion: v1\n", False),
        (b"base: &b {apiVersion: security.kubearmor.com/v1}\nmetadata: {<<: *b}\nother: *b\n", False),
        (b"note: '&a *a <<'\nspec: {apiVersion: security.kubearmor.com/v1}\n", False),
        (b"base: &b {apiVersion: security.kubearmor.com/v1}\n<<: *b\n---\na: *missing\n", True),
        (b"- apiVersion\n- security.kubearmor.com/v1\n", False),
        (b"apiVersion: security.kubearmor.com\n", False),
        (b"apiVersion: security.kubearmor.com/v1\nkind: [\n", True),
        (b"\xff apiVersion: security.kubearmor.com/v1\n", False),
        (b"[" * 20000 + b"security.kubearmor.com/v1", False),
    ],
)
def test_groups_of_documents(data: bytes, has: bool) -> None:
    assert has_group(data, GROUP) is has

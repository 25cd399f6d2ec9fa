# SPDX-License-Identifier: Apache-2.0
"""Nothing in, what a language says of its objects in a cluster out. Read by `k8s`, which watches them.

A kind is a line in a dialect's `objects`: its reader reads an object as a file of one document, so nothing else is needed.
"""

from __future__ import annotations

from typing import NamedTuple


class ObjectKind(NamedTuple):
    """A kind of objects of the API server whose `spec` is that of a file. `version`: as in apiVersion; `plural`: its name in paths."""

    version: str
    kind: str
    plural: str
    namespaced: bool

# SPDX-License-Identifier: Apache-2.0
"""A container and the selectors of policies in, which of them select it out.

Called by the registry, and by whoever explains. The reference semantics of a selector: yes, no, or not known, which the selector itself
decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from bpfence import glob
from bpfence.conditions import images
from bpfence.conditions.labels import label_holds
from bpfence.policy import Label, Selector
from bpfence.workloads.model import Container, Pod

Answer = bool | None
"""None: not known."""


def selected(container: Container, selectors: Iterable[Selector]) -> frozenset[Selector]:
    """Those that select a container."""
    return frozenset(selector for selector in selectors if selects(selector, container))


def selects(selector: Selector, container: Container) -> bool:
    """Whether a selector selects a container. What is not known of it counts as the selector says, unless something else excludes it."""
    answers = list(_answers(selector, container))
    if any(answer is False for answer in answers):
        return False
    return selector.unknown or None not in answers


def described(container: Container) -> bool:
    """Whether more is known of a container than that it is there."""
    return bool(container.image or container.image_id or container.name or container.labels or container.pod)


def _answers(selector: Selector, container: Container) -> Iterator[Answer]:
    pod = container.pod
    if selector.names:
        yield _any(selector.names, container.name)
    if selector.images:
        yield _image(selector, container)
    if selector.runtimes:
        yield _any(tuple(runtime.lower() for runtime in selector.runtimes), container.runtime.lower())
    for patterns, of in _OF_POD:
        if patterns(selector):
            yield _no_pod(container) if pod is None else _any(patterns(selector), of(pod))
    if selector.labels:
        own = container.labels if _no_pod(container) is False else None
        yield _labels(selector.labels, own if pod is None else pod.labels)
    if selector.namespace_labels:
        yield _no_pod(container) if pod is None else _labels(selector.namespace_labels, pod.namespace_labels)
    if selector.namespace_annotations:
        yield _no_pod(container) if pod is None else _labels(selector.namespace_annotations, pod.namespace_annotations)


_OF_POD: Final[tuple[tuple[Callable[[Selector], tuple[str, ...]], Callable[[Pod], str]], ...]] = (
    (lambda selector: selector.namespaces, lambda pod: pod.namespace),
    (lambda selector: selector.pods, lambda pod: pod.name),
    (lambda selector: selector.service_accounts, lambda pod: pod.service_account),
)  # fmt: skip


def _no_pod(container: Container) -> Answer:
    """False where it is known that a container is part of no pod: it is described, and lies where no pods are."""
    return False if described(container) and "kubepods" not in container.cgroup else None


def _image(selector: Selector, container: Container) -> Answer:
    if not container.image and not container.image_id and not container.image_digest:
        return None
    found = any(images.matches(text, container.image, container.image_digest, container.image_id) for text in selector.images)
    if found or (images.parse(container.image) is not None and (container.image_digest or not _by_digest(selector))):
        return found
    return None


def _by_digest(selector: Selector) -> bool:
    return any(images.pattern(text).digest for text in selector.images)


def _any(patterns: Iterable[str], value: str) -> Answer:
    if not value:
        return None
    encoded = glob.encode(value)
    return any(glob.compiled(text, "string").fullmatch(encoded) is not None for text in patterns)


def _labels(asked: Iterable[Label], labels: dict[str, str] | None) -> Answer:
    return None if labels is None else all(label_holds(label, labels) for label in asked)

# SPDX-License-Identifier: Apache-2.0
"""Random pods, and texts of them in the ways that people and programs write them."""

from __future__ import annotations

import contextlib
import copy
import json
from random import Random
from typing import Any

import yaml

KINDS = {
    "Pod": (), "Deployment": ("spec", "template"), "CronJob": ("spec", "jobTemplate", "spec", "template"), "PodTemplate": ("template",),
    "Job": ("spec", "template"),
}  # fmt: skip
CAPABILITIES = ["NET_BIND_SERVICE", "CHOWN", "SYS_ADMIN", "CAP_CHOWN", "NET_RAW", "ALL", "all"]
PROFILES: list[Any] = [
    {"type": "RuntimeDefault"}, {"type": "Unconfined"}, {"type": "Localhost", "localhostProfile": "a/b.json"},
]  # fmt: skip
VOLUMES: list[Any] = [
    {"emptyDir": {}}, {"configMap": {"name": "c"}}, {"hostPath": {"path": "/var/run/docker.sock"}}, {"hostPath": {"path": "/data"}},
    {"nfs": {"server": "s", "path": "/"}}, {"image": {"reference": "r"}}, {"emptyDir": None},
]  # fmt: skip
SYSCTLS = ["net.ipv4.tcp_syncookies", "net.ipv4.tcp_rmem", "kernel.msgmax", "net.core.somaxconn"]
ANNOTATIONS = {
    "seccomp.security.alpha.kubernetes.io/pod": ["runtime/default", "unconfined", "localhost/x.json", "odd"],
    "container.seccomp.security.alpha.kubernetes.io/a": ["docker/default", "unconfined"],
    "container.apparmor.security.beta.kubernetes.io/a": ["runtime/default", "unconfined", "localhost/x"],
    "example.org/other": ["#not a comment", "true", ""],
}


def maybe(random: Random, holder: dict[str, Any], key: str, values: list[Any], often: float = 0.3) -> None:
    """Now and then a key with one of some values."""
    if random.random() < often:
        holder[key] = copy.deepcopy(random.choice(values))  # PyYAML writes aliases for what is there twice


def context(random: Random, *, pod: bool) -> dict[str, Any]:
    made: dict[str, Any] = {}
    maybe(random, made, "runAsNonRoot", [True, True, False, None])
    maybe(random, made, "runAsUser", [0, 1000, None])
    maybe(random, made, "seccompProfile", PROFILES)
    maybe(random, made, "appArmorProfile", PROFILES, 0.1)
    maybe(random, made, "seLinuxOptions", [{"type": "container_t"}, {"type": "spc_t"}, {"user": "u"}, {"level": "s0"}], 0.1)
    if pod:
        if random.random() < 0.1:
            made["sysctls"] = [{"name": random.choice(SYSCTLS), "value": "1"}]
        return made
    maybe(random, made, "privileged", [True, False], 0.15)
    maybe(random, made, "allowPrivilegeEscalation", [True, False, False, None])
    maybe(random, made, "readOnlyRootFilesystem", [True, False])
    maybe(random, made, "procMount", ["Default", "Unmasked"], 0.1)
    if random.random() < 0.4:
        capabilities: dict[str, Any] = {}
        maybe(random, capabilities, "add", [None, [], *([name] for name in CAPABILITIES), CAPABILITIES[:3]], 0.5)
        maybe(random, capabilities, "drop", [None, [], ["ALL"], ["KILL", "ALL"], ["all"], ["KILL"]], 0.6)
        made["capabilities"] = capabilities
    return made


def container(random: Random, name: str) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "image": random.choice(["a", "b:1", "r:5000/c", "d@sha256:00", "e:latest"])}
    if random.random() < 0.7:
        made["securityContext"] = random.choice([context(random, pod=False), context(random, pod=False), {}, None])
    if random.random() < 0.3:
        made["command"] = ["sh", "-c", "echo '# no comment' \"x\"\nexit 0\n"]
    if random.random() < 0.2:
        made["ports"] = [{"containerPort": 80, "hostPort": random.choice([0, 80])}]
    if random.random() < 0.2:
        made["livenessProbe"] = {"httpGet": {"port": 80, **random.choice([{}, {"host": ""}, {"host": "h"}])}}
    if random.random() < 0.2:
        made["resources"] = {"limits": {"memory": "1Gi"}}
    return shuffled(random, made)


def shuffled(random: Random, value: dict[str, Any]) -> dict[str, Any]:
    keys = list(value)
    random.shuffle(keys)
    return {key: value[key] for key in keys}


def pod(random: Random) -> dict[str, Any]:
    """Metadata and spec."""
    spec: dict[str, Any] = {"containers": [container(random, name) for name in "ab"[: random.randint(1, 2)]]}
    if random.random() < 0.3:
        spec["initContainers"] = [container(random, "i")]
    if random.random() < 0.1:
        spec["ephemeralContainers"] = [container(random, "e")]
    if random.random() < 0.6:
        spec["securityContext"] = random.choice([context(random, pod=True), context(random, pod=True), {}, None])
    for key in ("hostPID", "hostNetwork", "hostIPC"):
        maybe(random, spec, key, [True, False], 0.1)
    maybe(random, spec, "hostUsers", [True, False], 0.15)
    maybe(random, spec, "shareProcessNamespace", [True, False], 0.1)
    if random.random() < 0.1:
        spec["os"] = {"name": random.choice(["windows", "linux"])}
    if random.random() < 0.3:
        spec["volumes"] = [{"name": f"v{n}", **copy.deepcopy(random.choice(VOLUMES))} for n in range(random.randint(1, 2))]
    metadata: dict[str, Any] = {"labels": {"app": "x"}} if random.random() < 0.7 else {}
    if random.random() < 0.3:
        chosen = random.sample(sorted(ANNOTATIONS), random.randint(1, 3))
        metadata["annotations"] = {key: random.choice(ANNOTATIONS[key]) for key in chosen}
    return {"metadata": metadata or {"name": "p"}, "spec": shuffled(random, spec)}


def manifest(random: Random) -> dict[str, Any]:
    """An object that has a pod."""
    kind = random.choice(sorted(KINDS))
    inner = pod(random)
    for step in reversed(KINDS[kind]):
        inner = {step: inner}
    inner.setdefault("metadata", {})["name"] = "n"
    return {"apiVersion": "v1", "kind": kind, **inner}


def template(document: dict[str, Any]) -> dict[str, Any]:
    """The pod of an object."""
    for step in KINDS[document["kind"]]:
        document = document[step]
    return document


# ---- texts ----


def load(text: str) -> Any:
    """What PyYAML, or the standard library for JSON, makes of a text."""
    if text.lstrip().startswith("{"):
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(text)
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  # a safe one, in C


def text(random: Random, document: Any) -> str:
    """A document as somebody may have written it: JSON, YAML as programs write it, or YAML with everything that people do."""
    match random.randrange(4):
        case 0:
            indent = random.choice([None, 2, 4, "\t"])
            separators = (",", ":") if indent is None and random.random() < 0.5 else None
            written = json.dumps(document, indent=indent, separators=separators, ensure_ascii=random.random() < 0.5)
            return written + random.choice(["", "\n"])
        case 1:
            flow = random.choice([True, False, None])
            return yaml.safe_dump(
                document, default_flow_style=flow, indent=random.choice([2, 4]), width=random.choice([40, 1000]), sort_keys=False
            )
        case _:
            return Writer(random).document(document)


class Writer:
    """YAML by hand: comments everywhere, blank lines, odd indentation, quotes, brackets, block scalars, CRLF."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.step = random.choice([1, 2, 2, 4])
        self.dash = random.choice([0, 0, self.step, 1])
        self.newline = random.choice(["\n", "\n", "\r\n"])
        self.keep = random.random() < 0.3  # block scalars to which the blank lines behind them belong: then there are none
        self.comments = 0

    def document(self, value: Any) -> str:
        lines = [*self.remarks(0), *self.block(value, 0), *self.remarks(0)]
        made = self.newline.join(lines)
        return made if self.random.random() < 0.2 and "|" not in made and not made.endswith(("\n", " ")) else made + self.newline

    def remarks(self, column: int) -> list[str]:
        made = []
        while self.random.random() < 0.15:
            self.comments += 1
            remark = " " * self.random.choice([0, column, column + 3]) + f"# remark {self.comments}: x"
            made.append(remark if self.keep else self.random.choice(["", remark]))
        return made

    def tail(self) -> str:
        if self.random.random() < 0.15:
            self.comments += 1
            return " " * self.random.randint(1, 3) + f"# tail {self.comments} {{[ '"
        return self.random.choice(["", "", "", " "])

    def block(self, value: Any, column: int) -> list[str]:
        """A map or list of at least one element, as lines."""
        lines: list[str] = []
        if isinstance(value, list):
            for item in value:
                gap = " " * self.random.choice([1, 1, 1, 3])
                inside = self.value(item, column, column + 1 + len(gap))
                lines += self.remarks(column)
                if isinstance(item, dict) and item and inside[0] == "":  # the first key stands behind the dash
                    block = self.block(item, column + 1 + len(gap))
                    while block and (not block[0].strip() or block[0].strip().startswith("#")):
                        block.pop(0)
                    lines += [" " * column + "-" + gap + block[0].lstrip(" "), *block[1:]]
                else:
                    lines += [" " * column + "-" + gap + inside[0].lstrip(" "), *inside[1:]]
            return lines
        for key, item in value.items():
            lines += self.remarks(column)
            inner = column + (self.dash if isinstance(item, list) else self.step)
            head, *rest = self.value(item, column, inner)
            name = self.random.choice([key, key, key, f'"{key}"', f"'{key}'"])
            lines += [f"{' ' * column}{name}{self.random.choice([':', ':', ' :'])}{' ' if head else ''}{head}", *rest]
        return lines

    def value(self, item: Any, column: int, inner: int) -> list[str]:
        """What stands behind a colon or dash, and the lines below it."""
        if isinstance(item, (dict, list)):
            if item and self.random.random() < 0.7:
                return ["", *self.block(item, inner)]
            if not item and self.random.random() < 0.2:
                return ["", " " * (column + 2) + self.flow(item)]
            return [self.flow(item) + self.tail()]
        if isinstance(item, str) and "\n" in item and item.strip() and self.random.random() < 0.8:
            keep = ("|+" if self.keep else "|") if item.endswith("\n") else "|-"
            body = [" " * (column + 4) + line for line in item.removesuffix("\n").split("\n")]
            return [keep + self.tail().rstrip(), *body]
        return [self.scalar(item) + self.tail()]

    def flow(self, item: Any) -> str:
        space = self.random.choice(["", " "])
        comma = self.random.choice([", ", ",", " , "])
        if isinstance(item, dict) and item:
            ends = self.random.choice(["", "", ","])
            return "{" + space + comma.join(f"{key}: {self.flow(inner)}" for key, inner in item.items()) + ends + space + "}"
        if isinstance(item, list) and item:
            return "[" + space + comma.join(self.flow(inner) for inner in item) + space + "]"
        if isinstance(item, (dict, list)):
            return "{}" if isinstance(item, dict) else "[]"
        return json.dumps(item) if isinstance(item, str) else self.scalar(item) or "null"

    def scalar(self, item: Any) -> str:
        if item is None:
            return self.random.choice(["", "null", "~"])
        if isinstance(item, bool):
            return self.random.choice([["false", "no", "False"], ["true", "yes", "on"]][item])
        if isinstance(item, int):
            return str(item)
        plain = (
            item.isascii() and item.replace("/", "").replace(".", "").replace("-", "").isalpha() and item not in ("true", "false", "a", "n")
        )
        if plain and self.random.random() < 0.7:
            return str(item)
        return json.dumps(item) if "\n" in item or self.random.random() < 0.5 else "'" + item.replace("'", "''") + "'"

# SPDX-License-Identifier: Apache-2.0
"""Files of KubeArmor's policies in, the policies and diagnostics out.

Called by `dialect`. Checks what the schema of their CRDs and kubectl's strict decoding check, with places, and hands action, severity, tags
and message down to the entries that have none of their own. What cannot be enforced yet is an error where it would allow or block, and a
warning where it would only be reported; then the rest of the policy stands. Scalars mean what Kubernetes' reader of YAML makes of them.
Looks at nothing but the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import re2

from bpfence import names
from bpfence.conditions.labels import LABEL_KEY
from bpfence.conditions.values import network_condition
from bpfence.dialects.kubearmor import patterns
from bpfence.dialects.kubearmor.model import CONTAINER_NAME, Entry, KubeArmorPolicy, Ports, Source, Test, container_names
from bpfence.dialects.kubearmor.options import API_VERSION, CLUSTER_POLICY, HOST_POLICY, HOSTNAME_PATTERN, KINDS, NETWORK_POLICY
from bpfence.dialects.kubearmor.patterns import QUIET
from bpfence.documents import lists, yaml_nodes
from bpfence.documents.files import SourceFile
from bpfence.documents.placed import DocumentError
from bpfence.documents.report import Report, TextError
from bpfence.documents.yaml_nodes import TEXT_TAGS, YamlNode
from bpfence.documents.yaml_values import as_value, truth
from bpfence.errors import Diagnostic, Location
from bpfence.fields import FIELD_BY_NAME
from bpfence.syscalls import table as calls
from bpfence.words import quoted, suggest

CODES: Final[Mapping[str, str]] = {
    "as-written": "a path or name with a wildcard in it, where wildcards are characters like others (warning)",
    "bad-value": "a value that the schema of the CRD refuses: an action, a path, a protocol, a name",
    "duplicate-key": "a key written twice in one map",
    "duplicate-policy": "two policies of one kind, namespace and name",
    "empty": "a list or text that must not be empty; a list that lists nothing (warning)",
    "inactive": "a policy whose status is Inactive: it is left out (warning)",
    "merge-order": "a key before the `<<` that has it, too: kubectl takes the merged value (warning)",
    "missing-key": "a key that is required",
    "never-matches": "an entry that no act matches (warning)",
    "no-rules": "a file without a policy, or a policy without an entry (warning)",
    "not-supported": "what bpfence does not enforce yet: an error where it would allow or block, else a warning, and it is left out",
    "not-utf8": "a file in another encoding",
    "other-acts": "system calls whose acts are reported by whatever call they are done (warning)",
    "other-node": "a host policy for another node (warning)",
    "selects-all": "an empty selector: all that there is (warning)",
    "too-large": "policies that make too many exceptions of each other",
    "too-many": "more findings in one file than are told",
    "unknown-key": "a key that the schema of the CRD does not have",
    "wrong-kind": "a document that is no policy of KubeArmor",
    "wrong-type": "a text where a number is needed, a list where a map is needed, and the like",
    "yaml-limit": "a file too large or too deep",
    "yaml-syntax": "a file that is not YAML",
}
"""Every diagnostic code of this dialect, and what it means."""

ACTIONS: Final = ("Allow", "Audit", "Block")
META: Final = ("severity", "tags", "message", "action")
MAX_SEVERITY: Final = 10
PROTOCOLS: Final = (
    "tcp", "udp", "raw", "icmp", "icmpv6", "sctp", "stream", "dgram", "rdm", "seqpacket", "dccp", "packet", "all",
)  # fmt: skip
PRESETS: Final = ("filelessExec", "anonMapExec", "protectEnv", "exec", "protectProc")

_SECTIONS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "process": {
        "matchPaths": ("path", "execname", "allowedArgs", "ownerOnly", "pts", "fromSource"),
        "matchDirectories": ("dir", "recursive", "ownerOnly", "pts", "fromSource"),
        "matchPatterns": ("pattern", "ownerOnly"),
    },
    "file": {
        "matchPaths": ("path", "readOnly", "ownerOnly", "pts", "fromSource"),
        "matchDirectories": ("dir", "recursive", "readOnly", "ownerOnly", "pts", "fromSource"),
        "matchPatterns": ("pattern", "readOnly", "ownerOnly"),
    },
    "network": {"matchProtocols": ("protocol", "pts", "fromSource"), "matchDNSQueries": ("domain", "fromSource")},
    "capabilities": {"matchCapabilities": ("capability", "pts", "fromSource")},
    "syscalls": {"matchSyscalls": ("syscall", "fromSource"), "matchPaths": ("path", "recursive", "syscall", "fromSource")},
}
"""The lists of each section, and the keys of their entries beside META."""
_SPEC: Final = (*_SECTIONS, "apparmor", *META)
_SPECS: Final[Mapping[str, tuple[str, ...]]] = {
    kind: (("nodeSelector", "device") if kind == HOST_POLICY else ("selector", "presets", "status")) + _SPEC
    for kind in KINDS
    if kind != NETWORK_POLICY
}
_NETWORK_SPEC: Final = ("nodeSelector", "selector", "ingress", "egress", "level", *META)
_PEERS: Final = {"ingress": "from", "egress": "to"}
_EVERY_PROGRAM: Final = ("the entry is about every program", "list the programs, or remove it")
_EVERY_ARGUMENT: Final = ("any arguments are allowed", "list the arguments, or remove it")
_EVERY_ADDRESS: Final = ("the entry is about every address", "list the networks, or remove it")
_EVERY_PORT: Final = ("the entry is about every port", "list the ports, or remove it")
"""What it means that a list lists nothing, and what to write."""
TRANSPORTS: Final = ("TCP", "UDP", "SCTP")
MAX_PORT: Final = 65535
MAX_ARGUMENTS: Final = 20
MAX_ARGUMENT: Final = 104
"""How many arguments `allowedArgs` can list, and characters of each."""
_PATH: Final = re.compile(r"/+.*[^/]")
_DIRECTORY: Final = re.compile(r"/|/.*/")
_WILDCARD: Final = re.compile(r"[*?]|\[[^\]]*-[^\]]*\]|\{[^{}]*,[^{}]*\}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_NAME: Final = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
UNORCHESTRATED: Final = "container_namespace"
"""The namespace of containers that are part of no pod."""
_NUMBER: Final = re.compile(r"-?[0-9]+")
_FLOAT: Final = re.compile(
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)|0[xob][0-9a-fA-F_]+"
)
_MEANT: Final = {
    "block": "Block", "deny": "Block", "audit": "Audit", "allow": "Allow", "log": "Audit", "alert": "Audit", "permit": "Allow",
}  # fmt: skip

KeyValue = tuple[YamlNode, YamlNode]
Entries = dict[str, KeyValue]


class Meta(NamedTuple):
    """What entries have that say nothing else."""

    action: str = "Block"
    severity: int = 1
    tags: tuple[str, ...] = ()
    message: str = ""


def load_sources(files: Iterable[SourceFile]) -> tuple[tuple[KubeArmorPolicy, ...], list[Diagnostic]]:
    """Every policy of some files. One with an error is left out."""
    report = Report(CODES)
    seen: dict[str, Location] = {}
    policies: list[KubeArmorPolicy] = []
    for source in files:
        start, found = len(report.diagnostics), 0
        try:
            merging: list[Diagnostic] = []
            for root in lists.objects(yaml_nodes.decode(source.data, source.file), source.file, merging):
                found += 1
                errors = report.errors
                report.take(merging)
                merging.clear()
                policy = _Reader(report, seen).policy(root)
                if policy is not None and report.errors == errors:
                    policies.append(policy)
            if not found:
                report.add(Location(source.file), "no-rules", "the file holds no policy", "", "warning")
        except DocumentError as error:
            report.take([error.diagnostic])
        report.sort(start)
        report.cut(start, source.file)
    return tuple(policies), report.diagnostics


class _Shapes:
    """The shapes of YAML nodes. Reports what does not fit, and goes on."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.misspelt: set[int] = set()
        """Ids of maps with a key that is not known: it is not also told that the right key is missing."""

    def level(self, node: YamlNode, known: Sequence[str] | None, what: str) -> Entries:
        """The entries of a map; null stands for a key that is not there. `known`: the keys that there may be; None: any."""
        entries: Entries = {}
        if node.kind != "map":
            given = "nothing" if node.empty else "a list" if node.kind == "list" else quoted(node.text)
            self.report.add(node, "wrong-type", f"{what} must be a map, not {given}", "write `key: value` lines below it, indented")
            return entries
        for key, value in node.pairs:
            if key.kind != "scalar":
                self.report.add(key, "wrong-type", "a key must be a plain word", "quote the value if a list or map was not meant")
            elif key.text in entries:
                first = entries[key.text][0].location
                self.report.add(key, "duplicate-key", f"{key.text!r} was already given on line {first.line}", "join the two")
            elif known is not None and key.text not in known:
                hint = suggest(key.text, known, "known keys: " + ", ".join(known))
                self.report.add(key, "unknown-key", f"unknown key {quoted(key.text)} in {what}", hint)
                self.misspelt.add(id(node))
            else:
                entries[key.text] = (key, value)
        return {text: entry for text, entry in entries.items() if not entry[1].empty}

    def lists_nothing(self, node: YamlNode, keys: Mapping[str, tuple[str, str]]) -> None:
        """Warn of lists that list nothing. `keys`: what that means, and what to write."""
        for key, value in node.pairs:
            if key.kind == "scalar" and key.text in keys and (value.empty or (value.kind == "list" and not value.items)):
                means, hint = keys[key.text]
                self.report.add(key, "empty", f"{key.text} lists nothing: {means}", hint, "warning")

    def items(self, entries: Entries, key: str) -> list[YamlNode]:
        """The items of a list; [] where there is none."""
        if key not in entries:
            return []
        node = entries[key][1]
        if node.kind != "list":
            self.report.add(node, "wrong-type", f"{key} must be a list", "begin each of its items with '- '")
            return []
        return node.items

    def text(self, node: YamlNode, what: str) -> str | None:
        """A text: what YAML takes for a number or a truth value is none."""
        kind = _kind(node)
        if kind == "text":
            return node.text
        hint = f'write it in quotes: "{node.text}"' if kind in ("number", "truth value") else "write one text"
        self.report.add(node, "wrong-type", f"{what} must be a text, not {_article(kind)}", hint)
        return None

    def texts(self, entries: Entries, key: str, what: str) -> list[tuple[YamlNode, str]]:
        """The texts of a list."""
        found = ((item, self.text(item, f"an item of {what}")) for item in self.items(entries, key))
        return [(item, text) for item, text in found if text is not None]

    def truth(self, entries: Entries, key: str) -> bool:
        """true or false; false where it is not there."""
        if key not in entries:
            return False
        node = entries[key][1]
        if _kind(node) != "truth value":
            self.report.add(
                node, "wrong-type", f"{key} must be true or false, not {_article(_kind(node))}", "write true or false, without quotes"
            )
            return False
        return truth(node.text) is True

    def choice(self, node: YamlNode, what: str, options: Sequence[str], otherwise: str = "") -> str | None:
        """One of a few words."""
        text = self.text(node, what)
        if text is None or text in options:
            return text
        own = _MEANT.get(text.lower())
        hint = f"write {own}" if own in options else suggest(text, options, otherwise or "write one of: " + ", ".join(options))
        self.report.add(node, "bad-value", f"{what} cannot be {quoted(text)}", hint)
        return None

    def required(self, entries: Entries, key: str, node: YamlNode, what: str) -> YamlNode | None:
        """The value of a key that must be there."""
        if key in entries:
            return entries[key][1]
        if id(node) not in self.misspelt:
            self.report.add(node, "missing-key", f"{what} needs {key!r}", f"add {key}: ...")
        return None


def _kind(node: YamlNode) -> str:
    """What Kubernetes' reader makes of a node: YAML 1.1, where a bare yes is a truth value."""
    if node.kind != "scalar":
        return node.kind
    if node.style or node.tag in TEXT_TAGS:
        return "text"
    if node.empty:
        return "nothing"
    if truth(node.text) is not None:
        return "truth value"
    return "number" if _FLOAT.fullmatch(node.text) else "text"


def _article(kind: str) -> str:
    return kind if kind == "nothing" else f"a {kind}"


class _Reader(_Shapes):
    """One document. `seen`: the policies that there are, by their keys."""

    def __init__(self, report: Report, seen: dict[str, Location]) -> None:
        super().__init__(report)
        self.seen = seen
        self.kind = ""

    def policy(self, root: YamlNode) -> KubeArmorPolicy | None:
        if not self.is_ours(root):
            return None
        top = self.level(root, ("apiVersion", "kind", "metadata", "spec", "status"), "a policy")
        metadata, spec = (self.required(top, key, root, "a policy") for key in ("metadata", "spec"))
        if metadata is None or spec is None:
            return None
        name, namespace = self.named(metadata)
        network = self.kind == NETWORK_POLICY
        entries = self.level(spec, _NETWORK_SPEC if network else _SPECS[self.kind], "spec")
        tests, node = self.selected(entries, spec)
        found = self.traffic(entries, spec) if network else self.entries(entries, spec)
        if "status" in entries and self.choice(entries["status"][1], "status", ("Active", "Inactive")) == "Inactive":
            self.report.add(entries["status"][0], "inactive", f"the policy {name!r} is not in force", "write status: Active", "warning")
            return None
        policy = KubeArmorPolicy(
            kind=self.kind, name=name, namespace=namespace, tests=tests, node=node, entries=found, location=root.location
        )
        if policy.key in self.seen:
            what = f"there already is a {self.kind} {name!r}{f' in {namespace}' if namespace else ''}, at {self.seen[policy.key]}"
            self.report.add(metadata, "duplicate-policy", what, "rename one of them")
        self.seen.setdefault(policy.key, metadata.location)
        return policy

    def is_ours(self, root: YamlNode) -> bool:
        """Whether the document is a policy of KubeArmor; reports why not."""
        given = {key.text: value for key, value in root.pairs if key.kind == "scalar"}
        version, kind = given.get("apiVersion"), given.get("kind")
        hint = f"write apiVersion: {API_VERSION} and kind: {KINDS[0]}; policies of other languages have files of their own"
        if version is None or kind is None or version.text != API_VERSION:
            what = f"apiVersion is {quoted(version.text)}" if version is not None and kind is not None else "the document has no kind"
            self.report.add(version or root, "wrong-kind", what, hint)
            return False
        self.kind = kind.text
        if kind.text not in KINDS:
            self.report.add(kind, "wrong-kind", f"kind is {quoted(kind.text)}", suggest(kind.text, KINDS, hint))
        return kind.text in KINDS

    def named(self, node: YamlNode) -> tuple[str, str]:
        """The policy's name and namespace."""
        entries = self.level(node, None, "metadata")
        place = self.required(entries, "name", node, "metadata")
        name = self.text(place, "the name of a policy") if place is not None else None
        if place is not None and name is not None and not _NAME.fullmatch(name):
            hint = "use lower case letters, digits, '-' and '.', a letter or digit first and last"
            self.report.add(place, "bad-value", f"{quoted(name)} cannot be the name of an object in Kubernetes", hint)
        if self.kind != KINDS[0]:
            return name or "", ""
        namespace = self.text(entries["namespace"][1], "the namespace") if "namespace" in entries else "default"
        if namespace is not None and namespace != UNORCHESTRATED and not _NAMESPACE.fullmatch(namespace):
            hint = "use lower case letters, digits and '-', a letter or digit first and last"
            self.report.add(entries["namespace"][1], "bad-value", f"{quoted(namespace)} cannot be a namespace", hint)
        return name or "", namespace or ""

    # ---- selectors ----

    def selected(self, entries: Entries, spec: YamlNode) -> tuple[tuple[Test, ...], tuple[tuple[str, str], ...]]:
        """The tests on workloads, and on the node."""
        by_node = self.kind == HOST_POLICY or (self.kind == NETWORK_POLICY and "selector" not in entries)
        if self.kind == NETWORK_POLICY and "selector" in entries and "nodeSelector" in entries:
            self.report.add(entries["selector"][0], "bad-value", "there are selector and nodeSelector", "write one of them")
        if by_node:
            node = self.required(entries, "nodeSelector", spec, f"spec of a {self.kind}")
            given = self.level(node, ("matchLabels",), "nodeSelector") if node is not None else {}
            errors = self.report.errors
            labels = tuple(self.labels(given))
            self.hostnames(given)
            if node is not None and not labels and self.report.errors == errors and node.kind == "map":
                self.report.add(node, "selects-all", "nothing is selected: the policy is about every node", "add matchLabels", "warning")
            return (), labels
        if "selector" not in entries:
            self.selects_all(spec)
            return (), ()
        node = entries["selector"][1]
        errors = self.report.errors
        known = ("matchExpressions",) if self.kind == CLUSTER_POLICY else ("matchLabels", "matchExpressions")
        given = self.level(node, known, "selector")
        tests = [Test("label", (f"{key}={value}",)) for key, value in self.labels(given)]
        tests += (test for item in self.items(given, "matchExpressions") if (test := self.expression(item)) is not None)
        if not tests and self.kind == NETWORK_POLICY and self.report.errors == errors:
            self.report.add(node, "empty", "the selector is empty", "write labels of pods, or nodeSelector for the host")
        elif not tests and self.report.errors == errors:
            self.selects_all(entries["selector"][0])
        elif (why := contradiction(tests)) and self.report.errors == errors:
            what = f"the selector selects nothing: {why}"
            self.report.add(entries["selector"][0], "never-matches", what, "matchLabels and matchExpressions are all required", "warning")
        return tuple(tests), ()

    def selects_all(self, node: YamlNode) -> None:
        every = "every pod of every namespace" if self.kind == CLUSTER_POLICY else "every pod of the namespace"
        self.report.add(node, "selects-all", f"nothing is selected: the policy is about {every}", "add a selector", "warning")

    def labels(self, given: Entries) -> Iterator[tuple[str, str]]:
        if "matchLabels" not in given:
            return
        node = given["matchLabels"][1]
        for key_, value in node.pairs:
            if value.empty and value.kind == "scalar":
                self.report.add(value, "wrong-type", f"the label {key_.text} has no value", f'write one, or {key_.text}: ""')
        for key, (place, value) in self.level(node, None, "matchLabels").items():
            text = self.text(value, f"the label {key}")
            if not LABEL_KEY.fullmatch(key):
                self.report.add(place, "bad-value", f"{quoted(key)} cannot be the key of a label", "a key is like app or example.com/app")
            elif text is not None and self.lists_something(value, key, text):
                yield key, text

    def lists_something(self, node: YamlNode, key: str, value: str) -> bool:
        """Whether a label can hold of some container."""
        if key != CONTAINER_NAME or container_names(value):
            return True
        self.report.add(node, "empty", f"{key} lists no container", "write the container's name, or a list: [web, proxy]")
        return False

    def hostnames(self, given: Entries) -> None:
        """Check regular expressions of names of nodes."""
        pairs = given["matchLabels"][1].pairs if "matchLabels" in given else []
        for value in (value for key, value in pairs if key.text == HOSTNAME_PATTERN and value.kind == "scalar"):
            for text in value.text.split(","):
                try:
                    re2.compile(text.strip(), QUIET)
                except re2.error:
                    self.report.add(value, "bad-value", f"{quoted(text)} is not a regular expression", "the syntax is that of RE2")

    def expression(self, node: YamlNode) -> Test | None:
        entries = self.level(node, ("key", "operator", "values"), "an expression")
        places = [self.required(entries, key, node, "an expression") for key in ("key", "operator", "values")]
        if places[0] is None or places[1] is None or places[2] is None:
            return None
        key = self.choice(places[0], "key", ("namespace", "label") if self.kind in (CLUSTER_POLICY, NETWORK_POLICY) else ("label",))
        operator = self.choice(places[1], "operator", ("In", "NotIn"))
        values = self.texts(entries, "values", "values")
        if not values and places[2].kind == "list":
            self.report.add(places[2], "empty", "values is empty", "list what is meant")
        for item, text in values:
            label, _, value = text.partition("=")
            if key == "label" and not value:
                self.report.add(item, "bad-value", f"{quoted(text)} is no label and its value", "write KEY=VALUE: app=web")
            elif key == "label":
                self.lists_something(item, label, value)
        return Test(key, tuple(text for _, text in values), operator == "In") if key and operator and values else None

    # ---- what entries inherit ----

    def meta(self, entries: Entries, outer: Meta) -> Meta:
        """Severity, tags, message and action; what is not there is that of outside."""
        action = self.choice(entries["action"][1], "action", ACTIONS) if "action" in entries else None
        message = self.text(entries["message"][1], "message") if "message" in entries else None
        tags = tuple(text for _, text in self.texts(entries, "tags", "tags"))
        return Meta(action or outer.action, self.severity(entries) or outer.severity, tags or outer.tags, message or outer.message)

    def severity(self, entries: Entries) -> int:
        """0 where there is none."""
        if "severity" not in entries:
            return 0
        node = entries["severity"][1]
        if _kind(node) != "number":
            self.report.add(node, "wrong-type", f"severity must be a number, not {_article(_kind(node))}", "write a number from 1 to 10")
            return 0
        value = as_value(node, kubernetes=True).text
        if not _NUMBER.fullmatch(value):
            self.report.add(node, "bad-value", f"severity cannot be {quoted(node.text)}", "write a whole number from 1 to 10")
            return 0
        number = int(value) if len(value) < MAX_SEVERITY else MAX_SEVERITY + 1
        if not 1 <= number <= MAX_SEVERITY:
            self.report.add(node, "bad-value", f"severity cannot be {quoted(node.text)}", "write a number from 1 to 10")
        return number

    def unsupported(self, node: YamlNode, what: str, action: str, without: str = "") -> None:
        """Something that is not enforced yet: an error where it would allow or block; else it is left out with a warning. `without`: what
        the entry is about where it is removed; "": then there is nothing left of it."""
        if action == "Audit":
            self.report.add(node, "not-supported", f"{what}; this is left out", "", "warning")
            return
        away = f"without it this is about {without}: remove it only if that is meant" if without else "remove the entry"
        hint = f"{away}; with action: Audit it is left out, with a warning"
        self.report.add(node, "not-supported", f"{what}, and it says {action}", hint)

    # ---- entries ----

    def entries(self, spec: Entries, place: YamlNode) -> tuple[Entry, ...]:
        whole = self.meta(spec, Meta())
        found: list[Entry] = []
        before = len(self.report.diagnostics)
        for section in _SECTIONS:
            if section not in spec:
                continue
            lists = _SECTIONS[section]
            entries = self.level(spec[section][1], (*lists, *META), section)
            self.lists_nothing(spec[section][1], dict.fromkeys(lists, ("there is no entry of it", "write its entries, or remove it")))
            outer = self.meta(entries, whole)
            for key in lists:
                for index, item in enumerate(self.items(entries, key)):
                    entry = self.entry(item, section, key, index, outer)
                    found += (entry,) if entry is not None else ()
        found += self.presets(spec, whole)
        self.others(spec, whole)
        if not found and len(self.report.diagnostics) == before:
            self.report.add(place, "no-rules", "the policy has no entry: it does nothing", "", "warning")
        return tuple(found)

    def others(self, spec: Entries, whole: Meta) -> None:
        """Sections that are not enforced yet."""
        if "apparmor" in spec:
            hint = "load the profile with apparmor_parser(8) and name it in the pod"
            self.report.add(spec["apparmor"][0], "not-supported", "a profile of AppArmor is AppArmor's to enforce", hint)
        if "device" in spec:
            action = self.meta(self.level(spec["device"][1], ("matchDevice", *META), "device"), whole).action
            self.unsupported(spec["device"][0], "classes of USB devices are not known to the kernel's security hooks", action)

    # ---- traffic ----

    def traffic(self, spec: Entries, place: YamlNode) -> tuple[Entry, ...]:
        """The entries of a network policy."""
        whole = self.meta(spec, Meta())
        found: list[Entry] = []
        before = len(self.report.diagnostics)
        if "level" in spec:
            self.choice(spec["level"][1], "level", ("Pod", "Policy"))
        for section, peers in _PEERS.items():
            for index, item in enumerate(self.items(spec, section)):
                known = (peers, "iface", "ports", "limit", "duration", "level", *META)
                entries = self.level(item, known, f"an entry of {section}")
                errors = self.report.errors
                meta = self.meta(entries, whole)
                self.lists_nothing(item, {peers: _EVERY_ADDRESS, "ports": _EVERY_PORT})
                networks = tuple(self.networks(entries, peers))
                ports = tuple(self.ports(entries))
                if item.kind == "map" and not self.uncounted(entries, section, meta.action) and self.report.errors == errors:
                    found.append(
                        Entry(
                            section=section,
                            where=f"{section}[{index}]",
                            kind="",
                            value="",
                            networks=networks,
                            ports=ports,
                            location=item.location,
                            **meta._asdict(),
                        )
                    )
        if not found and len(self.report.diagnostics) == before:
            self.report.add(place, "no-rules", "the policy has no entry: it does nothing", "", "warning")
        return tuple(found)

    def uncounted(self, entries: Entries, section: str, action: str) -> bool:
        """Whether an entry asks for what no event tells."""
        unseen = {
            "iface": ("interfaces are not known where a socket is asked about", "every interface"),
            "limit": ("bytes are not counted", "every byte"),
            "duration": ("bytes are not counted", "every byte"),
        }
        if section == "ingress":
            unseen["from"] = ("the sender's address is not known when a connection is accepted", "every sender")
        told = [key for key in unseen if key in entries]
        for key in told:
            why, without = unseen[key]
            self.unsupported(entries[key][0], f"{key} is not enforced: {why}", action, without)
        return bool(told)

    def networks(self, entries: Entries, key: str) -> Iterator[str]:
        for item in self.items(entries, key):
            given = self.level(item, ("ipBlock",), f"an item of {key}")
            block = self.required(given, "ipBlock", item, f"an item of {key}")
            inner = self.level(block, ("cidr",), "ipBlock") if block is not None else {}
            place = self.required(inner, "cidr", block, "ipBlock") if block is not None else None
            text = self.text(place, "cidr") if place is not None else None
            if place is None or text is None:
                continue
            try:
                network_condition(FIELD_BY_NAME["net.peer.ip"], text)
                yield text
            except TextError as problem:
                self.report.add(place.place(problem.offset), "bad-value", problem.message, problem.hint)

    def ports(self, entries: Entries) -> Iterator[Ports]:
        for item in self.items(entries, "ports"):
            given = self.level(item, ("port", "endPort", "protocol"), "an item of ports")
            protocol = self.choice(given["protocol"][1], "protocol", TRANSPORTS) if "protocol" in given else ""
            low = self.port(given["port"][1]) if "port" in given else None
            high = self.port(given["endPort"][1]) if "endPort" in given else low
            if "endPort" in given and "port" not in given:
                self.report.add(given["endPort"][0], "missing-key", "endPort needs 'port'", "add port: ...")
            elif low is not None and high is not None and high < low:
                self.report.add(given["endPort"][1], "bad-value", f"endPort is less than port, {low}", "write the greater one last")
            elif not given and item.kind == "map":
                self.report.add(item, "empty", "an item of ports is empty", "write port, protocol, or both")
            elif protocol is not None and "port" not in given:
                yield Ports(protocol=protocol)
            elif protocol is not None and low is not None and high is not None:
                yield Ports(low, high, protocol)

    def port(self, node: YamlNode) -> int | None:
        """A port, by number or by name."""
        text = node.text if node.kind == "scalar" else ""
        number = int(text) if re.fullmatch("[0-9]{1,5}", text) else names.number("port", text) if text else None
        if number is None or not 1 <= number <= MAX_PORT:
            hint = f"write a number from 1 to {MAX_PORT}, or a name that `bpfence fields` lists"
            self.report.add(node, "bad-value", f"{quoted(text)} is not a port" if node.kind == "scalar" else "a port is one value", hint)
            return None
        return number

    def presets(self, spec: Entries, whole: Meta) -> Iterator[Entry]:
        """Presets: one entry each."""
        for index, item in enumerate(self.items(spec, "presets")):
            entries = self.level(item, ("name", *META), "a preset")
            meta = self.meta(entries, whole)
            place = self.required(entries, "name", item, "a preset")
            name = self.choice(place, "a preset", PRESETS) if place is not None else None
            if name is None:
                continue
            if meta.action == "Allow":
                what = f"the preset {name} allows: there is nothing that it would be an exception of"
                self.report.add(item, "never-matches", what, "write action: Block or Audit", "warning")
            else:
                yield Entry(
                    section="presets", where=f"presets[{index}]", kind="preset", value=name, location=item.location, **meta._asdict()
                )

    def entry(self, node: YamlNode, section: str, key: str, index: int, outer: Meta) -> Entry | None:
        where = f"{section}.{key}[{index}]"
        known = _SECTIONS[section][key]
        errors = self.report.errors
        entries = self.level(node, (*known, *META), f"an entry of {key}")
        if node.kind != "map":
            return None
        meta = self.meta(entries, outer)
        self.lists_nothing(node, {"fromSource": _EVERY_PROGRAM, "allowedArgs": _EVERY_ARGUMENT})
        value = self.value(entries, section, key, node)
        sources = tuple(self.sources(entries))
        if self.kind == HOST_POLICY and section in ("network", "capabilities"):
            self.required(entries, "fromSource", node, f"an entry of {section} in a {HOST_POLICY}")
        flags = {name: self.truth(entries, name) for name in ("recursive", "readOnly", "ownerOnly") if name in known}
        arguments = tuple(self.arguments(entries))
        terminals = "pts" not in entries or self.truth(entries, "pts")
        named = tuple(self.calls(entries)) if "syscall" in known else ()
        if "syscall" in known and not named and self.report.errors == errors:
            self.report.add(node, "never-matches", "the entry names no system call", "list some, or remove the entry", "warning")
        if self.left_out(entries, meta.action) or value is None or self.report.errors > errors:
            return None
        return Entry(
            section=section,
            where=where,
            kind=value[0],
            value=value[1],
            recursive=flags.get("recursive", False),
            read_only=flags.get("readOnly", False),
            owner_only=flags.get("ownerOnly", False),
            terminals=terminals,
            sources=sources,
            arguments=arguments or None,
            calls=named,
            action=meta.action,
            severity=meta.severity,
            tags=meta.tags,
            message=meta.message,
            location=node.location,
        )

    def arguments(self, entries: Entries) -> Iterator[str]:
        """What a program may be given."""
        found = self.texts(entries, "allowedArgs", "allowedArgs")
        if len(found) > MAX_ARGUMENTS:
            what = f"there are {len(found)} arguments, and no more than {MAX_ARGUMENTS} can be listed"
            self.report.add(found[MAX_ARGUMENTS][0], "bad-value", what, "write an entry for each use of the program")
        for item, text in found:
            if not text or len(text) > MAX_ARGUMENT or _CONTROL.search(text):
                hint = f"write 1 to {MAX_ARGUMENT} characters, no control characters"
                self.report.add(item, "bad-value", f"{quoted(text)} cannot be an argument here", hint)
            else:
                yield text

    def left_out(self, entries: Entries, action: str) -> bool:
        """Whether an entry asks for what is not enforced yet."""
        found = False
        if "domain" in entries:
            self.text(entries["domain"][1], "domain")
            self.unsupported(entries["domain"][0], "what is asked of name servers is not seen yet", action)
            found = True
        return found

    def value(self, entries: Entries, section: str, key: str, node: YamlNode) -> tuple[str, str] | None:
        """The kind and the value of an entry."""
        if key == "matchSyscalls":
            return "", ""
        if section == "process" and "execname" in entries:
            text = self.text(entries["execname"][1], "execname")
            if "path" in entries:
                self.report.add(entries["path"][0], "bad-value", "path and execname exclude each other", "write one of them")
            if text is not None and (not text or "/" in text):
                self.report.add(
                    entries["execname"][1], "bad-value", f"{quoted(text)} is no name of a program", "write it without its directory"
                )
            elif text:
                self.literal(entries["execname"][1], text, f"write it under matchPatterns: pattern: /**/{text}")
            return ("name", text) if text else None
        word = _VALUES[key]
        place = self.required(entries, word, node, f"an entry of {key}")
        text = self.text(place, word) if place is not None else None
        if place is None or text is None:
            return None
        if word == "path" and section == "syscalls" and _DIRECTORY.fullmatch(text):
            word = "dir"
        return (word, made) if (made := _CHECKS[word](self, place, text, section)) is not None else None

    def path(self, node: YamlNode, text: str, section: str = "") -> str | None:
        if not _PATH.fullmatch(text) or _CONTROL.search(text):
            self.report.add(
                node,
                "bad-value",
                f"{quoted(text)} is no path of a file",
                _instead(text, "leave the '/' at its end out, or write it under matchDirectories"),
            )
            return None
        self.literal(node, text, "write it under matchPatterns" if section in _PATTERNED else _NO_PATTERNS)
        self.reachable(node, patterns.literal(_plain(text)))
        return _plain(text)

    def literal(self, node: YamlNode, text: str, hint: str) -> None:
        """Warn of a wildcard where there are none."""
        if found := _WILDCARD.search(text):
            what = f"{quoted(text)} means a file with {quoted(found[0])} in its name: only matchPatterns has wildcards"
            self.report.add(node.place(found.start()), "as-written", what, hint, "warning")

    def directory(self, node: YamlNode, text: str, section: str = "") -> str | None:
        if not _DIRECTORY.fullmatch(text) or _CONTROL.search(text):
            self.report.add(node, "bad-value", f"{quoted(text)} is no path of a directory", _instead(text, "end it with '/'"))
            return None
        self.literal(node, text, f"write it under matchPatterns: pattern: {text}**" if section in _PATTERNED else _NO_PATTERNS)
        self.reachable(node, patterns.literal(_plain(text)) + "*")
        return _plain(text)

    def pattern(self, node: YamlNode, text: str, section: str = "") -> str | None:
        try:
            self.reachable(node, patterns.translated(text))
        except TextError as problem:
            self.report.add(node.place(problem.offset), "bad-value", problem.message, problem.hint)
            return None
        if section == "process" and re.search(r"\s", text):
            what = f"{quoted(text)} is the pattern of a path with a space in it: arguments are no part of it"
            self.report.add(node, "never-matches", what, "write the program's path alone", "warning")
        elif section == "process" and text.endswith("/"):
            what, hint = f"{quoted(text)} is a directory, and only files are executed", "write what is in it: **"
            self.report.add(node, "never-matches", what, hint, "warning")
        return text

    def reachable(self, node: YamlNode, text: str) -> None:
        """Warn of a glob, or a path, that no file has."""
        message, hint = patterns.never(text)
        if message:
            self.report.add(node, "never-matches", message, hint, "warning")

    def protocol(self, node: YamlNode, text: str, section: str = "") -> str | None:
        found = text if text in PROTOCOLS else text.lower() if text == text.upper() else text
        return found if found in PROTOCOLS else self.choice(node, "a protocol", PROTOCOLS)

    def capability(self, node: YamlNode, text: str, section: str = "") -> str | None:
        if text == text.lower() and names.number("capability", text) is not None:
            return text.removeprefix("cap_")
        lower = text.lower()
        known = names.number("capability", lower) is not None
        hint = f"write {lower.removeprefix('cap_')}" if known else suggest(lower, names.known("capability"), "capabilities(7) lists them")
        self.report.add(node, "bad-value", f"{quoted(text)} is not a capability", hint)
        return None

    def sources(self, entries: Entries) -> Iterator[Source]:
        for item in self.items(entries, "fromSource"):
            given = self.level(item, ("path", "dir", "recursive"), "an item of fromSource")
            recursive = self.truth(given, "recursive")
            if "path" not in given and "dir" not in given and item.kind == "map" and id(item) not in self.misspelt:
                self.report.add(item, "missing-key", "an item of fromSource needs 'path' or 'dir'", "add path: ...")
            for word, check in (("path", self.path), ("dir", self.directory)):
                text = self.text(given[word][1], word) if word in given else None
                made = check(given[word][1], text) if text is not None else None
                if made is not None:
                    yield Source(made, recursive)

    def calls(self, entries: Entries) -> Iterator[str]:
        for item, text in self.texts(entries, "syscall", "syscall"):
            if calls.known(text):
                yield text
            else:
                hint = suggest(text, calls.all_names(), "syscalls(2) lists them")
                self.report.add(item, "bad-value", f"{quoted(text)} is not a system call", hint)


def contradiction(tests: Sequence[Test]) -> str:
    """Why no workload passes all tests; "" where some may."""
    allowed: dict[str, set[str]] = {}
    refused = {pair for test in tests if not test.among for pair in _pairs(test) if pair[0] != CONTAINER_NAME}
    mixed: list[set[tuple[str, str]]] = []
    for test in tests:
        pairs = _pairs(test) if test.among else set()
        keys = {key for key, _ in pairs}
        if len(keys) > 1:
            mixed.append(pairs)
        for key in keys if len(keys) == 1 else ():
            values = {value for _, value in pairs}
            allowed[key] = allowed.get(key, values) & values
    for key, values in allowed.items():
        what = f"the label {key}" if key else "the namespace"
        if not values:
            return f"{what} would have to have two values"
        if all((key, value) in refused for value in values):
            return f"{what} must not have the values that it must have"
    impossible = (all(pair in refused or pair[1] not in allowed.get(pair[0], {pair[1]}) for pair in pairs) for pairs in mixed)
    return "none of the labels can hold of which one must" if any(impossible) else ""


def _pairs(test: Test) -> set[tuple[str, str]]:
    """The labels and values that a test lists, namespaces as those of "". Names of containers are lists, which are not looked into."""
    if test.key == "namespace":
        return {("", value) for value in test.values}
    pairs = (value.partition("=") for value in test.values)
    return {(key, value if key != CONTAINER_NAME else "") for key, _, value in pairs}


def _instead(path: str, otherwise: str) -> str:
    """How to mend a path."""
    if _CONTROL.search(path):
        return "control characters are not allowed"
    return otherwise if path.startswith("/") else "begin it with '/'"


def _plain(path: str) -> str:
    """A path as the kernel has it: one '/' where several were written."""
    return re.sub(r"/+", "/", path)


_PATTERNED: Final = ("process", "file")
_NO_PATTERNS: Final = "there are no patterns here: write each path, or the directory with recursive: true"
_VALUES: Final = {
    "matchPaths": "path", "matchDirectories": "dir", "matchPatterns": "pattern", "matchProtocols": "protocol",
    "matchDNSQueries": "domain", "matchCapabilities": "capability",
}  # fmt: skip
"""A list of entries → the key that each of them must have."""
_CHECKS: Final[Mapping[str, Callable[[Any, YamlNode, str, str], str | None]]] = {
    "path": _Reader.path, "dir": _Reader.directory, "pattern": _Reader.pattern, "protocol": _Reader.protocol,
    "capability": _Reader.capability, "domain": lambda _reader, _node, text, _section: text,
}  # fmt: skip

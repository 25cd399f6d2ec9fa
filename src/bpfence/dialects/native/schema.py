# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the shape of a native policy document out.

`native` takes the keys of every level from these models. It reads the values itself, because it must say where a mistake stands.
`json_schema` is what editors and Kubernetes are given: checked in as schemas/securitypolicy.json, written by tools/gen_docs.py.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Final, Literal, Union

import msgspec
from msgspec import Meta

from bpfence import policy
from bpfence.conditions.labels import LabelSelector
from bpfence.fields import EVENTS, FIELDS, GROUPS
from bpfence.seccomp.schema import profile_schema

API_VERSION: Final = policy.API_VERSION
KIND: Final = "SecurityPolicy"
CLUSTER_KIND: Final = "ClusterSecurityPolicy"
"""The kind of policies of a whole cluster; in a file it is the same as the other."""
NAME_PATTERN: Final = r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$"
RATE_PATTERN: Final = r"^[1-9][0-9]{0,8}/(s|m|h)$"
WITHIN_PATTERN: Final = r"^[1-9][0-9]{0,8}(s|m|h)$"
LIMIT_PATTERN: Final = r"^[1-9][0-9]{0,8}( per cgroup( at level [1-8])?)?$"

YamlScalar = Union[str, int, bool]
Values = Union[YamlScalar, list[YamlScalar]]
Severity = Literal["info", "low", "medium", "high", "critical"]
ActionName = Literal["allow", "observe", "audit", "deny", "kill"]
Mode = Literal["enforce", "audit"]
Name = Annotated[str, Meta(pattern=NAME_PATTERN)]


class Document(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Every level of a policy file is one of these; no other keys are known."""


class Metadata(Document):
    """What the policy is called."""

    name: Annotated[Name, Meta(description="unique among all loaded policies")]
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Subjects(Document):
    """Tests on the acting process. The values of one key are alternatives; all keys are required."""

    exe: Annotated[Values, Meta(description="globs of its executable")] = msgspec.field(default_factory=list)
    name: Annotated[Values, Meta(description="its command name, at most 15 bytes")] = msgspec.field(default_factory=list)
    args: Annotated[Values, Meta(description="globs of its arguments, joined by one space")] = msgspec.field(default_factory=list)
    parent: Annotated[Values, Meta(description="globs of the executable it was started from")] = msgspec.field(default_factory=list)
    ancestor: Annotated[Values, Meta(description="globs of the executable of some ancestor")] = msgspec.field(default_factory=list)
    user: Annotated[Values, Meta(description="its effective user, by name or number")] = msgspec.field(default_factory=list)
    uid: Annotated[Values, Meta(description="its effective user id, or ranges")] = msgspec.field(default_factory=list)
    gid: Annotated[Values, Meta(description="its effective group id, or ranges")] = msgspec.field(default_factory=list)
    cgroup: Annotated[Values, Meta(description="globs of its cgroup v2 path")] = msgspec.field(default_factory=list)
    container: Annotated[
        Union[bool, str, list[str], None], Meta(description="whether it runs in a container, or globs of the container's name")
    ] = None
    image: Annotated[Union[str, list[str]], Meta(description="images of its container: nginx, nginx:1.*, registry/team/*")] = msgspec.field(
        default_factory=list
    )
    labels: Annotated[
        dict[str, Any],
        Meta(description="labels of its pod, or of a container without one: key: value, or matchLabels and matchExpressions"),
    ] = {}
    namespace: Annotated[Union[str, list[str]], Meta(description="globs of its pod's namespace")] = msgspec.field(default_factory=list)
    namespace_labels: Annotated[
        dict[str, Any], Meta(description="labels of its pod's namespace: key: value, or matchLabels and matchExpressions")
    ] = msgspec.field(default_factory=dict, name="namespaceLabels")
    pod: Annotated[Union[str, list[str]], Meta(description="globs of its pod's name")] = msgspec.field(default_factory=list)
    service_account: Annotated[Union[str, list[str]], Meta(description="globs of its pod's service account")] = msgspec.field(
        default_factory=list, name="serviceAccount"
    )
    runtime: Annotated[Union[str, list[str]], Meta(description="what runs its container: docker, containerd, cri-o, podman, …")] = (
        msgspec.field(default_factory=list)
    )


class Scope(Subjects):
    """Which processes the policy is about; empty: all."""

    unknown: Annotated[
        Literal["inside", "audit", "outside"],
        Meta(description="containers of which it is not known, or not yet: the policy is in force, reports what it would do, or is not"),
    ] = "audit"
    unless: Annotated[Subjects | None, Meta(description="which of them are left out")] = None


class SensorArgument(Document):
    """One argument that a sensor reads."""

    type: Annotated[str, Meta(description="what it is: int, string, file, sock, …: `bpfence fields --language tetragon` lists the types")]
    index: Annotated[int, Meta(description="which one, from 0; where it is missing, as they are listed")] = 0
    length: Annotated[int, Meta(description="of char_buf: the argument with the number of bytes, from 0")] = 0
    at: Annotated[Literal["call", "return"], Meta(description="of char_buf: when it is read")] = "call"


class SensorSpec(Document, rename={"returns": "return"}):
    """A place in the kernel, a program or a library: exactly one of kprobe, lsm, tracepoint, uprobe and usdt."""

    kprobe: Annotated[str, Meta(description="a function of the kernel; of a system call sys_NAME")] = ""
    lsm: Annotated[str, Meta(description="an LSM hook")] = ""
    tracepoint: Annotated[str, Meta(description="subsystem/name")] = ""
    uprobe: Annotated[str, Meta(description="a program or library: with symbol, offset or address")] = ""
    usdt: Annotated[str, Meta(description="a program or library: with provider and name")] = ""
    args: Annotated[list[Union[str, SensorArgument]], Meta(description="what is read: types, or index and type")] = []
    returns: Annotated[str, Meta(description="of kprobe and uprobe: the type of what the function returns, for which the event waits")] = ""
    symbol: Annotated[str, Meta(description="a function")] = ""
    offset: Annotated[Union[int, str], Meta(description="in the file")] = 0
    address: Annotated[Union[int, str], Meta(description="where the file says that it is loaded")] = 0
    counter: Annotated[Union[int, str], Meta(description="where in the file the number is that says how many watch")] = 0
    provider: Annotated[str, Meta(description="of a static probe")] = ""
    name: Annotated[str, Meta(description="of a static probe")] = ""


class Threshold(Document):
    """From which event on the rule acts."""

    count: Annotated[int, Meta(description="it acts on this event of those it is about, and on those after it", ge=2, le=1_000_000)]
    within: Annotated[str, Meta(description="how long an event counts: 10s, 5m, 1h; at most 1h", pattern=WITHIN_PATTERN)]
    by: Annotated[
        Literal["process", "exe", "user", "container", "host"],
        Meta(description="whose events count together: of one process, of one executable file, ..."),
    ] = "process"


class RuleSpec(Document):
    """One rule."""

    name: Annotated[Name, Meta(description="unique in the policy")]
    on: Annotated[Union[str, list[str], SensorSpec], Meta(description="an event, a short name, a group, or a list of them; or a sensor")]
    match: Annotated[dict[str, Values], Meta(description="field: values; values are alternatives, fields are all required")] = {}
    unless: Annotated[dict[str, Values], Meta(description="same form; what is left out")] = {}
    condition: Annotated[str, Meta(description="in place of match and unless: an expression over the same fields, or of two of them")] = ""
    action: Annotated[ActionName, Meta(description="what is done")] = "audit"
    errno: Annotated[Union[str, int], Meta(description="the error that deny gives")] = "EPERM"
    message: Annotated[str, Meta(description="text of the alert; {field} is replaced")] = ""
    severity: Annotated[Severity | None, Meta(description="in place of the policy's")] = None
    tags: Annotated[list[str], Meta(description="in place of the policy's")] = []
    rate: Annotated[str, Meta(description="most alerts: 10/s, 100/m, 1000/h", pattern=RATE_PATTERN)] = ""
    follow: Annotated[Literal["", "object"], Meta(description="object: also what the literal paths name, under whatever other name")] = ""
    limit: Annotated[Union[int, str], Meta(description="process.fork only: live tasks: `200 per cgroup [at level 2]`")] = 0
    threshold: Annotated[Threshold | None, Meta(description="act only where there are many such events: {count: 100, within: 10s}")] = None


class Spec(Document):
    """The policy itself."""

    mode: Annotated[Mode, Meta(description="audit: block nothing, report what enforce would have blocked")] = "enforce"
    severity: Severity = "medium"
    tags: list[str] = []
    scope: Scope | None = None
    default: Annotated[dict[str, ActionName], Meta(description="event: what happens to what no allow rule of this policy covers")] = {}
    rules: list[RuleSpec] = []
    links: Annotated[
        Literal["resolve", "as-written"], Meta(description="resolve: paths also stand for what they lead to through symbolic links")
    ] = "resolve"
    seccomp: Annotated[Union[str, dict[str, Any]], Meta(description="a seccomp profile: a file beside this one, or inline")] = ""


_NARROWING: Final[dict[type[msgspec.Struct], tuple[str, ...]]] = {
    Threshold: ("by",),
    RuleSpec: ("match", "unless", "condition", "follow", "limit", "threshold"),
    Spec: ("scope",),
}


class SecurityPolicy(Document, rename={"api_version": "apiVersion"}):
    """One native policy."""

    api_version: Literal["bpfence.io/v1alpha1"]
    kind: Literal["SecurityPolicy", "ClusterSecurityPolicy"]
    metadata: Metadata
    spec: Spec


@lru_cache(maxsize=32)
def keys(model: type[msgspec.Struct]) -> tuple[str, ...]:
    """The keys that a level knows, in order."""
    return tuple(field.encode_name for field in msgspec.structs.fields(model))


@lru_cache(maxsize=32)
def required_keys(model: type[msgspec.Struct]) -> tuple[str, ...]:
    """The keys that a level must have."""
    return tuple(field.encode_name for field in msgspec.structs.fields(model) if field.required)


@lru_cache(maxsize=32)
def narrowing_keys(model: type[msgspec.Struct]) -> tuple[str, ...]:
    """The keys without which a level is about more than with them, or covers less of it. Passed over where they say nothing, they
    would make a rule that denies a few things deny everything."""
    if issubclass(model, Subjects):
        return keys(model)
    return _NARROWING.get(model, ())


def event_names() -> tuple[str, ...]:
    """Everything that may stand under `on`: full names, short names, groups."""
    shorts = [short for event in EVENTS for short in event.short]
    return (*(event.name for event in EVENTS if not event.sensor), *shorts, *GROUPS)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of one policy document, with the events and fields of `fields.py` filled in."""
    schema = msgspec.json.schema(SecurityPolicy)
    definitions = schema["$defs"]
    rule = definitions["RuleSpec"]["properties"]
    events = {"type": "string", "enum": list(event_names())}
    listed = {"type": "array", "items": events, "minItems": 1}
    rule["on"] = {"description": rule["on"]["description"], "anyOf": [events, listed, {"$ref": "#/$defs/SensorSpec"}]}
    values = rule["match"]["additionalProperties"]
    definitions["Values"] = values
    definitions["Match"] = {
        "title": "Match",
        "type": "object",
        "properties": {field.name: {"description": field.doc, "$ref": "#/$defs/Values"} for field in FIELDS},
        "additionalProperties": False,
    }
    for key in ("match", "unless"):
        rule[key] = {"description": rule[key]["description"], "$ref": "#/$defs/Match"}
    selector = msgspec.json.schema(LabelSelector)["$defs"]
    definitions |= selector
    for scope in ("Scope", "Subjects"):
        for key in ("labels", "namespaceLabels"):
            plain = {"type": "object", "additionalProperties": {"type": "string"}, "not": {"$ref": "#/$defs/LabelSelector"}}
            definitions[scope]["properties"][key] = {
                "description": definitions[scope]["properties"][key]["description"],
                "anyOf": [{"$ref": "#/$defs/LabelSelector"}, plain],
            }
    for model in (Scope, Subjects, RuleSpec, Spec):
        for key in narrowing_keys(model):
            _never_null(definitions[model.__name__]["properties"][key])
    spec = definitions["Spec"]["properties"]
    definitions["SeccompProfile"] = profile_schema()
    spec["seccomp"] = {"description": spec["seccomp"]["description"], "anyOf": [{"type": "string"}, {"$ref": "#/$defs/SeccompProfile"}]}
    spec["default"]["propertyNames"] = {"enum": [name for name in event_names() if name not in GROUPS]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://bpfence.io/schemas/securitypolicy.json", **schema}


def _never_null(described: dict[str, Any]) -> None:
    """Take null out of what a key may be, where msgspec allows it for what is left out."""
    null = {"type": "null"}
    if null in described.get("anyOf", ()):
        described["anyOf"] = [one for one in described["anyOf"] if one != null]
        del described["default"]

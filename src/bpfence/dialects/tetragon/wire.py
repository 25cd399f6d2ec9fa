# SPDX-License-Identifier: Apache-2.0
"""Nothing in, the messages of Tetragon's gRPC service out: names, types and numbers, as `api/v1/tetragon/*.proto` of its 1.8 has them.

Called by the service (`services.tetragon`) and by what reads filters. What is never sent or read here is left out of the tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from bpfence import names
from bpfence.rpc.messages import Fields, classes

PACKAGE: Final = "tetragon"
SERVICE: Final = "tetragon.FineGuidanceSensors"
EVENTS: Final[Mapping[str, int]] = MappingProxyType(
    {
        "UNDEF": 0, "PROCESS_EXEC": 1, "PROCESS_EXIT": 5, "PROCESS_KPROBE": 9, "PROCESS_TRACEPOINT": 10, "PROCESS_LOADER": 11,
        "PROCESS_UPROBE": 12, "PROCESS_THROTTLE": 27, "PROCESS_LSM": 28, "PROCESS_USDT": 29, "TEST": 40000, "RATE_LIMIT_INFO": 40001,
    }
)  # fmt: skip
"""EventType. Members of an event are the same words in small letters, with the same numbers."""


def capability(name: str) -> str:
    """A capability's name as CapabilitiesType has it, which has one without its prefix."""
    return "DAC_OVERRIDE" if name == "CAP_DAC_OVERRIDE" else name


def _numbered(prefix: str, words: str) -> dict[str, int]:
    return {f"{prefix}_{word}": number for number, word in enumerate(words.split())}


ENUMS: Final[dict[str, dict[str, int]]] = {
    "EventType": dict(EVENTS),
    "CapabilitiesType": {capability(name): number for name, number in names.TABLES["capability"].numbers.items()},
    "BpfCmd": dict(names.TABLES["bpf_cmd"].numbers),
    "SecureBitsType": {
        "SecBitNotSet": 0, "SecBitNoRoot": 1, "SecBitNoRootLocked": 2, "SecBitNoSetUidFixup": 4, "SecBitNoSetUidFixupLocked": 8,
        "SecBitKeepCaps": 16, "SecBitKeepCapsLocked": 32, "SecBitNoCapAmbientRaise": 64, "SecBitNoCapAmbientRaiseLocked": 128,
    },
    "ProcessPrivilegesChanged": {
        "PRIVILEGES_CHANGED_UNSET": 0, "PRIVILEGES_RAISED_EXEC_FILE_CAP": 1, "PRIVILEGES_RAISED_EXEC_FILE_SETUID": 2,
        "PRIVILEGES_RAISED_EXEC_FILE_SETGID": 3,
    },
    "KprobeAction": _numbered(
        "KPROBE_ACTION",
        "UNKNOWN POST FOLLOWFD SIGKILL UNFOLLOWFD OVERRIDE COPYFD GETURL DNSLOOKUP NOPOST SIGNAL TRACKSOCK UNTRACKSOCK NOTIFYENFORCER"
        " CLEANUPENFORCERNOTIFICATION SET",
    ),
    "ThrottleType": {"THROTTLE_UNKNOWN": 0, "THROTTLE_START": 1, "THROTTLE_STOP": 2},
    "HealthStatusType": {"HEALTH_STATUS_TYPE_UNDEF": 0, "HEALTH_STATUS_TYPE_STATUS": 1},
    "HealthStatusResult": {"HEALTH_STATUS_UNDEF": 0, "HEALTH_STATUS_RUNNING": 1, "HEALTH_STATUS_STOPPED": 2, "HEALTH_STATUS_ERROR": 3},
    "FieldFilterAction": {"INCLUDE": 0, "EXCLUDE": 1},
    "TracingPolicyState": _numbered("TP_STATE", "UNKNOWN ENABLED DISABLED LOAD_ERROR ERROR LOADING UNLOADING"),
    "TracingPolicyMode": _numbered("TP_MODE", "UNKNOWN ENFORCE MONITOR MONITOR_ONLY"),
    "ConfigFlag": {"CONFIG_FLAG_LOG_LEVEL": 0, "CONFIG_FLAG_DUMP_PROCESS_CACHE": 1},
    "LogLevel": _numbered("LOG_LEVEL", "PANIC FATAL ERROR WARN INFO DEBUG TRACE"),
}  # fmt: skip

_WHO: Final = (("process", 1, "Process"), ("parent", 2, "Process"))
_NAMED_POLICY: Final = (("name", 1, "string"), ("namespace", 2, "string"))
_NAMESPACES: Final = ("uts", "ipc", "mnt", "pid", "pid_for_children", "net", "time", "time_for_children", "cgroup", "user")

_PROCESSES: Final[dict[str, Fields]] = {
    "Image": (("id", 1, "string"), ("name", 2, "string")),
    "SecurityContext": (("privileged", 1, "bool"),),
    "Container": (
        ("id", 1, "string"), ("name", 2, "string"), ("image", 3, "Image"), ("start_time", 4, "Timestamp"), ("pid", 5, "UInt32Value"),
        ("maybe_exec_probe", 13, "bool"), ("security_context", 14, "SecurityContext"),
    ),
    "Pod": (
        ("namespace", 1, "string"), ("name", 2, "string"), ("uid", 3, "string"), ("container", 4, "Container"), ("pod_labels", 5, "map"),
        ("workload", 6, "string"), ("workload_kind", 7, "string"), ("pod_annotations", 8, "map"),
    ),
    "Capabilities": tuple((name, n, "*CapabilitiesType") for n, name in enumerate(("permitted", "effective", "inheritable"), 1)),
    "Namespace": (("inum", 1, "uint32"), ("is_host", 2, "bool")),
    "Namespaces": tuple((name, number, "Namespace") for number, name in enumerate(_NAMESPACES, 1)),
    "UserNamespace": (("level", 1, "Int32Value"), ("uid", 2, "UInt32Value"), ("gid", 3, "UInt32Value"), ("ns", 4, "Namespace")),
    "ProcessCredentials": (
        *((name, n, "UInt32Value") for n, name in enumerate(("uid", "gid", "euid", "egid", "suid", "sgid", "fsuid", "fsgid"), 1)),
        ("securebits", 9, "*SecureBitsType"), ("caps", 10, "Capabilities"), ("user_ns", 11, "UserNamespace"),
    ),
    "InodeProperties": (("number", 1, "uint64"), ("links", 2, "UInt32Value")),
    "FileProperties": (("inode", 1, "InodeProperties"), ("path", 2, "string")),
    "BinaryProperties": (
        ("setuid", 1, "UInt32Value"), ("setgid", 2, "UInt32Value"), ("privileges_changed", 3, "*ProcessPrivilegesChanged"),
        ("file", 4, "FileProperties"),
    ),
    "UserRecord": (("name", 1, "string"),),
    "EnvVar": (("Key", 1, "string"), ("Value", 2, "string")),
    "Process": (
        ("exec_id", 1, "string"), ("pid", 2, "UInt32Value"), ("uid", 3, "UInt32Value"), ("cwd", 4, "string"), ("binary", 5, "string"),
        ("arguments", 6, "string"), ("flags", 7, "string"), ("start_time", 8, "Timestamp"), ("auid", 9, "UInt32Value"), ("pod", 10, "Pod"),
        ("docker", 11, "string"), ("parent_exec_id", 12, "string"), ("refcnt", 13, "uint32"), ("cap", 14, "Capabilities"),
        ("ns", 15, "Namespaces"), ("tid", 16, "UInt32Value"), ("process_credentials", 17, "ProcessCredentials"),
        ("binary_properties", 18, "BinaryProperties"), ("user", 19, "UserRecord"), ("in_init_tree", 20, "BoolValue"),
        ("environment_variables", 21, "*EnvVar"),
    ),
}  # fmt: skip

_ARGUMENTS: Final[dict[str, Fields]] = {
    "KprobeSock": (
        ("family", 1, "string"), ("type", 2, "string"), ("protocol", 3, "string"), ("mark", 4, "uint32"), ("priority", 5, "uint32"),
        ("saddr", 6, "string"), ("daddr", 7, "string"), ("sport", 8, "uint32"), ("dport", 9, "uint32"), ("cookie", 10, "uint64"),
        ("state", 11, "string"),
    ),
    "KprobeSockaddr": (("family", 1, "string"), ("addr", 2, "string"), ("port", 3, "uint32")),
    "KprobeNetDev": (("name", 1, "string"),),
    "KprobeSkb": (
        ("hash", 1, "uint32"), ("len", 2, "uint32"), ("priority", 3, "uint32"), ("mark", 4, "uint32"), ("saddr", 5, "string"),
        ("daddr", 6, "string"), ("sport", 7, "uint32"), ("dport", 8, "uint32"), ("proto", 9, "uint32"), ("protocol", 12, "string"),
        ("family", 13, "string"),
    ),
    "KprobeBpfProgram": (("ProgType", 1, "string"), ("InsnCnt", 2, "uint32"), ("ProgName", 3, "string")),
    "KprobePerfEvent": (("KprobeFunc", 1, "string"), ("Type", 2, "string"), ("Config", 3, "uint64"), ("ProbeOffset", 4, "uint64")),
    "KprobeBpfMap": (
        ("MapType", 1, "string"), ("KeySize", 2, "uint32"), ("ValueSize", 3, "uint32"), ("MaxEntries", 4, "uint32"),
        ("MapName", 5, "string"),
    ),
    "KprobePath": (("mount", 1, "string"), ("path", 2, "string"), ("flags", 3, "string"), ("permission", 4, "string")),
    "KprobeFile": (("mount", 1, "string"), ("path", 2, "string"), ("flags", 3, "string"), ("permission", 4, "string")),
    "KprobeTruncatedBytes": (("bytes_arg", 1, "bytes"), ("orig_size", 2, "uint64")),
    "KprobeLinuxBinprm": (("path", 1, "string"), ("flags", 2, "string"), ("permission", 3, "string")),
    "KprobeCapability": (("value", 1, "Int32Value"), ("name", 2, "string")),
    "KernelModule": (("name", 1, "string"), ("signature_ok", 2, "BoolValue")),
    "SyscallId": (("id", 1, "uint32"), ("abi", 2, "string")),
    "KprobeArgument": (
        ("string_arg", 1, "?string"), ("int_arg", 2, "?int32"), ("skb_arg", 3, "KprobeSkb"), ("size_arg", 4, "?uint64"),
        ("bytes_arg", 5, "?bytes"),
        ("path_arg", 6, "KprobePath"), ("file_arg", 7, "KprobeFile"), ("truncated_bytes_arg", 8, "KprobeTruncatedBytes"),
        ("sock_arg", 9, "KprobeSock"), ("long_arg", 11, "?int64"), ("bpf_attr_arg", 12, "KprobeBpfProgram"),
        ("perf_event_arg", 13, "KprobePerfEvent"), ("bpf_map_arg", 14, "KprobeBpfMap"), ("uint_arg", 15, "?uint32"),
        ("capability_arg", 17, "KprobeCapability"),
        ("label", 18, "string"), ("process_credentials_arg", 19, "ProcessCredentials"), ("user_ns_arg", 20, "UserNamespace"),
        ("module_arg", 21, "KernelModule"), ("kernel_cap_t_arg", 22, "?string"),
        ("cap_inheritable_arg", 23, "?string"), ("cap_permitted_arg", 24, "?string"), ("cap_effective_arg", 25, "?string"),
        ("linux_binprm_arg", 26, "KprobeLinuxBinprm"), ("net_dev_arg", 27, "KprobeNetDev"),
        ("bpf_cmd_arg", 28, "?BpfCmd"), ("syscall_id", 29, "SyscallId"), ("sockaddr_arg", 30, "KprobeSockaddr"),
        ("bpf_prog_arg", 31, "KprobeBpfProgram"),
    ),
}  # fmt: skip

_EVENTS: Final[dict[str, Fields]] = {
    "ProcessExec": (*_WHO, ("ancestors", 3, "*Process")),
    "ProcessExit": (*_WHO, ("signal", 3, "string"), ("status", 4, "uint32"), ("time", 5, "Timestamp"), ("ancestors", 6, "*Process")),
    "ProcessKprobe": (
        *_WHO, ("function_name", 3, "string"), ("args", 4, "*KprobeArgument"), ("return", 5, "KprobeArgument"),
        ("action", 6, "KprobeAction"),
        ("policy_name", 8, "string"), ("return_action", 9, "KprobeAction"), ("message", 10, "string"), ("tags", 11, "*string"),
        ("ancestors", 13, "*Process"), ("data", 14, "*KprobeArgument"),
    ),
    "ProcessTracepoint": (
        *_WHO, ("subsys", 4, "string"), ("event", 5, "string"), ("args", 6, "*KprobeArgument"), ("policy_name", 7, "string"),
        ("action", 8, "KprobeAction"), ("message", 9, "string"), ("tags", 10, "*string"), ("ancestors", 11, "*Process"),
    ),
    "ProcessUprobe": (
        *_WHO, ("path", 3, "string"), ("symbol", 4, "string"), ("policy_name", 5, "string"), ("message", 6, "string"),
        ("args", 7, "*KprobeArgument"), ("tags", 8, "*string"), ("ancestors", 9, "*Process"), ("offset", 10, "uint64"),
        ("ref_ctr_offset", 11, "uint64"), ("action", 12, "KprobeAction"), ("data", 13, "*KprobeArgument"),
    ),
    "ProcessUsdt": (
        *_WHO, ("path", 3, "string"), ("provider", 4, "string"), ("name", 5, "string"), ("policy_name", 6, "string"),
        ("message", 7, "string"), ("args", 8, "*KprobeArgument"), ("tags", 9, "*string"), ("ancestors", 10, "*Process"),
        ("action", 11, "KprobeAction"), ("flags", 12, "string"),
    ),
    "ProcessLsm": (
        *_WHO, ("function_name", 3, "string"), ("policy_name", 5, "string"), ("message", 6, "string"), ("args", 7, "*KprobeArgument"),
        ("action", 8, "KprobeAction"), ("tags", 9, "*string"), ("ancestors", 10, "*Process"), ("ima_hash", 11, "string"),
    ),
    "ProcessLoader": (
        ("process", 1, "Process"), ("path", 2, "string"), ("buildid", 3, "bytes"), ("parent", 4, "Process"), ("ancestors", 5, "*Process"),
    ),
    "ProcessThrottle": (("type", 1, "ThrottleType"), ("cgroup", 2, "string")),
    "RateLimitInfo": (("number_of_dropped_process_events", 1, "uint64"),),
    "AggregationInfo": (("count", 1, "uint64"),),
    "GetEventsResponse": (
        *((name.lower(), EVENTS[name], kind) for name, kind in {
            "PROCESS_EXEC": "ProcessExec", "PROCESS_EXIT": "ProcessExit", "PROCESS_KPROBE": "ProcessKprobe",
            "PROCESS_TRACEPOINT": "ProcessTracepoint", "PROCESS_LOADER": "ProcessLoader", "PROCESS_UPROBE": "ProcessUprobe",
            "PROCESS_THROTTLE": "ProcessThrottle", "PROCESS_LSM": "ProcessLsm", "PROCESS_USDT": "ProcessUsdt",
            "RATE_LIMIT_INFO": "RateLimitInfo",
        }.items()),
        ("node_name", 1000, "string"), ("time", 1001, "Timestamp"), ("aggregation_info", 1002, "AggregationInfo"),
        ("cluster_name", 1003, "string"), ("node_labels", 1004, "map"),
    ),
}  # fmt: skip

_FILTERS: Final[dict[str, Fields]] = {
    "CapFilterSet": tuple((name, n, "*CapabilitiesType") for n, name in enumerate(("any", "all", "exactly", "none"), 1)),
    "CapFilter": tuple((name, number, "CapFilterSet") for number, name in enumerate(("permitted", "effective", "inheritable"), 1)),
    "Filter": (
        ("binary_regex", 1, "*string"), ("namespace", 2, "*string"), ("health_check", 3, "BoolValue"), ("pid", 4, "*uint32"),
        ("pid_set", 5, "*uint32"), ("event_set", 6, "*EventType"), ("pod_regex", 7, "*string"), ("arguments_regex", 8, "*string"),
        ("labels", 9, "*string"), ("policy_names", 10, "*string"), ("capabilities", 11, "CapFilter"),
        ("parent_binary_regex", 12, "*string"), ("cel_expression", 13, "*string"),
        ("parent_arguments_regex", 14, "*string"), ("container_id", 15, "*string"),
        ("in_init_tree", 16, "BoolValue"), ("ancestor_binary_regex", 17, "*string"),
    ),
    "FieldFilter": (
        ("event_set", 1, "*EventType"), ("fields", 2, "FieldMask"), ("action", 3, "FieldFilterAction"),
        ("invert_event_set", 4, "BoolValue"),
    ),
    "AggregationOptions": (("window_size", 1, "Duration"), ("channel_buffer_size", 2, "uint64")),
    "GetEventsRequest": (
        ("allow_list", 1, "*Filter"), ("deny_list", 2, "*Filter"), ("aggregation_options", 3, "AggregationOptions"),
        ("field_filters", 4, "*FieldFilter"),
    ),
}  # fmt: skip

_CALLS: Final[dict[str, Fields]] = {
    "GetHealthStatusRequest": (("event_set", 1, "*HealthStatusType"),),
    "HealthStatus": (("event", 1, "HealthStatusType"), ("status", 2, "HealthStatusResult"), ("details", 3, "string")),
    "GetHealthStatusResponse": (("health_status", 1, "*HealthStatus"),),
    "AddTracingPolicyRequest": (("yaml", 1, "string"),),
    "DeleteTracingPolicyRequest": _NAMED_POLICY,
    "EnableTracingPolicyRequest": _NAMED_POLICY,
    "DisableTracingPolicyRequest": _NAMED_POLICY,
    "ConfigureTracingPolicyRequest": (*_NAMED_POLICY, ("enable", 3, "?bool"), ("mode", 4, "?TracingPolicyMode")),
    "TracingPolicyStatus": (
        ("id", 1, "uint64"), ("name", 2, "string"), ("namespace", 3, "string"), ("info", 4, "string"), ("sensors", 5, "*string"),
        ("enabled", 6, "bool"), ("filter_id", 7, "uint64"), ("error", 8, "string"), ("state", 9, "TracingPolicyState"),
        ("kernel_memory_bytes", 10, "uint64"), ("mode", 11, "TracingPolicyMode"),
    ),
    "ListTracingPoliciesResponse": (("policies", 1, "*TracingPolicyStatus"),),
    "SensorStatus": (("name", 1, "string"), ("enabled", 2, "bool"), ("collection", 3, "string")),
    "ListSensorsResponse": (("sensors", 1, "*SensorStatus"),),
    "GetVersionResponse": (("version", 1, "string"),),
    "BuildInfo": (("go_version", 1, "string"), ("commit", 2, "string"), ("time", 3, "string"), ("modified", 4, "string")),
    "GetInfoResponse": (("version", 1, "string"), ("name", 2, "string"), ("build", 5, "BuildInfo")),
    "CreateContainer": (
        ("cgroupsPath", 1, "string"), ("rootDir", 2, "string"), ("annotations", 3, "map"), ("containerName", 4, "string"),
        ("containerID", 5, "string"), ("podName", 6, "string"), ("podUID", 7, "string"), ("podNamespace", 8, "string"),
        ("containerImage", 9, "string"),
    ),
    "RuntimeHookRequest": (("createContainer", 1, "CreateContainer"),),
    "GetDebugRequest": (("flag", 1, "ConfigFlag"),),
    "GetDebugResponse": (("flag", 1, "ConfigFlag"), ("level", 2, "?LogLevel")),
    "Empty": (),
}  # fmt: skip
"""`Empty` stands for every request and response without fields; BuildInfo is GetInfoResponse's own, which is the same on the wire."""

MESSAGES: Final[dict[str, Fields]] = {**_PROCESSES, **_ARGUMENTS, **_EVENTS, **_FILTERS, **_CALLS}
METHODS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "GetEvents": ("GetEventsRequest", "GetEventsResponse"),
        "GetHealth": ("GetHealthStatusRequest", "GetHealthStatusResponse"),
        "AddTracingPolicy": ("AddTracingPolicyRequest", "Empty"),
        "DeleteTracingPolicy": ("DeleteTracingPolicyRequest", "Empty"),
        "ListTracingPolicies": ("Empty", "ListTracingPoliciesResponse"),
        "ConfigureTracingPolicy": ("ConfigureTracingPolicyRequest", "Empty"),
        "EnableTracingPolicy": ("EnableTracingPolicyRequest", "Empty"),
        "DisableTracingPolicy": ("DisableTracingPolicyRequest", "Empty"),
        "ListSensors": ("Empty", "ListSensorsResponse"),
        "GetVersion": ("Empty", "GetVersionResponse"),
        "GetInfo": ("Empty", "GetInfoResponse"),
        "RuntimeHook": ("RuntimeHookRequest", "Empty"),
        "GetDebug": ("GetDebugRequest", "GetDebugResponse"),
    }
)
"""What is answered: request and response. The library refuses all others (UNIMPLEMENTED)."""


@lru_cache(maxsize=1)
def messages() -> dict[str, Any]:
    """The classes of the messages. KernelError where protobuf is not installed."""
    return classes(PACKAGE, MESSAGES, ENUMS)

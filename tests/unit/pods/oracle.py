# SPDX-License-Identifier: Apache-2.0
"""The Pod Security Standards a second time, on plain objects, each control one expression: what the package's own are held against."""

from __future__ import annotations

from typing import Any

SAFE_CAPABILITIES = {
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP",
    "SETUID", "SYS_CHROOT",
}  # fmt: skip
SAFE_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_notsent_lowat", "net.ipv4.tcp_rmem", "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
}  # fmt: skip
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"}


def get(value: Any, *keys: str) -> Any:
    for key in keys:
        value = (value or {}).get(key)
    return value


def level(pod: dict[str, Any]) -> str:
    """The level that a pod (metadata and spec) meets."""
    if not baseline(pod):
        return "privileged"
    return "restricted" if restricted(pod) else "baseline"


def containers(spec: Any) -> list[Any]:
    return [one for key in ("containers", "initContainers", "ephemeralContainers") for one in spec.get(key) or []]


def baseline(pod: dict[str, Any]) -> bool:
    spec = pod["spec"]
    all_of = containers(spec)
    contexts = [spec.get("securityContext") or {}, *(one.get("securityContext") or {} for one in all_of)]
    own = contexts[1:]
    hosts = [
        get(one, *way, handler, "host")
        for one in all_of
        for way in (("livenessProbe",), ("readinessProbe",), ("startupProbe",), ("lifecycle", "preStop"), ("lifecycle", "postStart"))
        for handler in ("httpGet", "tcpSocket")
    ]
    notes = get(pod, "metadata", "annotations") or {}
    apparmor = [text for key, text in notes.items() if key.startswith("container.apparmor.security.beta.kubernetes.io/")]
    return (
        not any(get(context, "windowsOptions", "hostProcess") for context in contexts)
        and not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
        and not any(context.get("privileged") for context in own)
        and {name for context in own for name in get(context, "capabilities", "add") or []} <= SAFE_CAPABILITIES
        and not any(volume.get("hostPath") is not None for volume in spec.get("volumes") or [])
        and not any(port.get("hostPort") for one in all_of for port in one.get("ports") or [])
        and not any(hosts)
        and all(get(context, "appArmorProfile", "type") in (None, "RuntimeDefault", "Localhost") for context in contexts)
        and all(text in ("", "runtime/default") or text.startswith("localhost/") for text in apparmor)
        and all((get(context, "seLinuxOptions", "type") or "container_t").startswith("container_") for context in contexts)
        and not any(get(context, "seLinuxOptions", key) for context in contexts for key in ("user", "role"))
        and (spec.get("hostUsers") is False or all(context.get("procMount") in (None, "Default") for context in own))
        and all(get(context, "seccompProfile", "type") in (None, "RuntimeDefault", "Localhost") for context in contexts)
        and {one["name"] for one in get(spec, "securityContext", "sysctls") or []} <= SAFE_SYSCTLS
    )


def restricted(pod: dict[str, Any]) -> bool:
    spec = pod["spec"]
    outer = spec.get("securityContext") or {}
    own = [one.get("securityContext") or {} for one in containers(spec)]
    linux = get(spec, "os", "name") != "windows"
    mapped = spec.get("hostUsers") is False
    # Without a type it becomes an emptyDir.
    volumes = [{key for key, value in volume.items() if value is not None} for volume in spec.get("volumes") or []]

    def over(context: Any, key: str) -> Any:
        return outer.get(key) if context.get(key) is None else context[key]

    return (
        all(kinds <= {"name"} or kinds & VOLUMES for kinds in volumes)
        and (mapped or (outer.get("runAsNonRoot") is not False and all(over(context, "runAsNonRoot") for context in own)))
        and (mapped or 0 not in [outer.get("runAsUser"), *(context.get("runAsUser") for context in own)])
        and all(context.get("procMount") in (None, "Default") for context in own)
        and (
            not linux
            or (
                all(context.get("allowPrivilegeEscalation") is False for context in own)
                and all(over(context, "seccompProfile") for context in own)
                and all("ALL" in (get(context, "capabilities", "drop") or []) for context in own)
                and {name for context in own for name in get(context, "capabilities", "add") or []} <= {"NET_BIND_SERVICE"}
            )
        )
    )

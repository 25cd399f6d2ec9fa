# SPDX-License-Identifier: Apache-2.0
"""A workload in, what breaks the Pod Security Standards out: each control with its official name.

Called by `judge` and `harden`. The standards are those of policy version 1.37, which `latest` is to Kubernetes 1.37: the page "Pod Security
Standards" of its documentation and, where that page is behind, the checks of the admission plugin (k8s.io/pod-security-admission/policy).
The page lacks the volume type `image` (1.33), the sysctls of 1.32 and 1.37, and what pods with users of their own are allowed (1.35).

A control yields a Break for each field that breaks it, with what is wrong with it: missing, or a value. Windows pods are exempt from three
controls of `restricted`; pods with `hostUsers: false` from two, and at `baseline` from one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from bpfence.pods.findings import LEVELS, Level
from bpfence.pods.kinds import CONTAINER_APPARMOR
from bpfence.pods.manifest import Container, Field, Workload
from bpfence.words import quoted

BASELINE_CAPABILITIES: Final = frozenset({
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP",
    "SETUID", "SYS_CHROOT",
})  # fmt: skip
RESTRICTED_CAPABILITIES: Final = frozenset({"NET_BIND_SERVICE"})
SELINUX_TYPES: Final = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
SAFE_SYSCTLS: Final = frozenset({
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_local_reserved_ports", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_notsent_lowat", "net.ipv4.tcp_rmem", "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_syncookies", "net.ipv4.tcp_wmem",
})  # fmt: skip
VOLUME_TYPES: Final = frozenset({
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
})  # fmt: skip
CONFINING: Final = ("RuntimeDefault", "Localhost")
PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")
HOOKS: Final = ("postStart", "preStop")

# Why each of the worst is bad: what whoever has it can do to the node.
DANGEROUS: Final = {
    "ALL": "that is every capability: the container is all but privileged",
    "SYS_ADMIN": "mounts, namespaces and much else: nearly all of root's power over the node",
    "SYS_MODULE": "whoever loads a module owns the kernel",
    "SYS_RAWIO": "raw access to memory and devices",
    "SYS_PTRACE": "reads and changes other processes, the node's too with hostPID",
    "DAC_READ_SEARCH": "opens any file of the node by its handle",
    "BPF": "loads programs into the kernel",
    "PERFMON": "reads what the kernel and other processes do",
    "NET_ADMIN": "changes routes, addresses and firewalls of its network namespace",
    "NET_RAW": "forges packets: other pods' addresses can be taken",
    "SYS_BOOT": "restarts the node",
    "SYS_TIME": "sets the node's clock",
    "MAC_ADMIN": "changes what AppArmor and SELinux deny",
    "MAC_OVERRIDE": "goes past what AppArmor and SELinux deny",
    "SYSLOG": "reads the kernel's messages and addresses",
}  # fmt: skip


class Break(NamedTuple):
    """A field that breaks a control. `missing`: a demand that nothing meets, so that nothing which was written need be changed."""

    control: Control
    field: Field
    what: str
    why: str = ""
    hint: str = ""
    container: Container | None = None
    missing: bool = False
    code: str = ""


class Control(NamedTuple):
    """One control. `name` is the official one; `code` that of its findings."""

    name: str
    level: Level
    code: str
    breaks: Callable[[Workload], Iterator[Break]]


def breaks(workload: Workload, level: Level) -> Iterator[Break]:
    """Everything in a workload that breaks a level, and those below it."""
    for control in CONTROLS:
        if LEVELS.index(control.level) <= LEVELS.index(level):
            yield from control.breaks(workload)


def met(workload: Workload) -> Level:
    """The highest level that a workload meets."""
    reached: Level = "privileged"
    for level in LEVELS[1:]:
        if any(True for control in CONTROLS if control.level == level for _ in control.breaks(workload)):
            break
        reached = level
    return reached


def _contexts(workload: Workload) -> Iterator[tuple[Field, Container | None, str]]:
    """The security contexts that are there: the pod's and each container's."""
    yield workload.context, None, "the pod"
    for container in workload.containers:
        yield container.context, container, container.title


# ---- baseline ----


def _host_process(workload: Workload) -> Iterator[Break]:
    for context, container, who in _contexts(workload):
        field = context.at("windowsOptions", "hostProcess")
        if field.true:
            why = "a HostProcess container has the node's own processes and files"
            yield Break(HOST_PROCESS, field, f"{who} is a HostProcess container", why, "remove hostProcess", container)


_NAMESPACES: Final = {
    "hostNetwork": "it listens on the node's addresses, reaches what listens on the node's loopback, and no network policy holds for it",
    "hostPID": "it sees the node's processes, their environments and, with SYS_PTRACE or as root, their memory and files",
    "hostIPC": "it shares the node's shared memory and message queues",
}


def _host_namespaces(workload: Workload) -> Iterator[Break]:
    for key, why in _NAMESPACES.items():
        field = workload.spec.get(key)
        if field.true:
            yield Break(HOST_NAMESPACES, field, f"{key} is true", why, f"remove {key} where the program can do without")


def _privileged(workload: Workload) -> Iterator[Break]:
    for container in workload.containers:
        field = container.context.get("privileged")
        if field.true:
            why = "every capability and device of the node; seccomp and AppArmor profiles and dropped capabilities have no effect"
            hint = "remove it, and add the one capability or device that is needed"
            yield Break(PRIVILEGED, field, f"{container.title} is privileged", why, hint, container)


def _added(workload: Workload, allowed: frozenset[str]) -> Iterator[tuple[Container, Field, str]]:
    for container in workload.containers:
        for field in container.context.at("capabilities", "add").items():
            name = field.value if isinstance(field.value, str) else ""
            if name not in allowed:
                yield container, field, name


def _capabilities_baseline(workload: Workload) -> Iterator[Break]:
    for container, field, name in _added(workload, BASELINE_CAPABILITIES):
        why = DANGEROUS.get(name.upper().removeprefix("CAP_"), "it is not among those that runtimes give")
        hint = (
            f"write {name[4:]}"
            if name.startswith("CAP_") and name[4:] in BASELINE_CAPABILITIES
            else "remove it where the program can do without"
        )
        yield Break(CAPABILITIES_BASELINE, field, f"{container.title} adds the capability {quoted(name)}", why, hint, container)


def _host_paths(workload: Workload) -> Iterator[Break]:
    for volume in workload.spec.get("volumes").items():
        field = volume.get("hostPath")
        if field.given:
            path, takeover = field.get("path"), host_takeover(field.get("path").text)
            what = f"the volume {quoted(volume.get('name').text)} is {quoted(path.text)} of the node"
            why = takeover or "the pod outlives its isolation there, and depends on the node"
            hint = "use a volume of its own (persistentVolumeClaim, emptyDir, configMap), or a CSI driver"
            yield Break(HOST_PATHS, path if path.given else field, what, why, hint, code="host-takeover" if takeover else "")


# Paths of the node by which it is taken over. Sockets first: a socket is worth more than the directory around it says.
_SOCKETS: Final = (
    "docker.sock", "containerd.sock", "crio.sock", "podman.sock", "cri-dockerd.sock", "dockershim.sock", "buildkitd.sock", "kubelet.sock",
    "nri.sock",
)  # fmt: skip
_TREES: Final = {
    "/proc": "core_pattern, sysrq and every process's root and memory",
    "/sys": "cgroups' release_agent, devices, and kernel interfaces",
    "/dev": "raw disks and memory",
    "/etc": "users, cron jobs, services, and the kubelet's and the control plane's keys",
    "/root": "root's keys and start files",
    "/boot": "the kernel that is started next",
    "/usr": "the node's programs", "/bin": "the node's programs", "/sbin": "the node's programs", "/lib": "the node's libraries",
    "/lib64": "the node's libraries", "/opt": "the network plugins that the kubelet runs as root",
    "/home": "users' keys and start files",
    "/var/lib/kubelet": "every pod's secrets and tokens, and the kubelet's own key",
    "/var/lib/etcd": "the cluster's whole state, secrets too",
    "/var/lib/containerd": "the files of all containers and images", "/var/lib/docker": "the files of all containers and images",
    "/var/lib/containers": "the files of all containers and images", "/var/lib/rancher": "the cluster's state and keys",
    "/var/spool/cron": "cron jobs, which run as root",
    "/run": "the runtime's socket", "/opt/cni": "the network plugins that the kubelet runs as root",
    "/run/containerd": "the runtime's socket", "/run/crio": "the runtime's socket", "/run/podman": "the runtime's socket",
    "/run/docker": "the runtime's socket",
}  # fmt: skip
_WHOLE: Final = frozenset({"/run", "/opt", "/dev", "/home"})
"""Of these only the whole directory: what is below may be anything."""
_DISKS: Final = ("sd", "vd", "hd", "xvd", "nvme", "dm-", "mapper", "mem", "kmem", "port", "loop")
_HARMLESS: Final = (
    "/etc/localtime", "/etc/timezone", "/usr/share/zoneinfo", "/etc/ssl/certs", "/etc/pki/ca-trust", "/usr/share/ca-certificates",
)  # fmt: skip


def host_takeover(path: str) -> str:
    """Why a path of the node is worse than others; empty where it is not known to be."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    full = "/" + "/".join(parts)
    full = "/run" + full[8:] if full == "/var/run" or full.startswith("/var/run/") else full
    if full == "/":
        return "that is the node's whole file system" if path else ""
    if parts[-1] in _SOCKETS:
        return "whoever can speak to the runtime starts a privileged container: that is root on the node"
    if any(full == harmless or full.startswith(harmless + "/") for harmless in _HARMLESS):
        return ""
    below = [tree for tree in _TREES if full == tree or (full.startswith(tree + "/") and tree not in _WHOLE)]
    if parts[0] == "dev" and parts[1:] and parts[1].startswith(_DISKS):
        return _TREES["/dev"]
    above = [tree for tree in _TREES if tree.startswith(full + "/")]
    if below:
        return _TREES[max(below, key=len)]
    return f"{above[0]} is in it: {_TREES[above[0]]}" if above else ""


def _host_ports(workload: Workload) -> Iterator[Break]:
    for container in workload.containers:
        for port in container.field.get("ports").items():
            field = port.get("hostPort")
            if field.given and field.value != 0:
                what = f"{container.title} takes port {quoted(str(field.value))} of the node"
                why = "it is reached past Services and network policies, and takes the port from others"
                yield Break(HOST_PORTS, field, what, why, "use a Service", container)


def _host_probes(workload: Workload) -> Iterator[Break]:
    for container in workload.containers:
        handlers = [container.field.get(probe) for probe in PROBES] + [container.field.at("lifecycle", hook) for hook in HOOKS]
        for field in (handler.at(kind, "host") for handler in handlers for kind in ("httpGet", "tcpSocket")):
            if field.given and field.value != "":
                what = f"a probe or hook of {container.title} goes to the host {quoted(str(field.value))}"
                why = "the kubelet connects to it, from the node: to where the pod could not"
                yield Break(HOST_PROBES, field, what, why, "remove host: probes go to the pod", container)


def _apparmor(workload: Workload) -> Iterator[Break]:
    for context, container, who in _contexts(workload):
        profile = context.get("appArmorProfile")
        if profile.given and profile.get("type").text not in CONFINING:
            what = f"{who} has the AppArmor profile {quoted(profile.get('type').text)}"
            yield Break(APPARMOR, _innermost(profile, "type"), what, "AppArmor denies it nothing", "use RuntimeDefault", container)
    for name, value in workload.annotations.pairs():
        key = name.text
        confined = value.text == "runtime/default" or value.text.startswith("localhost/")
        if key.startswith(CONTAINER_APPARMOR) and value.text and not confined:
            what = f"container {quoted(key[len(CONTAINER_APPARMOR) :])} has the AppArmor profile {quoted(value.text)}"
            hint = "remove the annotation"
            yield Break(APPARMOR, value, what, "AppArmor denies it nothing", hint)


def _selinux(workload: Workload) -> Iterator[Break]:
    for context, container, who in _contexts(workload):
        options = context.get("seLinuxOptions")
        for key in ("type", "user", "role"):
            field = options.get(key)
            if field.given and (field.value not in SELINUX_TYPES if key == "type" else field.value != ""):
                what = f"{who} has the SELinux {key} {quoted(str(field.value))}"
                why = "the policy of containers may not hold for it"
                yield Break(SELINUX, field, what, why, "remove it, or for a type use container_t", container)


def _proc_mounts(workload: Workload) -> Iterator[tuple[Container, Field]]:
    for container in workload.containers:
        field = container.context.get("procMount")
        if field.given and field.value != "Default":
            yield container, field


def _proc_mount_baseline(workload: Workload) -> Iterator[Break]:
    for container, field in _proc_mounts(workload):
        if not workload.user_namespace:
            what = f"procMount of {container.title} is {quoted(str(field.value))}"
            why = "what the runtime hides of /proc, such as /proc/kcore and /proc/sys, is there"
            yield Break(PROC_BASELINE, field, what, why, "remove it, or give the pod users of its own: hostUsers: false", container)


def _innermost(field: Field, key: str) -> Field:
    """The key's field where it is there, else the field itself."""
    return field.get(key) if field.get(key).node is not None else field


def _seccomp_baseline(workload: Workload) -> Iterator[Break]:
    for context, container, who in _contexts(workload):
        profile = context.get("seccompProfile")
        if profile.given and profile.get("type").text not in CONFINING:
            what = f"{who} has the seccomp profile {quoted(profile.get('type').text)}"
            why = "every system call of the kernel is open to it"
            yield Break(SECCOMP_BASELINE, _innermost(profile, "type"), what, why, "use RuntimeDefault, or a Localhost profile", container)


def _sysctls(workload: Workload) -> Iterator[Break]:
    for sysctl in workload.context.get("sysctls").items():
        field = sysctl.get("name")
        # Slashes between the parts are sysctl(8)'s other way of writing; the admission plugin compares the text as it is.
        if field.text not in SAFE_SYSCTLS:
            what = f"the pod sets the sysctl {quoted(field.text)}"
            why = "it may change the node, or other pods on it; kubelets refuse it unless they are told otherwise"
            yield Break(SYSCTLS, field, what, why, "set it on the node, or remove it")


# ---- restricted ----


def _volumes(workload: Workload) -> Iterator[Break]:
    for volume in workload.spec.get("volumes").items():
        kinds = [name.text for name, field in volume.pairs() if name.text != "name" and field.given]
        if "hostPath" in kinds or not kinds or not VOLUME_TYPES.isdisjoint(kinds):
            continue  # of a hostPath the control of baseline tells; one without a type is made an emptyDir
        what = f"the volume {quoted(volume.get('name').text)} is of the type {quoted(kinds[0])}"
        hint = "use a persistentVolumeClaim"
        yield Break(VOLUMES, volume.get(kinds[0]), what, "its driver's mounts are made by the node's root", hint)


def _escalation(workload: Workload) -> Iterator[Break]:
    for container in () if workload.windows else workload.containers:
        field = container.context.get("allowPrivilegeEscalation")
        if not field.false:
            what = f"{container.title} may gain privileges: allowPrivilegeEscalation is {'true' if field.true else 'not false'}"
            why = "set-user-ID programs and file capabilities have their effect in it"
            hint = "securityContext: {allowPrivilegeEscalation: false}"
            yield Break(ESCALATION, field, what, why, hint, container, not field.given)


def _non_root(workload: Workload) -> Iterator[Break]:
    if workload.user_namespace:
        return
    pod = workload.context.get("runAsNonRoot")
    why = "root in a container is root on the node, but for what the runtime takes from it"
    hint = "set runAsNonRoot: true in the pod's securityContext; the image, or runAsUser, must say another user"
    hint += "; or give the pod users of its own: hostUsers: false"
    if pod.false:
        yield Break(NON_ROOT, pod, "the pod allows root: runAsNonRoot is false", why, hint)
    for container in workload.containers:
        field = container.context.get("runAsNonRoot")
        if field.false or (not field.given and not pod.given) or (field.given and not isinstance(field.value, bool)):
            what = f"{container.title} may run as root: runAsNonRoot is {'false' if field.false else 'not true'}"
            yield Break(NON_ROOT, field, what, why, hint, container, not field.given)


def _root_user(workload: Workload) -> Iterator[Break]:
    if workload.user_namespace:
        return
    for context, container, who in _contexts(workload):
        field = context.get("runAsUser")
        if field.value == 0 and not isinstance(field.value, bool):
            hint = "use the user that the image was made for, or give the pod users of its own: hostUsers: false"
            yield Break(ROOT_USER, field, f"{who} runs as root: runAsUser is 0", "root in a container is root on the node", hint, container)


def _seccomp_restricted(workload: Workload) -> Iterator[Break]:
    pod = workload.context.get("seccompProfile")
    if workload.windows or pod.given:
        return  # what it says is for the control of baseline
    for container in workload.containers:
        field = container.context.get("seccompProfile")
        if not field.given:
            what = f"{container.title} has no seccomp profile"
            why = "unless the kubelet has seccompDefault, every system call of the kernel is open to it"
            hint = "in the pod's securityContext: seccompProfile: {type: RuntimeDefault}"
            yield Break(SECCOMP_RESTRICTED, field, what, why, hint, container, missing=True)


def _capabilities_restricted(workload: Workload) -> Iterator[Break]:
    if workload.windows:
        return
    for container in workload.containers:
        drop = container.context.at("capabilities", "drop")
        if all(field.value != "ALL" for field in drop.items()):
            what = f"{container.title} does not drop all capabilities"
            hint = 'securityContext: {capabilities: {drop: ["ALL"]}}; add what is needed one by one'
            yield Break(CAPABILITIES_RESTRICTED, drop, what, "it keeps what the runtime gives", hint, container, missing=True)
    for container, field, name in _added(workload, RESTRICTED_CAPABILITIES):
        if name in BASELINE_CAPABILITIES:
            what = f"{container.title} adds the capability {quoted(name)}"
            hint = "remove it where the program can do without: only NET_BIND_SERVICE may be added"
            yield Break(CAPABILITIES_RESTRICTED, field, what, "", hint, container, code="capability-added")


def _proc_mount_restricted(workload: Workload) -> Iterator[Break]:
    for container, field in _proc_mounts(workload):
        if workload.user_namespace:
            what = f"procMount of {container.title} is {quoted(str(field.value))}"
            yield Break(PROC_RESTRICTED, field, what, "what the runtime hides of /proc is there", "remove it", container)


HOST_PROCESS: Final = Control("HostProcess", "baseline", "host-process", _host_process)
HOST_NAMESPACES: Final = Control("Host Namespaces", "baseline", "host-namespace", _host_namespaces)
PRIVILEGED: Final = Control("Privileged Containers", "baseline", "privileged", _privileged)
CAPABILITIES_BASELINE: Final = Control("Capabilities", "baseline", "capability-added", _capabilities_baseline)
HOST_PATHS: Final = Control("HostPath Volumes", "baseline", "host-path", _host_paths)
HOST_PORTS: Final = Control("Host Ports", "baseline", "host-port", _host_ports)
HOST_PROBES: Final = Control("Host Probes / Lifecycle Hooks", "baseline", "host-probe", _host_probes)
APPARMOR: Final = Control("AppArmor", "baseline", "apparmor-off", _apparmor)
SELINUX: Final = Control("SELinux", "baseline", "selinux-options", _selinux)
PROC_BASELINE: Final = Control("/proc Mount Type", "baseline", "proc-mount", _proc_mount_baseline)
SECCOMP_BASELINE: Final = Control("Seccomp", "baseline", "seccomp-off", _seccomp_baseline)
SYSCTLS: Final = Control("Sysctls", "baseline", "sysctl", _sysctls)
VOLUMES: Final = Control("Volume Types", "restricted", "volume-type", _volumes)
ESCALATION: Final = Control("Privilege Escalation", "restricted", "privilege-escalation", _escalation)
NON_ROOT: Final = Control("Running as Non-root", "restricted", "run-as-root", _non_root)
ROOT_USER: Final = Control("Running as Non-root user", "restricted", "root-user", _root_user)
SECCOMP_RESTRICTED: Final = Control("Seccomp", "restricted", "seccomp-missing", _seccomp_restricted)
CAPABILITIES_RESTRICTED: Final = Control("Capabilities", "restricted", "capabilities-kept", _capabilities_restricted)
PROC_RESTRICTED: Final = Control("/proc Mount Type", "restricted", "proc-mount", _proc_mount_restricted)

CONTROLS: Final = (
    HOST_PROCESS, HOST_NAMESPACES, PRIVILEGED, CAPABILITIES_BASELINE, HOST_PATHS, HOST_PORTS, HOST_PROBES, APPARMOR, SELINUX, PROC_BASELINE,
    SECCOMP_BASELINE, SYSCTLS, VOLUMES, ESCALATION, NON_ROOT, ROOT_USER, SECCOMP_RESTRICTED, CAPABILITIES_RESTRICTED, PROC_RESTRICTED,
)  # fmt: skip
"""The controls in the order of the documentation."""

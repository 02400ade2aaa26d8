"""The Pod Security Standard "restricted" of Kubernetes 1.34, row by row of its published table."""

from collections.abc import Iterator, Mapping
from typing import Any

Pod = Mapping[str, Any]

_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
_SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_PROFILES = {"RuntimeDefault", "Localhost"}
_APPARMOR = "container.apparmor.security.beta.kubernetes.io/"


def violations(pod: Pod) -> list[str]:
    """What the standard does not allow in a pod or a pod's template, each with the place."""
    spec = pod["spec"]
    context = spec.get("securityContext", {})
    return [*_pod(pod.get("metadata", {}), spec, context), *_containers(spec, context)]


def containers(spec: Pod) -> Iterator[tuple[str, Pod]]:
    """All containers of a pod's specification, with their place."""
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(kind, []):
            yield f"{kind}[{container['name']}]", container


def _pod(metadata: Pod, spec: Pod, context: Pod) -> Iterator[str]:
    yield from (f"{field}: shares a namespace of the host" for field in _HOST if spec.get(field))
    for volume in spec.get("volumes", []):
        yield from (f"volumes[{volume['name']}]: {kind} is not allowed" for kind in volume.keys() - {"name"} - _VOLUMES)
    for sysctl in context.get("sysctls", []):
        if sysctl["name"] not in _SYSCTLS:
            yield f"sysctls: {sysctl['name']} is not safe"
    for key, value in metadata.get("annotations", {}).items():
        if key.startswith(_APPARMOR) and value != "runtime/default" and not value.startswith("localhost/"):
            yield f"annotations: AppArmor {value}"
    yield from _both("securityContext", context)


_HOST = ("hostNetwork", "hostPID", "hostIPC")


def _both(place: str, context: Pod) -> Iterator[str]:
    """Rules that hold for a pod's context and for those of its containers."""
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{place}: hostProcess"
    labels = context.get("seLinuxOptions", {})
    if labels.get("type", "") not in _SELINUX or labels.get("user") or labels.get("role"):
        yield f"{place}: seLinuxOptions"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") not in _PROFILES:
        yield f"{place}: appArmorProfile"
    if context.get("seccompProfile", {}).get("type", "RuntimeDefault") not in _PROFILES:
        yield f"{place}: seccompProfile is unconfined"
    if context.get("runAsUser") == 0:
        yield f"{place}: runAsUser is root"
    if context.get("runAsNonRoot") is False:
        yield f"{place}: runAsNonRoot is false"


def _containers(spec: Pod, pod: Pod) -> Iterator[str]:
    for place, container in containers(spec):
        context = container.get("securityContext", {})
        yield from _both(place, context)
        if context.get("privileged"):
            yield f"{place}: privileged"
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"{place}: allowPrivilegeEscalation is not false"
        capabilities = context.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []):
            yield f"{place}: capabilities are not all dropped"
        if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            yield f"{place}: capabilities are added"
        if not context.get("runAsNonRoot", pod.get("runAsNonRoot")):
            yield f"{place}: runAsNonRoot is not true"
        if "seccompProfile" not in context and "seccompProfile" not in pod:
            yield f"{place}: no seccompProfile"
        if context.get("procMount", "Default") != "Default":
            yield f"{place}: procMount"
        if any(port.get("hostPort") for port in container.get("ports", [])):
            yield f"{place}: hostPort"
        hooks = container.get("lifecycle", {})
        called = [container.get(probe, {}) for probe in ("livenessProbe", "readinessProbe", "startupProbe")]
        called += [hooks.get("postStart", {}), hooks.get("preStop", {})]
        if any(call.get(kind, {}).get("host") for call in called for kind in ("httpGet", "tcpSocket")):
            yield f"{place}: a probe or hook names a host"

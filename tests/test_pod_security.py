"""Pods against the standard "restricted": that each of its rules can fail, and that none of ours does."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.pod_security import violations

GOOD: dict[str, Any] = {
    "metadata": {},
    "spec": {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "initContainers": [
            {
                "name": "first",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
        "containers": [
            {
                "name": "main",
                "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"port": 80}},
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
                },
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    },
}
Change = Callable[[Any, Any], Any]
BAD: dict[str, Change] = {
    "hostNetwork": lambda pod, main: pod.update(hostNetwork=True),
    "hostPID": lambda pod, main: pod.update(hostPID=True),
    "hostIPC": lambda pod, main: pod.update(hostIPC=True),
    "hostPath is not allowed": lambda pod, main: pod["volumes"].append({"name": "etc", "hostPath": {"path": "/etc"}}),
    "nfs is not allowed": lambda pod, main: pod["volumes"].append({"name": "nfs", "nfs": {}}),
    "kernel.msgmax is not safe": lambda pod, main: pod["securityContext"].update(sysctls=[{"name": "kernel.msgmax"}]),
    "hostProcess": lambda pod, main: main["securityContext"].update(windowsOptions={"hostProcess": True}),
    "seLinuxOptions": lambda pod, main: main["securityContext"].update(seLinuxOptions={"type": "spc_t"}),
    "appArmorProfile": lambda pod, main: main["securityContext"].update(appArmorProfile={"type": "Unconfined"}),
    "seccompProfile is unconfined": lambda pod, main: main["securityContext"].update(
        seccompProfile={"type": "Unconfined"}
    ),
    "no seccompProfile": lambda pod, main: pod["securityContext"].pop("seccompProfile"),
    "runAsUser is root": lambda pod, main: main["securityContext"].update(runAsUser=0),
    "runAsNonRoot is false": lambda pod, main: main["securityContext"].update(runAsNonRoot=False),
    "runAsNonRoot is not true": lambda pod, main: pod["securityContext"].pop("runAsNonRoot"),
    "privileged": lambda pod, main: main["securityContext"].update(privileged=True),
    "allowPrivilegeEscalation is not false": lambda pod, main: main["securityContext"].pop("allowPrivilegeEscalation"),
    "capabilities are not all dropped": lambda pod, main: main["securityContext"].update(
        capabilities={"drop": ["NET_RAW"]}
    ),
    "capabilities are added": lambda pod, main: main["securityContext"]["capabilities"].update(add=["SYS_ADMIN"]),
    "procMount": lambda pod, main: main["securityContext"].update(procMount="Unmasked"),
    "hostPort": lambda pod, main: main["ports"][0].update(hostPort=80),
    "a probe or hook names a host": lambda pod, main: main["livenessProbe"]["httpGet"].update(host="10.0.0.1"),
}


@pytest.mark.parametrize("rule", BAD)
def test_each_rule_can_fail(rule: str) -> None:
    pod = copy.deepcopy(GOOD)
    assert violations(pod) == []
    BAD[rule](pod["spec"], pod["spec"]["containers"][0])
    assert rule in "\n".join(violations(pod))


def test_annotations_and_other_containers_are_looked_at_too() -> None:
    pod = copy.deepcopy(GOOD)
    pod["metadata"]["annotations"] = {"container.apparmor.security.beta.kubernetes.io/main": "unconfined"}
    pod["spec"]["initContainers"][0]["securityContext"]["privileged"] = True
    pod["spec"]["ephemeralContainers"] = [{"name": "debug"}]
    found = violations(pod)
    assert found[:2] == ["annotations: AppArmor unconfined", "initContainers[first]: privileged"]
    assert all(place.startswith("ephemeralContainers[debug]") for place in found[2:])
    assert len(found) == 4

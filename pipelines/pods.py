"""Parts of pod specifications, for resources that Kubeflow's compiler does not write itself."""

from typing import Any

from pipelines.cluster import Cluster, StepSettings


def variables_from(component: str, cluster: Cluster) -> list[dict[str, Any]]:
    """Environment variables of a component out of config maps and secrets, as ``V1EnvVar``."""
    return [
        {
            "name": variable,
            "valueFrom": {kind: {"name": source.name, "key": key, "optional": source.optional}},
        }
        for sources, kind in (
            (cluster.config_maps_of(component), "configMapKeyRef"),
            (cluster.secrets_of(component), "secretKeyRef"),
        )
        for source in sources
        for variable, key in source.keys.items()
    ]


def variables(plain: dict[str, str]) -> list[dict[str, Any]]:
    """Plain environment variables, as ``V1EnvVar``."""
    return [{"name": name, "value": value} for name, value in plain.items()]


def resources(settings: StepSettings) -> dict[str, Any]:
    """A step's share of its node, as ``V1ResourceRequirements``."""
    limits: dict[str, Any] = {"memory": settings.memory_limit}
    requests = {"cpu": settings.cpu_request, "memory": settings.memory_request}
    if settings.cpu_limit:
        limits["cpu"] = settings.cpu_limit
    if settings.gpus:
        limits[settings.gpu_resource] = str(settings.gpus)
    return {"requests": requests, "limits": limits}

"""Run the steps in their images, on this machine's Docker engine: no network, not as root."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from kfp import local

from components import DATA_IMAGE, IMAGE
from pipelines.processes import PATIENCE_S, without_shell
from simipu_core import project
from simipu_core.errors import SimipuError

USER = 1000
"""User of the images."""


def docker_runner(readable: Iterable[Path]) -> local.DockerRunner:
    """The runner of kfp.local for containers that see the project's build/ and mlruns/, and data to read.

    All paths are the same inside as outside. Containers run as the caller; where that is root, as the images' own
    user, to whom build/ and mlruns/ then belong.

    Args:
        readable: folders and files with data, mounted read-only.

    Raises:
        SimipuError: no Docker engine answers, an image is not there, or what is to be mounted is not there.
    """
    from docker.types import Mount

    _check_engine(IMAGE, DATA_IMAGE)
    writable = [project.root() / "build", project.root() / "mlruns"]
    for folder in writable:
        folder.mkdir(exist_ok=True)
        if os.getuid() == 0:
            _hand_over(folder)
    sources = {path.absolute() for path in readable} | {path.resolve() for path in readable}
    if missing := next((path for path in sources if not path.exists()), None):
        raise SimipuError(f"{missing}: is not there, so it cannot be shown to the containers.")
    mounts = [Mount(str(folder), str(folder), type="bind") for folder in writable]
    mounts += [Mount(str(path), str(path), type="bind", read_only=True) for path in sorted(sources)]
    user, group = (USER, USER) if os.getuid() == 0 else (os.getuid(), os.getgid())
    return local.DockerRunner(
        mounts=mounts,
        user=f"{user}:{group}",
        network_mode="none",
        working_dir=str(project.root()),
        shm_size="1g",
    )


@contextmanager
def steps_in_containers(variables: Mapping[str, str]) -> Iterator[None]:
    """Have kfp.local give all containers these environment variables, and stop one that nobody waits for any more.

    It knows only variables of single tasks, and would leave a container running.
    """
    from kfp.local import docker_task_handler as handler

    original = handler.run_docker_container

    def run(
        client: Any, image: str, command: Sequence[str], environment: Mapping[str, str] | None = None, **named: Any
    ) -> int:
        name, given = f"simipu-{uuid4().hex}", {**variables, **(environment or {})}
        command = without_shell(command)
        try:
            return int(original(client, image, command, environment=given, name=name, init=True, **named))
        except BaseException:
            _stop(client, name)
            raise

    handler.run_docker_container = run
    try:
        yield
    finally:
        handler.run_docker_container = original


def _stop(client: Any, name: str) -> None:
    from docker.errors import DockerException

    with suppress(DockerException, OSError):
        try:
            client.containers.get(name).stop(timeout=PATIENCE_S)
        except KeyboardInterrupt:  # pressed again
            client.containers.get(name).kill()


def _check_engine(*images: str) -> None:
    from docker.errors import DockerException, ImageNotFound

    import docker

    try:
        for image in images:
            docker.from_env().images.get(image)
    except ImageNotFound:
        raise SimipuError(
            f"image {image} is not here; make pipeline RUNNER=docker builds it, or docker pull."
        ) from None
    except DockerException as error:
        reason = " ".join(str(error).split())[:200]
        raise SimipuError(f"no Docker engine answers ({reason}); start one, or set DOCKER_HOST.") from None


def _hand_over(folder: Path) -> None:
    os.chown(folder, USER, USER)
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(Path(parent, name), USER, USER, follow_symlinks=False)

"""Steps in containers, as far as that shows without an engine."""

from types import SimpleNamespace
from typing import Any

import pytest
from kfp.local import docker_task_handler as handler

from pipelines.containers import steps_in_containers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

COMMAND = ["sh", "-ec", "_KFP_RUNTIME=true python3 -m kfp.dsl.executor_main", "code"]


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_a_container_does_not_outlive_the_run(monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    begun: dict[str, Any] = {}
    ended: list[tuple[str, object]] = []

    def stop(timeout: int) -> None:
        ended.append((begun["name"], timeout))
        if again:
            raise KeyboardInterrupt

    def find(name: str) -> SimpleNamespace:
        return SimpleNamespace(stop=stop, kill=lambda: ended.append((name, "killed")))

    def break_off(*given: Any, **named: Any) -> int:
        begun.update(named, command=given[2])
        raise SystemExit(130)

    client = SimpleNamespace(containers=SimpleNamespace(get=find))
    monkeypatch.setattr(handler, "run_docker_container", break_off)
    with steps_in_containers({"HOME": "/tmp", "A": "1"}), pytest.raises(SystemExit):
        handler.run_docker_container(client=client, image="i", command=COMMAND, volumes={}, environment={"A": "2"})
    assert begun["environment"] == {"HOME": "/tmp", "A": "2"}
    assert begun["init"] is True  # so that signals reach the step
    assert begun["command"][2] == "_KFP_RUNTIME=true exec python3 -m kfp.dsl.executor_main"
    name = begun["name"]
    assert ended == [(name, 120), (name, "killed")][: 1 + again]
    assert handler.run_docker_container is break_off

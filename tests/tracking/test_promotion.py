"""Promotion, rollback and what goes wrong with them, on versions without weights: only the registry is asked."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.tracking import MlflowClient
from rich.console import Console

from simipu_core.artifacts import sha256_file
from simipu_core.config import TrackingConfig
from simipu_core.errors import SimipuError
from simipu_core.models.depth_net import DepthNetSpec
from simipu_core.models.weights import read_spec
from simipu_core.prediction.predictor import load
from simipu_core.tracking import delivery, promotion, promotion_log
from simipu_core.tracking.overview import overview
from simipu_core.tracking.promotion import problems, promote, promote_instead_of, registered_weights, rollback
from simipu_core.tracking.promotion_log import Entry, fold, log_name
from tests.tracking.versions import register, weights

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def aliases(client: MlflowClient, config: TrackingConfig) -> dict[str, int]:
    found = client.get_registered_model(config.model_name).aliases
    return {alias: int(version) for alias, version in found.items()}


def wrong(client: MlflowClient, config: TrackingConfig) -> list[str]:
    return problems(client, config.model_name, promotion_log.read(client, config.model_name))


def test_promotion_keeps_the_former_champion(client: MlflowClient, config: TrackingConfig) -> None:
    assert promote(1, config).alias == "champion"
    assert aliases(client, config) == {"champion": 1}
    promote(2, config)
    assert aliases(client, config) == {"champion": 2, "previous": 1}
    promote(2, config)  # again: the former champion is not forgotten
    assert aliases(client, config) == {"champion": 2, "previous": 1}
    assert wrong(client, config) == []


def test_who_when_and_why_are_recorded(client: MlflowClient, config: TrackingConfig) -> None:
    promote(4, config, reason="needed by noon")
    tags = client.get_model_version(config.model_name, "4").tags
    assert (tags["promoted_by"], tags["promoted_because"]) == ("ada", "needed by noon")
    assert tags["promoted_at"].endswith("Z")
    (entry,) = promotion_log.read(client, config.model_name).entries
    assert (entry.by, entry.why, entry.version) == ("ada", "needed by noon", 4)


def test_the_gate_is_overridden_with_a_reason_only(client: MlflowClient, config: TrackingConfig) -> None:
    with pytest.raises(SimipuError, match=r"version 3 did not pass the gate \(it is worse\).*--reason"):
        promote(3, config)
    assert aliases(client, config) == {}
    promote(3, config, reason="better at night")
    assert aliases(client, config) == {"champion": 3}


def test_only_registered_versions_can_be_promoted(config: TrackingConfig) -> None:
    with pytest.raises(SimipuError, match="has no version 9"):
        promote(9, config)
    with pytest.raises(SimipuError, match="nothing has no version 4"):
        promote(4, TrackingConfig(model_name="nothing"))


def test_the_gate_replaces_the_champion_that_it_compared_with_only(
    client: MlflowClient, config: TrackingConfig
) -> None:
    assert promote_instead_of(None, 1, config, reason="first", by="run a") is None
    refusal = promote_instead_of(None, 2, config, reason="first", by="run b")
    assert refusal == "version 1 became champion meanwhile; evaluate again to be compared with it"
    assert aliases(client, config) == {"champion": 1}
    assert promote_instead_of(1, 2, config, reason="better", by="run c") is None
    assert aliases(client, config) == {"champion": 2, "previous": 1}


def test_rollback_goes_back_further_each_time(client: MlflowClient, config: TrackingConfig) -> None:
    for version in (1, 2, 4):
        promote(version, config, reason="wanted")
    made, left = rollback(config, reason="fails in rain")
    assert (made.version, left) == (2, 4)
    assert aliases(client, config) == {"champion": 2, "previous": 1}
    tags = client.get_model_version(config.model_name, "4").tags
    assert (tags["rolled_back_by"], tags["rolled_back_because"]) == ("ada", "fails in rain")
    tags = client.get_model_version(config.model_name, "2").tags
    assert (tags["restored_because"], tags["promoted_because"]) == ("fails in rain", "wanted")
    rollback(config)
    assert aliases(client, config) == {"champion": 1}
    with pytest.raises(SimipuError, match="no earlier champion to go back to"):
        rollback(config)
    promote(4, config, reason="wanted")
    assert aliases(client, config) == {"champion": 4, "previous": 1}


def test_a_deleted_champion_is_noticed(client: MlflowClient, config: TrackingConfig) -> None:
    for version in (1, 2):
        promote(version, config)
    client.delete_model_version(config.model_name, "2")
    assert "champion" not in aliases(client, config)  # what MLflow alone would leave: nothing
    (problem,) = wrong(client, config)
    assert "version 2, the champion since" in problem
    assert "was deleted; `make rollback` goes back" in problem
    with promotion.champion(config) as found:
        assert found is not None
        assert (found.version, found.weights, found.problem) == (2, None, problem)
    with pytest.raises(SimipuError, match="version 2, the champion since"):
        promotion.repair(config)
    rollback(config)
    assert aliases(client, config) == {"champion": 1}
    assert wrong(client, config) == []


def test_rollback_passes_over_deleted_versions(client: MlflowClient, config: TrackingConfig) -> None:
    for version in (1, 2, 4):
        promote(version, config, reason="wanted")
    client.delete_model_version(config.model_name, "2")
    assert rollback(config)[0].version == 1


def test_an_alias_that_was_moved_by_hand_is_noticed(client: MlflowClient, config: TrackingConfig) -> None:
    for version in (1, 2):
        promote(version, config)
    client.set_registered_model_alias(config.model_name, "champion", "4")
    (problem,) = wrong(client, config)
    assert "the alias champion is at version 4, but by the promotion log version 2 is champion" in problem
    promotion.repair(config)
    assert aliases(client, config) == {"champion": 2, "previous": 1}
    client.delete_registered_model_alias(config.model_name, "champion")
    assert "is missing" in wrong(client, config)[0]
    promote(4, config, reason="as was meant")
    assert aliases(client, config) == {"champion": 4, "previous": 2}
    assert wrong(client, config) == []


def test_a_deleted_log_entry_is_noticed_and_settled(client: MlflowClient, config: TrackingConfig) -> None:
    for version in (1, 2, 4):
        promote(version, config, reason="wanted")
    client.delete_model_version(log_name(config.model_name), "2")
    (problem,) = wrong(client, config)
    assert "entries 2 were deleted" in problem
    promote(4, config, reason="it was champion")
    assert wrong(client, config) == []
    assert aliases(client, config)["champion"] == 4


def test_promotions_at_the_same_time_lose_nothing(client: MlflowClient, config: TrackingConfig, tmp_path: Path) -> None:
    versions = [register(client, config, tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda version: promote(version, config), versions))
    history = promotion_log.read(client, config.model_name)
    assert sorted(history.champions) == versions
    assert aliases(client, config) == {"champion": history.champions[-1], "previous": history.champions[-2]}


def test_an_alias_that_another_sets_at_the_same_moment_is_set_again(
    client: MlflowClient, config: TrackingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = MlflowClient.set_registered_model_alias
    answers = [MlflowException("UNIQUE constraint failed", error_code=BAD_REQUEST)]

    def stumble(self: MlflowClient, *given: str) -> None:
        if answers:
            raise answers.pop()
        real(self, *given)

    monkeypatch.setattr(delivery, "_RETRY_PAUSES_S", (0.0,))
    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", stumble)
    promote(1, config)
    assert not answers
    assert aliases(client, config) == {"champion": 1}


def test_one_of_several_gates_wins(client: MlflowClient, config: TrackingConfig, tmp_path: Path) -> None:
    promote(1, config)
    versions = [register(client, config, tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda each: promote_instead_of(1, each, config, reason="better", by="run"), versions))
    (winner,) = [version for version, refusal in zip(versions, said, strict=True) if refusal is None]
    assert aliases(client, config) == {"champion": winner, "previous": 1}
    assert {refusal for refusal in said if refusal} == {
        f"version {winner} became champion meanwhile; evaluate again to be compared with it"
    }


def entry(number: int, version: int, based_on: int, action: promotion_log.Action = "promote", lost: str = "") -> Entry:
    return Entry(
        number=number,
        action=action,
        version=version,
        based_on=based_on,
        token=str(number),
        at="",
        by="",
        why="",
        lost=lost,
        weights_sha256="0" * 64,
    )


def test_of_two_entries_with_one_base_the_first_counts() -> None:
    history = fold([entry(1, 5, 0), entry(3, 7, 1), entry(2, 6, 1), entry(4, 8, 2)])
    assert [each.number for each in history.entries] == [1, 2, 4]
    assert history.champions == (5, 6, 8)


def test_a_rollback_forgets_what_came_after() -> None:
    history = fold([entry(1, 5, 0), entry(2, 6, 1), entry(3, 7, 2), entry(4, 5, 3, "rollback")])
    assert history.champions == (5,)


def test_entries_around_a_deleted_one() -> None:
    history = fold([entry(1, 5, 0), entry(3, 7, 2), entry(4, 8, 2)])
    assert (history.champion, history.lost) == (7, (2,))
    assert fold([entry(1, 5, 0), entry(3, 7, 2), entry(4, 7, 3, lost="2")]).lost == ()
    assert fold([]).champion is None


def test_the_overview_shows_all_versions(client: MlflowClient, config: TrackingConfig) -> None:
    promote(1, config)
    promote(3, config, reason="better at night")
    client.set_registered_model_alias(config.model_name, "challenger", "4")
    table = overview(config)
    assert [row.version for row in table.rows] == [4, 3, 2, 1]
    assert [row.aliases for row in table.rows] == [("challenger",), ("champion",), (), ("previous",)]
    assert [row.gate for row in table.rows] == ["-", "failed", "passed", "passed"]
    assert table.rows[1].abs_rel == {"garg": 0.25}
    assert table.rows[1].promoted.endswith("by ada")
    client.delete_model_version(config.model_name, "3")
    console = Console(width=200)
    with console.capture() as shown:
        overview(config).show(console)
    text = shown.get()
    assert "0.2500" in text
    assert "warning: " in text
    assert "version 3, the champion since" in text


def test_an_empty_registry_says_so(store: Path) -> None:
    assert store.parent.is_dir()
    with pytest.raises(
        SimipuError, match=r"no version is registered at .*; `make pipeline` makes one, MLFLOW_TRACKING_URI names"
    ):
        overview(TrackingConfig(model_name="nothing"))


def test_weights_are_had_by_alias_and_by_number(client: MlflowClient, config: TrackingConfig, tmp_path: Path) -> None:
    name = config.model_name
    promote(2, config)
    client.set_registered_model_alias(name, "challenger", "3")
    for address, version in (
        (f"models:/{name}@champion", 2),
        (f"models:/{name}@challenger", 3),
        (f"models:/{name}/1", 1),
    ):
        with registered_weights(address) as found:
            assert found.file.read_bytes() == f"weights {version}".encode()


def test_weights_that_are_not_sound_are_refused(client: MlflowClient, config: TrackingConfig, tmp_path: Path) -> None:
    name = config.model_name
    weights(tmp_path, 1).write_bytes(b"others")
    client.set_registered_model_alias(name, "champion", "2")
    for address, message in (
        (f"models:/{name}/1", "its weights are not the ones that were registered"),
        (f"models:/{name}@champion", "is empty, but the alias champion is at version 2"),
        (f"models:/{name}/9", "there is no such version; `make models` lists the versions"),
        (f"models:/{name}@best", "there is no such version"),
        (f"models:/{name}", "write models:/NAME@champion, or models:/NAME/3"),
    ):
        with pytest.raises(SimipuError, match=message), registered_weights(address):
            pass


def test_a_registered_net_is_loaded_by_its_address(
    client: MlflowClient, config: TrackingConfig, net: Path, tmp_path: Path
) -> None:
    file = weights(tmp_path, 9)
    file.parent.mkdir(parents=True)
    shutil.copy(net / "model.safetensors", file)
    tags = {"weights_sha256": sha256_file(file)}
    made = client.create_model_version(config.model_name, file.parents[1].as_uri(), tags=tags)
    predictor = load(f"models:/{config.model_name}/{made.version}", device="cpu")
    assert predictor.net.spec == read_spec(file, DepthNetSpec)
    with pytest.raises(SimipuError, match="not a readable safetensors file"):
        load(f"models:/{config.model_name}/1")

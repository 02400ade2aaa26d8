import math
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.config import Config
from mlflow.exceptions import MlflowException
from mlflow.store.db import utils
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import make_url

from simipu_core.errors import SimipuError, StoppedError
from simipu_core.experiment import Experiment, load_experiment
from simipu_core.tracking import mlflow_run
from simipu_core.tracking.any_folder import mend_mlflow
from simipu_core.tracking.delivery import Entry
from simipu_core.tracking.mlflow_run import (
    ERROR_TAG,
    IMAGE_TAG,
    REVISION_TAG,
    STEP_TAG,
    MlflowRun,
    _open,
    find_experiment,
    flatten,
    run_page,
    shared_parent,
    step,
    tracking_uri,
)
from simipu_core.tracking.pipeline_run import CACHED_FROM_TAG, PipelineRun, end_killed, start_parent
from simipu_core.tracking.run import Run, address_digest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def client(store: Path) -> MlflowClient:
    assert store.name == "store"
    return MlflowClient(tracking_uri())


@pytest.fixture
def experiment() -> Experiment:
    return load_experiment(Path(__file__).parents[2] / "params.yaml", ["tracking.mlflow_experiment=pipelines"])


def test_nested_settings_get_dotted_names() -> None:
    assert flatten({"a": {"b": {"c": 1}, "d": [1, 2]}, "e": None}) == {"a.b.c": 1, "a.d": [1, 2], "e": None}


def test_default_store_lies_in_the_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "params.yaml").touch()
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlruns/mlflow.db"


def test_a_step_is_recorded(client: MlflowClient, store: Path, tmp_path: Path) -> None:
    picture = tmp_path / "panel.png"
    picture.write_bytes(b"png")
    with step("pretrain", "alone") as run:
        run.log_params({"loop": {"epochs": 3, "crop": None}, "long": "x" * 9000, **{f"k{i}": i for i in range(150)}})
        for index in range(20):
            run.log_metrics({"loss": 1 / (index + 1)}, step=index)
        run.log_metrics({"frames": 7, "share": math.nan})
        run.log_input("data/pairs", "f" * 64, "training", made_by="0123")
        run.log_file(picture, "panels")
        picture.unlink()  # it is the file as it was that counts
        assert client.get_run(run.id).info.status == "RUNNING"
    made = client.get_run(run.id)
    assert made.info.status == "FINISHED"
    assert made.info.run_name == made.data.tags[STEP_TAG] == "pretrain"
    assert made.data.params["loop.epochs"] == "3"
    assert made.data.params["loop.crop"] == "null"
    assert len(made.data.params["long"]) == 6000
    assert len(made.data.params) == 153
    assert made.data.metrics["frames"] == 7
    assert math.isnan(made.data.metrics["share"])
    assert [point.value for point in client.get_metric_history(run.id, "loss")] == [1 / (i + 1) for i in range(20)]
    assert made.inputs is not None
    (logged,) = made.inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == ("data/pairs", "f" * 36)
    assert {tag.key: tag.value for tag in logged.tags} == {
        "mlflow.data.context": "training",
        "simipu.made_by_run": "0123",
    }
    assert [path.name for path in (store / "artifacts" / run.id).rglob("panel.png")] == ["panel.png"]


def test_a_failed_step_says_why(client: MlflowClient) -> None:
    def fail(run: Run) -> None:
        run.log_metrics({"frames": 1.0})
        raise SimipuError("no frames; look elsewhere.")

    with pytest.raises(SimipuError), step("pair", "alone") as run:
        fail(run)
    made = client.get_run(run.id)
    assert made.info.status == "FAILED"
    assert made.data.tags[ERROR_TAG] == "no frames; look elsewhere."
    assert made.data.metrics == {"frames": 1.0}


def test_a_training_that_a_signal_stopped_is_killed_with_its_words(client: MlflowClient) -> None:
    with pytest.raises(StoppedError), step("pretrain", "alone") as run:
        raise StoppedError("pretrain: stopped by SIGINT after step 5 of 9, saved in here: run it again to go on.")
    made = client.get_run(run.id)
    assert (made.info.status, made.data.tags[ERROR_TAG].split(",")[0]) == (
        "KILLED",
        "pretrain: stopped by SIGINT after step 5 of 9",
    )


def test_the_pipelines_run_ends_what_killed_steps_left_open(client: MlflowClient) -> None:
    experiment_id = find_experiment(client, "alone")
    parent, other = (client.create_run(experiment_id).info.run_id for _ in range(2))
    runs = [
        client.create_run(experiment_id, tags={"mlflow.parentRunId": of}).info.run_id for of in (parent, parent, other)
    ]
    client.set_terminated(runs[0], "FINISHED")
    PipelineRun(client, experiment_id, MlflowRun(client, parent, experiment_id)).fail("stopped", "KILLED")
    status = [client.get_run(each).info.status for each in (parent, *runs)]
    assert status == ["KILLED", "FINISHED", "KILLED", "RUNNING"]


def test_the_store_may_lie_in_any_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "it's 100% ü #1? python3 %41"
    folder.mkdir()
    (folder / "params.yaml").touch()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert make_url(tracking_uri()).database == str(folder / "mlruns" / "mlflow.db")
    assert mlflow_run.sqlite_folder() == folder / "mlruns"
    assert tracking_uri().endswith("/it's 100%25 ü #1%3F python3 %2541/mlruns/mlflow.db")


def test_migrations_are_found_in_a_folder_with_a_percent_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Config, "set_main_option", Config.set_main_option)  # so that they are restored
    monkeypatch.setattr(utils, "_make_parent_dirs_if_sqlite", utils._make_parent_dirs_if_sqlite)
    mend_mlflow()
    mend_mlflow()
    config = Config()
    config.set_main_option("script_location", "/100% ü/%(here)s")
    config.set_main_option("sqlalchemy.url", "sqlite:///%%25")
    assert config.get_main_option("script_location") == "/100% ü/%(here)s"
    assert config.get_main_option("sqlalchemy.url") == "sqlite:///%25"


def test_an_interrupted_step_is_killed(client: MlflowClient) -> None:
    with pytest.raises(KeyboardInterrupt), step("pair", "alone") as run:
        raise KeyboardInterrupt
    assert client.get_run(run.id).info.status == "KILLED"


def test_sigterm_ends_a_step_in_order(client: MlflowClient, capfd: pytest.CaptureFixture[str]) -> None:
    def work(run: Run) -> None:
        run.log_metrics({"frames": 1.0})
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as ended, step("pair", "alone") as run:
        work(run)
    assert ended.value.code == 143
    assert client.get_run(run.id).info.status == "KILLED"
    assert client.get_run(run.id).data.metrics == {"frames": 1.0}
    assert capfd.readouterr().err == "error: stopped by SIGTERM.\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_the_next_step_ends_what_a_killed_one_left_open(client: MlflowClient) -> None:
    experiment_id = find_experiment(client, "alone")
    killed, parent, ended = (client.create_run(experiment_id).info.run_id for _ in range(3))
    client.set_terminated(ended, "FINISHED")
    unsent = Entry(run_id=killed, kind="metrics", metrics=(("loss", 0.5, 1, 7),)).line()
    mlflow_run._outboxes().mkdir(parents=True, exist_ok=True)
    (mlflow_run._outboxes() / "killed.outbox.jsonl").write_text(
        f'["{killed}", "{parent}", "{ended}", "gone"]\n{unsent}'
    )
    with step("pair", "alone"):
        pass
    assert [client.get_run(each).info.status for each in (killed, parent, ended)] == ["KILLED", "KILLED", "FINISHED"]
    assert client.get_run(killed).data.tags[ERROR_TAG] == "the process was killed."
    assert [point.step for point in client.get_metric_history(killed, "loss")] == [7]
    assert not (mlflow_run._outboxes() / "killed.outbox.jsonl").exists()


def test_a_run_that_its_maker_did_not_get_to_know_is_ended(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a kill before the answer, or a connection that broke off."""
    made: list[str] = []
    create = MlflowClient.create_run

    def lose(*arguments: Any, **options: Any) -> None:
        made.append(create(*arguments, **options).info.run_id)
        raise MlflowException("the connection broke off")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", lose)
        with pytest.raises(SimipuError, match="the connection broke off"), step("pair", "alone"):
            pass
    (lost,) = made
    assert client.get_run(lost).info.status == "RUNNING"
    with step("pair", "alone"):
        pass
    assert client.get_run(lost).info.status == "KILLED"
    assert not list(mlflow_run._outboxes().iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_no_run_stays_open_however_its_process_ends(
    client: MlflowClient, tmp_path: Path, end: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline's run, and a step's below it."""
    monkeypatch.setenv("SIMIPU_CACHE", str(tmp_path / "cache"))
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from simipu_core.experiment import load_experiment\n"
        "from simipu_core.tracking.mlflow_run import step\n"
        "from simipu_core.tracking.pipeline_run import start_parent\n"
        "parent = start_parent(load_experiment(Path(sys.argv[1])))\n"
        "os.environ['SIMIPU_PARENT_RUN_ID'] = parent.run_id\n"
        "with step('pair') as run:\n"
        "    run.log_metrics({'frames': 1.0})\n"
        "    print(parent.run_id, run.id, flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", script, str(Path(__file__).parents[2] / "params.yaml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        parent, run_id = process.stdout.readline().split()
        process.send_signal(end)
    with step("pair", "alone"):
        pass
    assert [client.get_run(each).info.status for each in (parent, run_id)] == ["KILLED", "KILLED"]
    assert client.get_run(run_id).data.metrics == {"frames": 1.0}
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_run_that_kubeflow_made_is_adopted(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment_id = client.create_experiment("cluster")
    given = client.create_run(experiment_id).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", given)
    with step("ingest") as run:
        run.log_metrics({"frames": 2.0})
    assert (run.run_id, run.experiment_id) == (given, experiment_id)
    assert client.get_run(given).data.metrics == {"frames": 2.0}
    assert client.get_run(given).info.status == "RUNNING"  # Kubeflow ends it
    assert client.get_run(given).data.tags[REVISION_TAG]
    with step("ingest") as again:
        pass
    assert again.run_id == given  # the variable is left as it is


def test_the_image_is_recorded(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMIPU_IMAGE", "registry/simipu@sha256:00ff")
    with step("ingest", "alone") as run:
        pass
    assert client.get_run(run.id).data.tags[IMAGE_TAG] == "registry/simipu@sha256:00ff"


def test_steps_of_one_pipeline_run_share_a_parent(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that begin at the same moment: here four, each with a client of its own."""
    monkeypatch.setenv("SIMIPU_PIPELINE_RUN", "4f2a")
    experiment_id = find_experiment(client, "shared")
    with ThreadPoolExecutor(4) as pool:
        clients = [MlflowClient(tracking_uri()) for _ in range(4)]
        parents = set(pool.map(lambda each: shared_parent(each, experiment_id, "4f2a"), clients))
    (parent,) = parents
    with step("ingest_depth", "shared") as run:
        pass
    assert client.get_run(run.id).data.tags["mlflow.parentRunId"] == parent
    assert client.get_run(parent).info.status == "RUNNING"
    with pytest.raises(SimipuError), step("pair_depth", "shared"):
        raise SimipuError("the disk is full.")
    assert client.get_run(parent).info.status == "FAILED"
    with step("evaluate", "shared", is_last=True):
        pass
    assert client.get_run(parent).info.status == "FINISHED"
    assert len([one for one in client.search_runs([experiment_id]) if "mlflow.parentRunId" not in one.data.tags]) == 1


def killed_step(client: MlflowClient, name: str) -> str:
    """The run of a step whose process was killed."""
    made, _ = _open(client, name, "killed", "mark")
    return str(made.run_id)


def test_a_step_that_is_begun_again_ends_what_was_killed(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMIPU_PIPELINE_RUN", "again")
    first, other = killed_step(client, "pretrain"), killed_step(client, "finetune")
    again = killed_step(client, "pretrain")
    status = {run: client.get_run(run).info.status for run in (first, other, again)}
    assert status == {first: "KILLED", other: "RUNNING", again: "RUNNING"}


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_what_a_pipeline_run_that_is_over_left_open_is_ended(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    monkeypatch.setattr("simipu_core.tracking.mlflow_run._SETTLING_SECONDS", 0.0)
    monkeypatch.setenv("SIMIPU_PIPELINE_RUN", f"living {status}")
    living = killed_step(client, "pretrain")
    monkeypatch.setenv("SIMIPU_PIPELINE_RUN", f"over {status}")
    done, left = killed_step(client, "ingest"), killed_step(client, "pretrain")
    client.set_terminated(done)
    parent = client.get_run(left).data.tags["mlflow.parentRunId"]
    assert sorted(end_killed(f"over {status}", status)) == [f"pipeline over {status}", "pretrain"]
    found = {run: client.get_run(run).info.status for run in (left, parent, done, living)}
    assert found == {left: "KILLED", parent: status, done: "FINISHED", living: "RUNNING"}
    assert end_killed(f"over {status}", status) == []


@pytest.mark.parametrize(
    ("given", "page"),
    [
        ({}, "http://127.0.0.1:5000"),
        ({"MLFLOW_TRACKING_URI": "http://mlflow:5000/"}, "http://mlflow:5000"),
        ({"MLFLOW_TRACKING_URI": "http://mlflow:5000", "SIMIPU_MLFLOW_PAGE": "https://a/b/"}, "https://a/b"),
        ({"SIMIPU_MLFLOW_PAGE": "https://ada:secret@a/b"}, "https://***@a/b"),
    ],
)
def test_a_run_has_a_page(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], page: str) -> None:
    for name in ("MLFLOW_TRACKING_URI", "SIMIPU_MLFLOW_PAGE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert run_page("abc", "1") == f"{page}/#/experiments/1/runs/abc"


def test_an_experiment_that_another_step_makes_at_the_same_moment_is_shared(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = find_experiment(client, "raced")
    real = client.get_experiment_by_name
    answers = [None]
    monkeypatch.setattr(client, "get_experiment_by_name", lambda name: answers.pop() if answers else real(name))
    assert find_experiment(client, "raced") == made
    assert not answers


def test_system_metrics_come_when_asked_for(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    sampled = threading.Event()
    real = MlflowRun.log_metrics

    def log_metrics(self: MlflowRun, *given: Any) -> None:
        real(self, *given)
        sampled.set()

    monkeypatch.setattr(MlflowRun, "log_metrics", log_metrics)
    with step("pretrain", "alone") as run:
        assert sampled.wait(60)
    assert client.get_run(run.id).data.metrics["system/system_memory_usage_percentage"] > 0


@pytest.mark.parametrize(
    ("uri", "digest"),
    [
        ("/cache/files/md5/67/d2a9d98b0273d96c5541673194d391.dir", "67d2a9d98b0273d96c5541673194d391.dir"),
        ("s3://bucket/files/md5/67/d2a9d98b0273d96c5541673194d391.dir", "67d2a9d98b0273d96c5541673194d391.dir"),
        ("/data/kitti#" + "a" * 64, "a" * 64),
        ("/data/kitti", None),
        ("/data/kitti#2", None),
    ],
)
def test_an_address_names_its_digest(uri: str, digest: str | None) -> None:
    assert address_digest(uri) == digest


def test_steps_nest_under_their_pipeline_run(
    client: MlflowClient, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = start_parent(experiment)
    monkeypatch.setenv("SIMIPU_PARENT_RUN_ID", parent.run_id)
    with step("ingest_depth") as run:
        pass
    parent.record_cached("pretrain", "0123")
    parent.record({"garg/abs_rel": 0.25})
    parent.finish()

    made = client.get_run(parent.run_id)
    assert made.info.status == "FINISHED"
    assert made.data.params["finetune.epochs"] == str(experiment.finetune.epochs)
    assert made.data.metrics == {"garg/abs_rel": 0.25}
    below = {
        child.data.tags[STEP_TAG]: child
        for child in client.search_runs([parent.experiment_id])
        if child.data.tags.get("mlflow.parentRunId") == parent.run_id
    }
    assert below["ingest_depth"].info.run_id == run.run_id
    assert below["pretrain"].data.tags[CACHED_FROM_TAG] == "0123"
    assert set(parent.seconds()) == {"ingest_depth", "pretrain"}


def test_a_failed_pipeline_says_why(client: MlflowClient, experiment: Experiment) -> None:
    parent = start_parent(experiment)
    parent.fail("the disk is full.")
    made = client.get_run(parent.run_id)
    assert (made.info.status, made.data.tags[ERROR_TAG]) == ("FAILED", "the disk is full.")


def test_each_store_has_its_own_history(store: Path, experiment: Experiment) -> None:
    assert store.is_dir()
    one, two = start_parent(experiment), start_parent(experiment)
    other = start_parent(
        experiment.model_copy(
            update={"tracking": experiment.tracking.model_copy(update={"mlflow_experiment": "another"})}
        )
    )
    assert one.history == two.history != other.history


def test_a_store_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(SimipuError, match=r"MLflow at sqlite.* cannot be used .*; check"), step("x"):
        pass


def test_secrets_in_the_address_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://user:secret@host/x")
    with pytest.raises(SimipuError) as caught, step("x"):
        pass
    assert "secret" not in str(caught.value)

"""The registry's logins and its backup, with real servers: MLflow on PostgreSQL, set up as deploy/ does."""

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from simipu_core.artifacts import sha256_file
from simipu_core.config import TrackingConfig
from simipu_core.errors import SimipuError
from simipu_core.tracking import identity, mlflow_run, promotion_log
from simipu_core.tracking.accounts import EVALUATE, PROMOTER, STEPS, set_up
from simipu_core.tracking.mlflow_run import connect, step
from simipu_core.tracking.overview import overview
from simipu_core.tracking.promotion import fetch, promote, promote_instead_of
from simipu_core.tracking.promotion_log import log_name
from simipu_core.tracking.registry import WEIGHTS
from tests.servers import mlflow_server, postgresql, postgresql_tool
from tests.tracking.versions import register

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]
ADMIN = "admin-password-1"
PASSWORDS = {STEPS: "steps-password-1", EVALUATE: "evaluate-password-1", PROMOTER: "promoter-password-1"}
CONFIG = TrackingConfig(mlflow_experiment="guarded", model_name="guarded")


class Logins:
    """Changes the login of this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def use(self, user: str, password: str | None = None) -> None:
        known = {"admin": ADMIN, **PASSWORDS}
        self._monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user)
        self._monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password or known[user])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
    folder = tmp_path_factory.mktemp("server")
    deployed = yaml.safe_load((ROOT / "deploy/mlflow/auth.yaml").read_text(encoding="utf-8"))
    settings = ConfigParser()
    settings.read_string(deployed["data"]["basic_auth.ini"])
    with postgresql() as database:
        settings["mlflow"]["database_uri"] = database
        with (folder / "basic_auth.ini").open("w") as file:
            settings.write(file)
        environment = {
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "form-key",
        }
        artifacts = (folder / "artifacts").as_uri()
        with mlflow_server(folder, database, artifacts, environment, "--app-name", "basic-auth") as served:
            yield served.uri


@pytest.fixture
def logins(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Logins:
    """The users are made; nobody is logged in."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("SIMIPU_USER", "ada")
    for name in ("MLFLOW_RUN_ID", "SIMIPU_PARENT_RUN_ID", "SIMIPU_PIPELINE_RUN", "SIMIPU_TRUSTED_KEYS"):
        monkeypatch.delenv(name, raising=False)
    logins = Logins(monkeypatch)
    logins.use("admin")
    files = {}
    for user, password in PASSWORDS.items():
        files[user] = tmp_path / user
        files[user].write_text(f"{password}\n")
    set_up(CONFIG, files)
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    return logins


def registered(config: TrackingConfig, folder: Path) -> int:
    """A version with small weights, registered as a step does."""
    with step("evaluate", config.mlflow_experiment) as run:
        client = run.client
        file = folder / Path(WEIGHTS).name
        file.write_bytes(b"weights")
        client.log_artifact(run.id, str(file), f"model/{Path(WEIGHTS).parent}")
        source = f"{client.get_run(run.id).info.artifact_uri}/model"
        tags = {"gate": "passed", "weights_sha256": sha256_file(file)}
        made = client.create_model_version(config.model_name, source, run_id=run.id, tags=tags)
    return int(made.version)


def test_nobody_gets_in_without_a_login(logins: Logins) -> None:
    with pytest.raises(SimipuError, match="check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"):
        overview(CONFIG)
    logins.use(STEPS, "another-password-1")
    with pytest.raises(SimipuError, match="MLFLOW_TRACKING_USERNAME") as caught:
        promote(1, CONFIG)
    assert "another-password-1" not in str(caught.value)


def test_evaluate_registers_and_only_the_promoter_promotes(logins: Logins, tmp_path: Path) -> None:
    logins.use(EVALUATE)
    version = registered(CONFIG, tmp_path)
    client = connect()
    client.set_registered_model_alias(CONFIG.model_name, "challenger", str(version))
    refusal = promote_instead_of(None, version, CONFIG, reason="better", by="run 1")
    assert refusal is not None
    assert "may not write to guarded.promotions" in refusal
    with pytest.raises(SimipuError, match="use a login that may do this"):
        promote(version, CONFIG)
    logins.use(PROMOTER)
    assert promote(version, CONFIG).alias == "champion"
    (entry,) = promotion_log.read(connect(), CONFIG.model_name).entries
    assert entry.by == f"{PROMOTER} (ada)"
    assert identity.login() == PROMOTER
    assert fetch(CONFIG, tmp_path / "out") == version

    log = log_name(CONFIG.model_name)
    for user in (STEPS, EVALUATE, PROMOTER):  # nobody but the administrator shortens the log
        logins.use(user)
        client = connect()
        for attack in (
            lambda: client.delete_registered_model(log),  # noqa: B023
            lambda: client.delete_model_version(log, "1"),  # noqa: B023
        ):
            with pytest.raises(MlflowException, match="Permission denied"):
                attack()
    logins.use(EVALUATE)
    client = connect()
    for attack in (
        lambda: client.create_model_version(log, "promotion:/x"),
        lambda: client.set_model_version_tag(log, "1", "version", "9"),
        lambda: client.delete_registered_model(CONFIG.model_name),
        lambda: client.delete_model_version(CONFIG.model_name, str(version)),
    ):
        with pytest.raises(MlflowException, match="Permission denied"):
            attack()
    second = registered(CONFIG, tmp_path)
    client.set_registered_model_alias(CONFIG.model_name, "champion", str(second))  # an alias is only a view
    assert f"the alias champion is at version {second}" in overview(CONFIG).problems[0]
    with pytest.raises(SimipuError, match="the alias champion is at version"):
        fetch(CONFIG, tmp_path / "out2")


def test_other_steps_record_but_register_nothing_unless_they_share_one_login(logins: Logins, tmp_path: Path) -> None:
    logins.use(EVALUATE)
    version = registered(CONFIG, tmp_path)
    logins.use(STEPS)
    with step("pair", CONFIG.mlflow_experiment) as run:
        run.client.log_metric(run.id, "pairs", 1)
    client = connect()
    for attack in (
        lambda: client.create_model_version(CONFIG.model_name, "file:///anywhere"),
        lambda: client.set_registered_model_alias(CONFIG.model_name, "challenger", str(version)),
        lambda: client.set_model_version_tag(CONFIG.model_name, str(version), "gate", "passed"),
    ):
        with pytest.raises(MlflowException, match="Permission denied"):
            attack()
    logins.use("admin")
    password = tmp_path / "password"
    password.write_text(PASSWORDS[STEPS])
    set_up(CONFIG, {STEPS: password})
    logins.use(STEPS)
    assert registered(CONFIG, tmp_path) > version


def test_steps_share_a_parent_without_the_right_to_delete_runs(logins: Logins) -> None:
    logins.use(STEPS)
    client = connect()
    experiment = mlflow_run.find_experiment(client, CONFIG.mlflow_experiment)
    chosen = mlflow_run.shared_parent(client, experiment, "pipeline-1")
    extra = client.create_run(experiment, tags=client.get_run(chosen).data.tags).info.run_id
    mlflow_run._discard(client, extra)
    assert client.get_run(extra).info.status == "FINISHED"
    assert mlflow_run.shared_parent(client, experiment, "pipeline-1") == chosen


def test_accounts_need_an_administrator_and_passwords(logins: Logins, tmp_path: Path) -> None:
    (tmp_path / "short").write_text("short")
    (tmp_path / "long").write_text("long-enough-password")
    logins.use("admin")
    with pytest.raises(SimipuError, match="at least 12 characters"):
        set_up(CONFIG, {STEPS: tmp_path / "short"})
    with pytest.raises(SimipuError, match="cannot be read"):
        set_up(CONFIG, {STEPS: tmp_path / "nothing"})
    logins.use(PROMOTER)
    with pytest.raises(SimipuError, match="use a login that may do this"):
        set_up(CONFIG, {"another": tmp_path / "long"})


class Database(NamedTuple):
    """A PostgreSQL that MLflow's client uses directly."""

    uri: str
    environment: dict[str, str]

    def run(self, line: str, folder: Path) -> None:
        """Run what a documented command runs in the database's pod."""
        words = shlex.split(line[line.index(" -- ") + 4 :])
        known = {"mlflow.dump": str(folder / "mlflow.dump")}
        arguments = ["postgres" if word == "mlflow" else known.get(word, word) for word in words]
        arguments[arguments.index("--username") + 1] = "simipu"
        redirection = next(at for at, word in enumerate(arguments) if word in "<>")
        mode, place = arguments[redirection], Path(arguments[redirection + 1])
        command = [str(postgresql_tool(arguments[0])), *arguments[1:redirection]]
        with place.open("wb" if mode == ">" else "rb") as file:
            direction: dict[str, Any] = {"stdout" if mode == ">" else "stdin": file}
            done = subprocess.run(command, env=self.environment, stderr=subprocess.PIPE, check=False, **direction)
        assert done.returncode == 0, done.stderr.decode()


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    with postgresql() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        found = re.search(r"@([\d.]+):(\d+)/", uri)
        assert found
        yield Database(uri, {**os.environ, "PGHOST": found[1], "PGPORT": found[2]})


def commands(mark: str) -> list[str]:
    """Documented commands that run in the database's pod."""
    text = (ROOT / "docs/registry.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"^```sh {mark}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for line in block.splitlines() if " exec " in line]


def test_a_restored_backup_has_the_log_and_the_champion(database: Database, tmp_path: Path) -> None:
    client, config = connect(), TrackingConfig(model_name="kept")
    client.create_registered_model(config.model_name)
    for _ in range(3):
        register(client, config, tmp_path)
    promote(1, config)
    promote(2, config)
    for line in commands("backup"):
        database.run(line, tmp_path)

    client.delete_registered_model(log_name(config.model_name))
    client.delete_model_version(config.model_name, "2")
    client.set_registered_model_alias(config.model_name, "champion", "3")
    client.create_registered_model("later")
    assert overview(config).problems
    for line in commands("restore"):
        database.run(line, tmp_path)

    client = MlflowClient(database.uri)
    assert overview(config).problems == ()
    assert promotion_log.read(client, config.model_name).champions == (1, 2)
    assert fetch(config, tmp_path / "out") == 2
    promote(3, config)
    assert [entry.number for entry in promotion_log.read(client, config.model_name).entries] == [1, 2, 3]

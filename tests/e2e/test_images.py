"""The images, built and run by a real Docker engine: what they hold, a whole pipeline in them, MLflow's server."""

import json
import os
import re
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import Python

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

ROOT = Path(__file__).parents[2]
TARGETS = ("data", "train", "mlflow")


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def images() -> dict[str, str]:
    """Names of the images, by target."""
    try:
        found = subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        found = False
    if not found:
        pytest.skip("no Docker engine answers: the images are not built (set DOCKER_HOST)")
    done = subprocess.run(["make", "images"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(done.stdout[-400:])
    tag = subprocess.run(
        ["make", "--silent", "tag"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()
    return {target: f"simipu-{target}:{tag}" for target in TARGETS}


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_holds_what_it_should(images: dict[str, str], target: str) -> None:
    (facts,) = json.loads(docker("image", "inspect", images[target]))
    config = facts["Config"]
    revision = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert config["User"] == "1000"
    assert not config.get("Entrypoint")
    assert config["Labels"]["org.opencontainers.image.revision"].startswith(revision.stdout.strip())
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    base = os.environ.get("BASE") or "python:3.11-slim-bookworm"  # make exports it empty
    assert config["Labels"]["org.opencontainers.image.base.name"] == base
    inside = docker(
        "run", "--rm", "--network=none", images[target], "sh", "-c",
        "id -u; command -v gcc cc uv || echo no compiler; python -c 'import torch' 2>/dev/null && echo torch; "
        "simipu --help | head -3",
    )  # fmt: skip
    lines = inside.splitlines()
    assert lines[:2] == ["1000", "no compiler"]
    assert ("torch" in lines) == (target == "train")
    print(f"{images[target]}: {facts['Size'] / 1e9:.2f} GB")


def test_the_data_image_is_the_smaller_one(images: dict[str, str]) -> None:
    sizes = {name: int(docker("image", "inspect", "--format", "{{.Size}}", image)) for name, image in images.items()}
    assert sizes["data"] < sizes["train"] / 3


def test_the_pipeline_in_containers_scores_what_it_scores_in_processes(
    project: Path, python: Python, images: dict[str, str]
) -> None:
    def run(*arguments: str, **variables: str) -> dict[str, Any]:
        variables |= {"OMP_NUM_THREADS": ""}  # as for people, who do not set it
        done = python("pipelines", "local", *arguments, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        summary: dict[str, Any] = json.loads((project / "build" / "summary.json").read_text(encoding="utf-8"))
        return summary

    here = run()
    there = run("--runner", "docker", SIMIPU_IMAGE=images["train"], SIMIPU_DATA_IMAGE=images["data"])
    assert not any(step["cached"] for name, step in there["steps"].items() if name != "raw")
    assert there["abs_rel"] == pytest.approx(here["abs_rel"], abs=1e-6)
    assert there["baselines"] == {
        name: {protocol: pytest.approx(scores, abs=1e-6) for protocol, scores in found.items()}
        for name, found in here["baselines"].items()
    }
    if os.getuid() == 0:
        made = [path for path in (project / "build" / "pipeline").rglob("manifest.json") if path.stat().st_uid == 1000]
        assert len(made) >= 8  # by the images' own user


ASK = """
import base64, sys, urllib.error, urllib.request
path, login = sys.argv[1:]
request = urllib.request.Request("http://localhost:5000" + path)
if login:
    request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
try:
    print(urllib.request.urlopen(request, timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError:
    print("away")
"""


def test_mlflow_is_served_by_its_image_as_deploy_starts_it(images: dict[str, str]) -> None:
    """On a read-only root, without capabilities; with SQLite in PostgreSQL's place."""
    (image,) = [image for name, image in images.items() if name == "mlflow"]
    pod = yaml.safe_load((ROOT / "deploy/mlflow/mlflow.yaml").read_text(encoding="utf-8"))["spec"]["template"]["spec"]
    (migrate,), (server,) = pod["initContainers"], pod["containers"]
    settings = yaml.safe_load((ROOT / "deploy/mlflow/auth.yaml").read_text(encoding="utf-8"))["data"]["basic_auth.ini"]
    store = "sqlite:////tmp/mlflow.db"
    environment = {
        "SETTINGS": re.sub(r"database_uri = .*", f"database_uri = {store}", settings),
        "MLFLOW_AUTH_CONFIG_PATH": "/tmp/basic_auth.ini",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "admin-password-1",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "form-key",
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_ARTIFACTS_DESTINATION": "/tmp/artifacts",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "HOME": "/tmp",
    }
    started = f"{migrate['command'][-1]} && exec {shlex.join(server['command'])}"
    container = docker(
        "run", "--detach", "--network=none", "--read-only", "--tmpfs=/tmp", "--cap-drop=ALL",
        "--security-opt=no-new-privileges", *(f"--env={name}={value}" for name, value in environment.items()),
        image, "sh", "-c", f'printf %s "$SETTINGS" > "$MLFLOW_AUTH_CONFIG_PATH" && {started}',
    )  # fmt: skip

    def ask(path: str, login: str = "") -> str:
        return docker("exec", container, "python", "-c", ASK, path, login)

    try:
        end = time.monotonic() + 300
        while (said := ask("/health")) == "away" and time.monotonic() < end:
            time.sleep(2)
        assert said == "200", docker("logs", container)
        experiments = "/api/2.0/mlflow/experiments/search?max_results=1"
        assert ask(experiments) == "401"
        assert ask(experiments, "admin:another-password-1") == "401"
        assert ask(experiments, "admin:admin-password-1") == "200"
    finally:
        docker("rm", "--force", container)


def test_a_missing_engine_is_told(python: Python) -> None:
    done = python("pipelines", "local", "--runner", "docker", DOCKER_HOST="unix:///nowhere.sock")
    assert done.returncode == 1
    assert "error: no Docker engine answers" in done.stderr
    assert "Traceback" not in done.stderr

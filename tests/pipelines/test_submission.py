from pathlib import Path

import pytest
import yaml

from pipelines import submission
from pipelines.options import chosen, placed
from pipelines.submission import Package, cron_expression, data_addresses, interval_seconds, local_addresses, pack
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment, load_experiment

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The demo without pre-training, on a folder of its own."""
    folder = tmp_path_factory.mktemp("raw")
    (folder / "scan.bin").write_bytes(b"scan")
    return load_experiment(ROOT / "params.yaml", ["finetune.init=kaiming_zero_gamma", f"depth_data.root={folder}"])


@pytest.fixture(scope="module")
def package(scratch: Experiment) -> Package:
    return pack(scratch)


def test_the_same_experiment_is_the_same_package(scratch: Experiment, package: Package) -> None:
    assert pack(scratch) == package
    other = scratch.model_copy(update={"experiment": "other"})
    assert pack(other).digest != package.digest


def test_without_the_cache_every_task_runs(scratch: Experiment, package: Package) -> None:
    def cached(given: Package) -> set[bool]:
        tasks = given.specification["root"]["dag"]["tasks"].values()
        return {task["cachingOptions"].get("enableCache", False) for task in tasks}

    assert cached(package) == {True}
    uncached = pack(scratch, cache=False)
    assert cached(uncached) == {False}
    assert uncached.digest != package.digest


def test_settings_of_the_platform_travel_beside_the_pipeline(package: Package) -> None:
    assert package.specification["pipelineInfo"]["name"] == "simipu"
    both = Package(package.text + "---\nplatforms: {kubernetes: {}}\n")
    assert both.specification["pipeline_spec"] == package.specification
    assert both.specification["platform_spec"] == {"platforms": {"kubernetes": {}}}
    assert both.parameters == package.parameters


def test_a_run_is_given_the_version_of_its_data(scratch: Experiment, package: Package) -> None:
    addresses = data_addresses(scratch, package)
    assert set(addresses) == {"data_depth"}
    assert addresses["data_depth"].startswith(f"{scratch.depth_data.root}#")
    assert local_addresses(addresses) == [scratch.depth_data.root]
    assert local_addresses({"data_depth": "s3://bucket/raw#1"}) == []


def test_what_nothing_gives_is_named(scratch: Experiment, package: Package) -> None:
    spec = package.specification
    spec["root"]["inputDefinitions"]["parameters"]["budget"] = {"parameterType": "NUMBER_INTEGER"}
    with pytest.raises(SimipuError, match="the pipeline needs budget, which demo does not give"):
        data_addresses(scratch, Package(yaml.safe_dump(spec)))


def test_a_sweep_is_one_package_with_an_address_for_each_folder(scratch: Experiment, tmp_path: Path) -> None:
    (tmp_path / "other.frames").mkdir()
    (tmp_path / "other.frames" / "scan.bin").write_bytes(b"another scan")
    data = scratch.depth_data.model_copy(update={"root": str(tmp_path / "other.frames")})
    rows = [scratch, scratch.model_copy(update={"experiment": "second", "depth_data": data})]
    package = pack(rows)
    addresses = data_addresses(rows, package)
    roots = [scratch.depth_data.root, data.root]
    assert set(addresses) == {"data"}
    assert [address.split("#")[0] for address in addresses["data"].values()] == list(addresses["data"]) == roots
    assert local_addresses(addresses) == sorted(roots)
    assert "finetune_second" in package.text
    assert submission.run_name(rows).startswith("sweep ")
    assert submission.version_name(rows).startswith("sweep-")


def test_names_tell_experiment_and_revision(scratch: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submission, "code_revision", lambda: "0123456789abcdef+dirty")
    named = scratch.model_copy(update={"experiment": "reference/kitti_kitti"})
    assert submission.version_name(named) == "reference-kitti-kitti-0123456789ab-dirty"
    assert submission.run_name(named).startswith("reference/kitti_kitti 01234567 20")


@pytest.mark.parametrize(
    ("text", "seconds"), [("45m", 2700), ("6h", 21600), ("1d", 86400), ("2w", 1209600), ("30s", 30)]
)
def test_intervals(text: str, seconds: int) -> None:
    assert interval_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0h", "-1h", "1.5h", "h", "1 day", "6"])
def test_other_intervals_are_refused(text: str) -> None:
    with pytest.raises(SimipuError, match=r"--every: .* is no interval; write e\.g\. 45m"):
        interval_seconds(text)


@pytest.mark.parametrize(
    ("text", "cron"),
    [
        ("30 3 * * 1", "0 30 3 * * 1"),
        ("0 30 3 * * 1-5", "0 30 3 * * 1-5"),
        ("*/15 * * * *", "0 */15 * * * *"),
        ("0 0 9 ? JAN MON-FRI", "0 0 9 ? JAN MON-FRI"),
    ],
)
def test_cron_gets_its_seconds(text: str, cron: str) -> None:
    assert cron_expression(text) == cron


@pytest.mark.parametrize("text", ["", "* * *", "every day at 3", "0 3 * * 1; reboot", "a b c d e"])
def test_other_crons_are_refused(text: str) -> None:
    with pytest.raises(SimipuError, match=r"--cron: .* is no cron expression"):
        cron_expression(text)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("61 3 * * 1", "61 is no minute; write 0 to 59"),
        ("30 24 * * *", "24 is no hour; write 0 to 23"),
        ("0 30 3 32 * *", "32 is no day of a month; write 1 to 31"),
        ("0 0 1 1-13 *", "13 is no month; write 1 to 12"),
        ("0 0 * * 8", "8 is no day of a week; write 0 to 7"),
    ],
)
def test_times_that_no_clock_shows_are_refused(text: str, what: str) -> None:
    with pytest.raises(SimipuError, match=what):
        cron_expression(text)


def test_options_that_would_be_ignored_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIMIPU_IMAGE", raising=False)
    with pytest.raises(SimipuError, match="--image: goes with --cluster FILE"):
        placed(None, "simipu@sha256:0", None)
    monkeypatch.setenv("SIMIPU_IMAGE", "simipu@sha256:0")
    assert placed(None, "simipu@sha256:0", None) is None


def test_one_address_for_several_roots_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    chosen("demo", None, sweep=["improved/kitti_kitti", "improved/kitti_nyu"], data="s3://bucket/all")
    assert "note: s3://bucket/all is taken for all of data/kitti, data/nyu" in capsys.readouterr().err

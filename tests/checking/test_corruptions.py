from pathlib import Path

import pytest

from simipu_core.config import PairConfig
from simipu_core.stages.check import check
from tests.checking.corruptions import CORRUPTIONS, applies
from tests.checking.datasets import DATA_SETS, DataSet, make_world
from tests.checking.outcomes import Outcome, outcomes, section, written_sections

FAST = ("kitti_object",)
NOT_TOLD = {"image with a flipped bit", "scan exchanged with another frame's"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("valid") / "world"
    make_world(out)
    return out


@pytest.mark.parametrize(
    "data", [pytest.param(each, id=each.name, marks=() if each.name in FAST else pytest.mark.slow) for each in DATA_SETS]
)
def test_the_page_tells_what_becomes_of_each_corruption(data: DataSet, world: Path, tmp_path: Path) -> None:
    made = outcomes(data, world, tmp_path)
    assert section(data, made) == written_sections()[data.name]
    unseen = {name for name, each in made.items() if each.check == "nothing"}
    assert unseen <= NOT_TOLD
    for name, each in made.items():  # what ingest rejects, check has told
        if each.ingest != "takes all":
            assert "fault: broken frames" in each.check, name


def test_there_are_at_least_twenty_kinds_for_each_source_with_scans() -> None:
    assert len({each.name for each in CORRUPTIONS}) == len(CORRUPTIONS) >= 40
    for data in DATA_SETS:
        assert sum(applies(each, data) for each in CORRUPTIONS) >= 20, data.name


def test_the_page_has_a_section_for_each_source() -> None:
    assert list(written_sections()) == [data.name for data in DATA_SETS]


def test_a_damaged_file_is_named_with_its_reason(world: Path, tmp_path: Path) -> None:
    data = DATA_SETS[0]
    root = tmp_path / "raw"
    import shutil

    shutil.copytree(world / "kitti_object", root / "kitti_object")
    (root / data.parts["scan"]).write_bytes(b"123")
    report = check(data.source(), PairConfig(), tmp_path / "out", root=str(root))
    (broken,) = report.broken
    assert (broken.sample_id, broken.file) == ("kitti_object/000001", data.parts["scan"])
    assert "truncated" in broken.reason
    assert broken.reason in (tmp_path / "out/check.json").read_text()
    assert broken.reason in (tmp_path / "out/check.html").read_text()
    assert isinstance(Outcome("", "", ""), tuple)

import re
from pathlib import Path

import pytest

from simipu_core.data.sources import SOURCES
from tests.checking.corruptions import CORRUPTIONS, applies
from tests.checking.datasets import DATA_SETS, DataSet, make_world
from tests.checking.outcomes import NOT_TOLD, PAGE, UNSEEN, outcomes, page, section, written_sections

FAST = ("kitti_object",)


@pytest.mark.parametrize(
    "data",
    [pytest.param(each, id=each.name, marks=() if each.name in FAST else pytest.mark.slow) for each in DATA_SETS],
)
def test_the_page_tells_what_becomes_of_each_corruption(data: DataSet, tmp_path: Path) -> None:
    make_world(tmp_path / "world", *data.folders)
    made = outcomes(data, tmp_path / "world", tmp_path)
    assert section(data, made) == written_sections()[data.name]
    unseen = {name for name, each in made.items() if each.check == UNSEEN}
    assert unseen <= NOT_TOLD
    for name, each in made.items():  # what ingest rejects, check has told; what cannot be listed stops both
        if each.ingest != "takes all":
            assert "fault: broken frames" in each.check or each.check == each.ingest == "stops", name


def test_there_are_at_least_twenty_kinds_for_each_source_with_scans() -> None:
    assert len({each.name for each in CORRUPTIONS}) == len(CORRUPTIONS) >= 40
    for data in DATA_SETS:
        assert sum(applies(each, data) for each in CORRUPTIONS) >= 20, data.name


def test_the_page_has_a_section_for_each_source() -> None:
    assert list(written_sections()) == [data.name for data in DATA_SETS]
    kinds = {source.model_fields["kind"].default for source in SOURCES}
    assert {data.kind for data in DATA_SETS} == kinds - {"kitti", "mixed"}  # these two read several of the others


def test_tests_that_the_page_names_exist() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(named) > 40
    for file, test in named:
        assert re.search(rf"^def {test}\(", (PAGE.parents[1] / "tests" / file).read_text("utf-8"), re.MULTILINE), test


def test_what_stands_before_the_sections_is_kept() -> None:
    assert page(written_sections().values()) == PAGE.read_text(encoding="utf-8")

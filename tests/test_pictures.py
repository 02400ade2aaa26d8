"""``make pictures`` (docs/make_pictures.py)."""

import importlib.util
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import yaml

from simipu_core.errors import SimipuError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_pictures", ROOT / "docs/make_pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compiled(tmp_path: Path) -> Path:
    """A pipeline in which one task hands settings to all, and one artifact passes over a column."""

    def task(name: str, **producers: str) -> dict[str, object]:
        made = {
            key: {"taskOutputArtifact": {"producerTask": producer, "outputArtifactKey": f"{producer}-made"}}
            for key, producer in producers.items()
        }
        settings = {"config": {"taskOutputParameter": {"producerTask": "configure", "outputParameterKey": name}}}
        return {"taskInfo": {"name": name}, "inputs": {"artifacts": made, "parameters": settings}}

    tasks = {
        "configure": {"taskInfo": {"name": "configure"}},
        "pair": task("pair"),
        "pretrain": task("pretrain", pairs="pair"),
        "pair-2": task("pair_depth"),
        "finetune": task("finetune", encoder="pretrain", depth="pair-2"),
        "evaluate": task("evaluate", model="finetune", depth="pair-2"),
    }
    file = tmp_path / "pipeline.yaml"
    file.write_text(yaml.safe_dump({"root": {"dag": {"tasks": tasks}}}) + "---\nplatforms: {}\n", encoding="utf-8")
    return file


def there() -> list[str]:
    return sorted(file.name for file in Path("docs/pictures").iterdir())


def test_edges_come_from_the_compiled_pipeline(pictures: ModuleType, tmp_path: Path) -> None:
    edges = pictures.tasks(compiled(tmp_path))
    assert edges["configure"] == {}
    assert edges["evaluate"] == {"finetune": ["finetune-made"], "pair_depth": ["pair-2-made"], "configure": []}
    with pytest.raises(SimipuError, match="make compile"):
        pictures.tasks(tmp_path / "none.yaml")


def test_tasks_stand_apart_and_arrows_go_to_the_right(pictures: ModuleType, tmp_path: Path) -> None:
    edges = pictures.tasks(compiled(tmp_path))
    made = pictures.layout(edges)
    assert made.bands == ["configure"]
    places = [made.place(slot, number) for number, slots in enumerate(made.columns) for slot in slots]
    assert len(set(places)) == len(places) == 6  # five tasks, and the depth shards on their way to evaluate
    for task, came in edges.items():
        for producer, handed in came.items():
            assert not handed or made.column(producer) < made.column(task)
    assert made.column("pair_depth") == made.column("pretrain")  # as late as it may be


def test_the_graph_is_drawn(pictures: ModuleType, tmp_path: Path) -> None:
    data = np.frombuffer(pictures.dag(compiled(tmp_path)), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape[1] > 2 * picture.shape[0] > 400
    assert (picture < 100).any()


def test_a_large_picture_is_refused(
    pictures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures.write("small.png", b"x" * 1000)
    assert there() == ["small.png"]
    with pytest.raises(SimipuError, match=r"large\.png has 300001 bytes"):
        pictures.write("large.png", b"x" * 300_001)
    assert there() == ["small.png"]
    assert "small.png: 1 kB" in capsys.readouterr().out


def test_without_a_demo_it_says_what_to_run(
    pictures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SimipuError, match="run `make pipeline` first"):
        pictures.main()
    with pytest.raises(SimipuError, match="no artifact of kind pairs"):
        pictures.newest("pairs")


def test_without_a_browser_the_other_pictures_are_made(
    pictures: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build").mkdir()
    (tmp_path / "build/summary.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(pictures, "COMPILED", compiled(tmp_path))
    monkeypatch.setattr(pictures, "newest", lambda kind: tmp_path)
    monkeypatch.setattr(pictures, "scan_on_image", lambda _: np.zeros((4, 4, 3), np.uint8))
    monkeypatch.setattr(pictures, "depth_beside_truth", lambda _: b"x")
    monkeypatch.setattr(pictures.shutil, "which", lambda _: None)
    pictures.main()
    assert there() == ["dag.png", "depth_beside_truth.jpg", "scan_on_image.jpg"]
    assert "No browser is here" in capsys.readouterr().out

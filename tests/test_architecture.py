"""docs/architecture.md is what the code is."""

import re
import tomllib
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def test_every_place_that_it_names_exists() -> None:
    names = re.findall(r"`((?:simipu_core|components|pipelines|tests)/[\w./]*)`", TEXT)
    assert len(names) > 30
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_its_floors_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = [each["layers"] for each in contracts["contracts"] if each["type"] == "layers"]
    (picture,) = re.findall(r"```\n(.*?)```", TEXT, re.DOTALL)
    floors = [re.split(r"\s+", line[:39].strip()) for line in picture.splitlines() if "──" not in line]
    order = {room: floor for floor, rooms in enumerate(floors) for room in rooms}
    checked = [[room.strip().removeprefix("simipu_core.") for room in layer.split("|")] for layer in layers]
    for above, below in pairwise(checked):
        assert max(order.get(room, -1) for room in above) <= min(order.get(room, len(floors)) for room in below)
    rooms = {path.stem for path in (ROOT / "simipu_core").iterdir() if not path.name.startswith("_")}
    assert rooms == {room for layer in checked for room in layer} - {"components", "pipelines"}
    assert order.keys() <= rooms | {"components", "pipelines"}

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


def test_its_layers_are_those_that_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = [each["layers"] for each in contracts["contracts"] if each["type"] == "layers"]
    (picture,) = re.findall(r"```\n(.*?)```", TEXT, re.DOTALL)
    drawn = [re.split(r"\s+", line[:39].strip()) for line in picture.splitlines() if "──" not in line]
    order = {package: number for number, layer in enumerate(drawn) for package in layer}
    checked = [[package.strip().removeprefix("simipu_core.") for package in layer.split("|")] for layer in layers]
    packages = {path.stem for path in (ROOT / "simipu_core").iterdir() if not path.name.startswith("_")}
    assert {package for layer in checked for package in layer} == packages | {"components", "pipelines"}
    assert order.keys() == packages | {"components", "pipelines"}
    for above, below in pairwise(checked):
        assert max(order[package] for package in above) < min(order[package] for package in below)

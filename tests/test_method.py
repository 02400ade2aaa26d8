"""docs/method.md: what the code cites is there, and what it says of the code is so."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from simipu_core.config.validation import validate
from simipu_core.evaluation.metrics import METRICS
from simipu_core.experiment import Experiment
from simipu_core.models.simipu import SimIPU

ROOT = Path(__file__).parents[1]
METHOD = (ROOT / "docs/method.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^#{2,} (.+)$", METHOD, re.MULTILINE)
FOLDERS = ("simipu_core", "components", "pipelines", "examples", "benchmarks", "tests", "experiments", "docs")
CITATION = re.compile(r'docs/method\.md((?:,| and)\s+(?:#\s+)?"[^"]+"(?:(?:,| and)\s+(?:#\s+)?"[^"]+")*)')


def sources() -> Iterator[tuple[Path, str]]:
    """Everything that may cite."""
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".md", ".yaml") and "__pycache__" not in file.parts:
                yield file, file.read_text(encoding="utf-8")


def citations() -> list[tuple[Path, str]]:
    """File and heading of each citation."""
    cited = [(file, quoted) for file, text in sources() for quoted in CITATION.findall(text)]
    return [
        (file, re.sub(r"\s+", " ", heading)) for file, quoted in cited for heading in re.findall(r'"([^"]+)"', quoted)
    ]


def test_headings_are_unique() -> None:
    assert len(HEADINGS) == len(set(HEADINGS)) > 20


def test_every_cited_heading_exists() -> None:
    cited = citations()
    assert [(str(file.relative_to(ROOT)), heading) for file, heading in cited if heading not in HEADINGS] == []
    assert len([file for file, _ in cited if file.is_relative_to(ROOT / "simipu_core")]) >= 30


def test_nothing_cites_a_document_that_is_not_here() -> None:
    stale = re.compile(r"\breference(?:'s)? sections? \d", re.IGNORECASE)
    assert [str(file.relative_to(ROOT)) for file, text in sources() if stale.search(text)] == []


def test_every_file_that_it_names_exists() -> None:
    named = set(re.findall(r"`((?:[\w]+/)*\w+\.(?:py|md|yaml))`", METHOD))
    assert len(named) > 15
    missing = {name for name in named if not any((ROOT / base / name).is_file() for base in ("", "simipu_core"))}
    assert missing == set()


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def preset(name: str) -> dict[str, Any]:
    return dict(leaves(validate(Experiment, {"experiment": "a", "preset": name}, "x.yaml").model_dump()))


def shown(value: Any) -> str:
    """A value as the table writes it."""
    if isinstance(value, list | tuple):
        return ", ".join(shown(item) for item in value)
    return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value).lower()


def test_the_table_of_presets_is_complete_and_true() -> None:
    table = METHOD[METHOD.index("| switch |") :]
    rows = re.findall(r"^\| `([\w.]+)`(?: \(of `(\w+)`\))? \| (.+?) \| (.+?) \|", table, re.MULTILINE)
    listed = {f"{section or 'pretrain'}.{key}": (a.strip("`"), b.strip("`")) for key, section, a, b in rows}
    published, own = preset("reference"), preset("improved")
    differing = {key for key in published if published[key] != own[key]} - {"preset"}
    assert set(listed) == differing
    assert listed == {key: (shown(published[key]), shown(own[key])) for key in differing}


def test_the_metrics_are_those_that_there_are() -> None:
    table = METHOD[METHOD.index("## Metrics") : METHOD.index("## Presets")]
    rows = re.findall(r"^\| (\w[^|]*) \|", table, re.MULTILINE)[1:]
    assert [name for row in rows for name in re.findall(r"\w+", row)] == list(METRICS)
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    (number,) = re.findall(r"(\w+) depth metrics under named protocols", METHOD)
    assert words.index(number.lower()) + 1 == len(METRICS)


@pytest.mark.parametrize("name", ["reference", "improved"])
def test_the_numbers_of_parameters_are_those_of_the_preset(name: str) -> None:
    model = SimIPU(validate(Experiment, {"experiment": "a", "preset": name}, "x.yaml").pretrain)
    accepted = re.sub(r"\s+", " ", METHOD[METHOD.index("## Acceptance numbers") :])
    (numbers,) = re.findall(rf"under `{name}` point encoder ([\d,]+); heads ([\d, ]+); all ([\d,]+);", accepted)
    parts = (model.point_encoder, model.intra_head, model.cross_point_head, model.cross_image_head, model)
    counts = [f"{sum(each.numel() for each in part.parameters()):,}" for part in parts]
    assert counts == [numbers[0], *numbers[1].split(", "), numbers[2]]
    assert f"{counts[0]} under" in METHOD or f"{counts[0]}\nparameters under" in METHOD
    assert f"| {counts[3]} |" in METHOD


@pytest.mark.parametrize(
    "setting",
    sorted(set(re.findall(r"`((?:contrast|points|pair|finetune|point_encoder|image_encoder)\.\w+)[`:]", METHOD))),
)
def test_every_setting_that_it_names_exists(setting: str) -> None:
    assert any(key == setting or key == f"pretrain.{setting}" for key in preset("improved"))

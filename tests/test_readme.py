"""README and docs/: links lead somewhere, commands exist, pictures are small."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

from pipelines.__main__ import app as pipelines_app
from simipu_core.cli import app
from simipu_core.project import experiment_file

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
PICTURES = sorted((ROOT / "docs/pictures").iterdir())


def prose(page: Path) -> str:
    """A page without its code."""
    return re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The addresses that GitHub gives the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands() -> list[tuple[str, list[str]]]:
    """Page and words of each command of a shell block."""
    found = []
    for page in PAGES:
        for block in re.findall(
            r"^ *```sh[^\n]*\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page.name, shlex.split(line, comments=True)) for line in lines]
    return [(page, words) for page, words in found if words]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+://", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file) if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_make_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {(page, words[1]) for page, words in commands() if words[0] == "make" and len(words) > 1}
    named |= {(page.name, target) for page in PAGES for target in re.findall(r"`make ([a-z-]+)", prose(page))}
    assert len(named) > 10
    assert {(page, target) for page, target in named if target not in targets} == set()


def test_commands_of_the_two_programs_exist() -> None:
    programs = {"simipu": get_command(app), "pipelines": get_command(pipelines_app)}
    seen = 0
    for page, words in commands():
        if words[0].endswith("simipu"):
            name, rest = "simipu", words[1:]
        elif words[1:3] == ["-m", "pipelines"]:
            name, rest = "pipelines", words[3:]
        else:
            continue
        command = programs[name]
        while rest and hasattr(command, "commands"):
            assert rest[0] in command.commands, (page, words)
            command, rest = command.commands[rest[0]], rest[1:]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert used <= known, (page, words)
        seen += 1
    assert seen > 10


def test_experiments_exist() -> None:
    named = {
        name
        for page in PAGES
        for name in re.findall(r"(?:EXPERIMENT=|--experiment )([a-z][\w/]+)", page.read_text("utf-8"))
    }
    assert len(named) > 3
    assert all(experiment_file(name).is_file() for name in named)


def test_pictures_are_shown_and_small() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(PICTURES) == 4
    for picture in PICTURES:
        assert f"](docs/pictures/{picture.name})" in text
        assert 5_000 < picture.stat().st_size < 300_000


def test_the_licence_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in (ROOT / "LICENSE").read_text(
        "utf-8"
    )
    dockerfile = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8")
    assert "org.opencontainers.image.licenses=Apache-2.0" in dockerfile
    for name in project["license-files"]:
        assert re.search(rf"^COPY .*\b{name}\b", dockerfile, re.MULTILINE)
        assert f"!{name}" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()

"""What is installed is what is locked, and what is built says on what."""

import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "docker/Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCKS = sorted(ROOT.glob("requirements*.lock"))
SOURCES = {"antlr4-python3-runtime", "kfp-server-api"}
"""What comes as source only and is built with setuptools, which is locked."""


def entries(lock: Path) -> list[Requirement]:
    """The packages of a lock. One may have several versions, each for other platforms."""
    lines = re.findall(r"^[a-z0-9].*(?= \\$)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) > 5
    return [Requirement(line) for line in lines]


def locked(lock: Path) -> set[tuple[str, str]]:
    """Name and version of each package of a lock."""
    return {(entry.name, str(entry.specifier).removeprefix("==")) for entry in entries(lock)}


def names(*stems: str) -> set[str]:
    return {entry.name for stem in stems for entry in entries(ROOT / f"{stem}.lock")}


def test_there_is_a_lock_for_each_group() -> None:
    assert {lock.stem for lock in LOCKS} == {"requirements"} | {
        f"requirements-{group}" for group in PROJECT["dependency-groups"]
    }


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_package_of_a_lock_has_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert not re.search(r"://|^-(i|f)\b|index-url|find-links|trusted-host", text, re.MULTILINE)
    options = set(re.findall(r"^--.*$", text, re.MULTILINE))
    assert options == {"--only-binary :all:", *(f"--no-binary {name}" for name in SOURCES)}
    lines = re.findall(r"^[a-z0-9].*$", text.replace(" \\\n    ", " "), re.MULTILINE)
    assert len(lines) == len(entries(lock))
    for line in lines:
        assert re.fullmatch(r"[a-z0-9._\[\]-]+==\S+( ; [^#]*?)?( --hash=sha256:[0-9a-f]{64})+", line), line


def test_locks_agree_with_each_other() -> None:
    versions: dict[str, set[str]] = {}
    for lock in LOCKS:
        for entry in entries(lock):
            if entry.marker is None or entry.marker.evaluate():
                versions.setdefault(entry.name, set()).add(str(entry.specifier))
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_build_backends_are_locked() -> None:
    build = names("requirements-build")
    needed = {canonicalize_name(Requirement(each).name) for each in PROJECT["build-system"]["requires"]}
    assert needed | {"editables", "setuptools", "uv"} <= build


def installs(text: str) -> Iterator[list[str]]:
    """The words of each command that installs packages."""
    for name, value in re.findall(r"^override (\w+) +:= (.*)$", text, re.MULTILINE):
        text = text.replace(f"$({name})", value)
    text = re.sub(r"^override .*$", "", text, flags=re.MULTILINE)
    for command in re.split(r"\n|&&|;", text):
        if "pip install" in command:
            yield shlex.split(command[command.index("pip install") :])


@pytest.mark.parametrize(("text", "count"), [(DOCKERFILE, 5), (MAKEFILE, 4)], ids=["Dockerfile", "Makefile"])
def test_everything_is_installed_by_hash(text: str, count: int) -> None:
    seen = list(installs(text))
    assert len(seen) == count
    for words in seen:
        if "--no-deps" in words:  # this project itself
            assert words[-1] == "."
        else:
            assert "--require-hashes" in words, words
            given = [words[place + 1] for place, word in enumerate(words) if word == "-r"]
            assert given, words
            assert {ROOT / name for name in given} <= set(LOCKS)
            assert words[-2:] == ["-r", given[-1]], words
        if text is MAKEFILE and "--require-hashes" in words and "requirements-build.lock" in words[-1]:
            continue
        constrained = "UV_BUILD_CONSTRAINT=/source/requirements-build.lock" in text
        assert constrained or "--build-constraint" in words, words


def test_an_image_is_built_on_the_given_base_alone_and_says_so() -> None:
    stages: set[str] = set()
    for base, name in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.MULTILINE):
        assert base == "${BASE}" or base in stages
        stages.add(name)
    assert len(re.findall(r"^FROM ", DOCKERFILE, re.MULTILINE)) == len(stages)
    assert len(re.findall(r"^ARG BASE=", DOCKERFILE, re.MULTILINE)) == 1
    for source in re.findall(r"--from=(\S+)", DOCKERFILE):
        assert source in stages
    assert "org.opencontainers.image.base.name=${BASE}" in DOCKERFILE
    assert not re.search(r"^ADD |\bcurl\b|\bwget\b|apt-get", DOCKERFILE, re.MULTILINE)


def check_bill(file: Path, lock: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    content = json.loads(text)
    assert (content["bomFormat"], content["specVersion"]) == ("CycloneDX", "1.6")
    assert content["metadata"]["component"]["name"] == PROJECT["project"]["name"]
    assert {(part["name"], part["version"]) for part in content["components"]} == locked(lock)
    hashes = {
        found["content"]
        for part in content["components"]
        for reference in part["externalReferences"]
        for found in reference["hashes"]
    }
    assert hashes == set(re.findall(r"sha256:([0-9a-f]{64})", lock.read_text(encoding="utf-8")))


@pytest.mark.slow
def test_make_sbom_lists_what_is_locked_for_wheel_and_images_and_its_licences(tmp_path: Path) -> None:
    done = subprocess.run(["make", "sbom"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    folder = ROOT / "build/sbom"
    of = {
        "wheel": "requirements",
        "train": "requirements",
        "data": "requirements-data",
        "mlflow": "requirements-mlflow",
    }
    for name, lock in of.items():
        check_bill(folder / f"simipu-{name}.cdx.json", ROOT / f"{lock}.lock")
    shorter = tmp_path / "shorter.lock"
    shorter.write_text((ROOT / "requirements.lock").read_text(encoding="utf-8").partition("zipp==")[0])
    with pytest.raises(AssertionError):
        check_bill(folder / "simipu-train.cdx.json", shorter)
    (_, *rows) = (folder / "licences.csv").read_text(encoding="utf-8").splitlines()
    listed = {canonicalize_name(row.split(",")[0].strip('"')) for row in rows}
    installed = {canonicalize_name(each.name) for each in distributions()}
    assert listed == installed & names("requirements", "requirements-mlflow")


def test_the_audit_asks_about_every_lock_and_takes_no_answer_for_a_failure() -> None:
    (recipe,) = re.findall(r"^audit:.*\n\t(.*)$", MAKEFILE, re.MULTILINE)
    assert "for lock in requirements*.lock" in recipe
    assert {"--strict", "--require-hashes"} <= set(recipe.split())

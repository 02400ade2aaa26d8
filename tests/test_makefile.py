"""What is given to make is taken literally, whatever is in it: neither make nor the shell runs any of it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Makefile").read_text(encoding="utf-8")
GIVEN = re.findall(r"[A-Z_]+", TEXT[TEXT.index("GIVEN ") + 5 : TEXT.index("$(foreach")])
TARGETS = {
    "pipeline": ("EXPERIMENT", "SWEEP", "SET", "DATA", "RUNNER"),
    "compile": ("EXPERIMENT", "SWEEP", "SET", "CLUSTER", "IMAGE", "DATA_IMAGE"),
    "submit": ("EXPERIMENT", "SWEEP", "SET", "CLUSTER", "IMAGE", "DATA_IMAGE", "DATA"),
    "upload": ("EXPERIMENT", "SET", "CLUSTER", "IMAGE"),
    "schedule": ("EXPERIMENT", "SET", "CLUSTER", "IMAGE", "DATA", "CRON", "EVERY"),
    "status": ("RUN",),
    "cancel": ("RUN",),
    "models": ("EXPERIMENT",),
    "promote": ("VERSION", "REASON", "EXPERIMENT"),
    "rollback": ("REASON", "EXPERIMENT"),
    "data": ("EXPERIMENT",),
    "images": ("REGISTRY", "BASE"),
    "push": ("REGISTRY",),
    "torture": ("MINUTES", "CAMPAIGN"),
}
"""Commands, and the variables that reach them."""
PROGRAMS = ("python", "simipu", "dvc", "uv")
RECORDER = """#!/bin/sh
test "$1" = --version && exit
for given in "$@"; do printf '<%s>\\n' "$given"; done >> "$LOG"
"""
ATTACKS = (
    "`touch {}`",
    "$$(touch {})",
    "$(shell touch {})",
    "x; touch {}",
    "x' ; touch {} ; '",
    'x" ; touch {} ; "',
    "x\ntouch {}",
    "x && touch {} #",
    "${{x:-`touch {}`}}",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with our Makefile and programs that only write down what they are given, one argument a line."""
    here = tmp_path / "checkout"
    (here / ".venv/bin").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", here)
    for name in ("requirements.lock", "requirements-build.lock", "requirements-dev.lock", "pyproject.toml"):
        (here / name).touch()
    for stamp in ("bin/uv", ".runtime-stamp", ".dev-stamp"):
        (here / ".venv" / stamp).touch()
    for name in (*PROGRAMS, "docker", "git"):
        program = here / ".venv/bin" / name
        program.write_text(RECORDER)
        program.chmod(0o755)
    return here


def make(checkout: Path, *arguments: str, **environment: str) -> str:
    """Run make; the arguments of the programs that it ran."""
    log = checkout / "log"
    log.write_text("")
    plain = {"PATH": f"{checkout}/.venv/bin:{os.environ['PATH']}", "LOG": str(log)}
    command = ["make", "--silent", *arguments]
    subprocess.run(command, cwd=checkout, env=plain | environment, capture_output=True, check=False, timeout=60)
    return log.read_text()


def test_every_variable_is_attacked() -> None:
    attacked = {variable for variables in TARGETS.values() for variable in variables} | {"DOCKER", "PYTHON"}
    assert attacked == set(GIVEN)
    used = set(re.findall(r"\$\$\{?([A-Z_]+)", TEXT))
    assert used - {"PATH"} <= set(GIVEN)
    assert not re.search(rf"\$\((?:{'|'.join(GIVEN)})\)", TEXT.replace("$(filter docker,$(RUNNER))", ""))


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_in_a_variable_is_run(target: str, checkout: Path, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    for attack in (each.format(trap) for each in ATTACKS):
        values = dict.fromkeys((*TARGETS[target], "DOCKER", "PYTHON", "ANOTHER"), attack)
        if target in ("images", "push"):
            del values["DOCKER"]
        make(checkout, target, *(f"{name}={value}" for name, value in values.items()))
        make(checkout, target, **values)
        make(checkout, "--dry-run", target, *(f"{name}={value}" for name, value in values.items()))
        assert not trap.exists(), attack


def test_values_arrive_as_they_were_given(checkout: Path) -> None:
    reason = 'it\'s "better" at night; costs $5 and `time`, ünïcode * ~'
    said = make(checkout, "promote", "VERSION=3", f"REASON={reason}")
    assert said == f"<promote>\n<--experiment>\n<demo>\n<--reason>\n<{reason}>\n<-->\n<3>\n"
    assert make(checkout, "rollback", "EXPERIMENT=a b") == "<rollback>\n<--experiment>\n<a b>\n"
    said = make(checkout, "compile", "SWEEP=one *", "SET=a=1  b=[x]", "CLUSTER=my cluster.yaml", "IMAGE=i@sha256:00")
    assert said.split("\n")[2:] == [
        "<compile>", "<--experiment>", "<demo>", "<--sweep>", "<one>", "<--sweep>", "<*>", "<--set>", "<a=1>",
        "<--set>", "<b=[x]>", "<--cluster>", "<my cluster.yaml>", "<--image>", "<i@sha256:00>", "",
    ]  # fmt: skip
    assert make(checkout, "status") == "<-m>\n<pipelines>\n<status>\n"
    assert make(checkout, "status", "RUN=--help") == "<-m>\n<pipelines>\n<status>\n<-->\n<--help>\n"
    assert make(checkout, "compile", EXPERIMENT="other") == "<-m>\n<pipelines>\n<compile>\n<--experiment>\n<other>\n"


ENGINE = """#!/bin/sh
printf '%s\\n' "$1 $2" >> "$LOG"
test "$1" = inspect && echo "$BASE_NAME"
true
"""
"""A Docker engine whose images were built on $BASE_NAME."""
DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "base", ["python:3.11-slim-bookworm", "python", "", "<no value>", "python:3.11@sha256:0123", f"python-{DIGEST}"]
)
def test_images_on_a_base_without_digest_are_not_pushed(checkout: Path, base: str) -> None:
    (checkout / ".venv/bin/docker").write_text(ENGINE)
    assert "push" not in make(checkout, "push", BASE_NAME=base)


def test_images_on_a_base_by_digest_are_pushed(checkout: Path) -> None:
    (checkout / ".venv/bin/docker").write_text(ENGINE)
    said = make(checkout, "push", BASE_NAME=f"python@sha256:{DIGEST}")
    assert said.count("push --quiet\n") == 3
    assert said.rindex("inspect --format") > said.rindex("push --quiet")


def with_pythons(checkout: Path, *suitable: str) -> Path:
    """A folder with what make starts, and every Python, of which those given are of a right version."""
    (checkout / ".venv/bin/python").unlink()
    programs = checkout / "programs"
    programs.mkdir()
    for name in ("make", "sh"):
        (programs / name).symlink_to(str(shutil.which(name)))
    for name in ("python3.11", "python3.12", "python3.13", "python3", "python"):
        (programs / name).write_text(
            f'#!/bin/sh\ntest "$1" = -m || exit {int(name not in suitable)}\necho "{name} $*" >> "$LOG"\n'
        )
        (programs / name).chmod(0o755)
    return programs


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (("python3.12", "python3.11"), "python3.11"),
        (("python3.13", "python3"), "python3.13"),
        (("python3", "python"), "python3"),
    ],
)
def test_the_first_python_that_suits_makes_the_environment(checkout: Path, there: tuple[str, ...], taken: str) -> None:
    programs = with_pythons(checkout, *there)
    assert make(checkout, ".venv/bin/python", PATH=str(programs)) == f"{taken} -m venv --clear .venv\n"
    named = make(checkout, ".venv/bin/python", PATH=str(programs), PYTHON=str(programs / "python3.11"))
    assert named == ("python3.11 -m venv --clear .venv\n" if "python3.11" in there else "")


def test_without_one_it_is_told_which_are_needed(checkout: Path) -> None:
    programs = with_pythons(checkout)
    for given, tried in (
        ([], "python3.11 python3.12 python3.13 python3 python"),
        (["PYTHON=/no/such python"], "/no/such python"),
    ):
        done = subprocess.run(
            [programs / "make", "--silent", "setup", *given], cwd=checkout, env={"PATH": str(programs)},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.splitlines()[0] == (
            "error: Python 3.11, 3.12 or 3.13 with its module venv is needed, and none of these is it: "
            f"{tried}; install one, or say where it is: PYTHON=/path/to/python3."
        )


def test_the_versions_that_suit_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    classifiers = [name.rpartition(" ")[2] for name in project["classifiers"] if "Python :: 3." in name]
    assert classifiers == ["3.11", "3.12", "3.13"]
    assert project["requires-python"] == ">=3.11,<3.14"
    (suits,) = re.findall(r"SUITS +:= (.+)", TEXT)
    for minor in range(9, 16):
        monkeypatch.setattr(sys, "version_info", (3, minor, 0, "final", 0))
        with pytest.raises(SystemExit) as ended:
            exec(suits)
        assert (not ended.value.code) == (f"3.{minor}" in classifiers)

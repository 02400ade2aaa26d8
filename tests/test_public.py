"""The public names of the package."""

import ast
import inspect
import subprocess
import sys

import pytest

import simipu_core


def test_every_public_name_is_there_and_type_checkers_see_the_same() -> None:
    imports = [node for node in ast.walk(ast.parse(inspect.getsource(simipu_core))) if isinstance(node, ast.ImportFrom)]
    seen = {
        alias.name: node.module
        for node in imports
        if (node.module or "").startswith("simipu_core")
        for alias in node.names
    }
    assert seen == simipu_core._HOMES
    for name in simipu_core.__all__:
        assert getattr(simipu_core, name) is not None
    assert set(simipu_core.__all__) <= set(dir(simipu_core))


def test_other_names_are_unknown() -> None:
    with pytest.raises(AttributeError, match="module 'simipu_core' has no attribute 'nothing'"):
        simipu_core.nothing  # noqa: B018


def test_nothing_is_imported_before_it_is_used() -> None:
    code = "import sys; from simipu_core import project; print({'torch', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

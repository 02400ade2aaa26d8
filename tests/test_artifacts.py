import errno
import json
from pathlib import Path
from typing import Any

import pytest

from simipu_core.artifacts import Manifest, code_revision, read_manifest, verify_files, write_artifact
from simipu_core.errors import SimipuError


def write(out: Path, text: str = "hello", **settings: Any) -> Manifest:
    keywords: dict[str, Any] = {"inputs": {}, "parameters": {"a": 1}, "licence": "CC0-1.0", **settings}
    with write_artifact(out, "catalogue", **keywords) as draft:
        (draft.path / "nested").mkdir()
        (draft.path / "nested/file.txt").write_text(text)
        draft.counts["frames"] = 3
    return read_manifest(out)


def test_the_manifest_describes_what_was_written(tmp_path: Path) -> None:
    manifest = write(tmp_path / "out", origin="/data/raw", mlflow_run_id="abc")
    assert (manifest.kind, manifest.licence, manifest.counts) == ("catalogue", "CC0-1.0", {"frames": 3})
    assert manifest.files["nested/file.txt"].bytes == 5
    assert (manifest.origin, manifest.mlflow_run_id) == ("/data/raw", "abc")
    verify_files(tmp_path / "out", manifest)


def test_the_digest_is_of_content_parameters_and_inputs_only(tmp_path: Path) -> None:
    digest = write(tmp_path / "one").digest
    assert write(tmp_path / "two", origin="/elsewhere", mlflow_run_id="abc").digest == digest
    assert write(tmp_path / "three", "other").digest != digest
    assert write(tmp_path / "four", parameters={"a": 2}).digest != digest
    assert write(tmp_path / "five", inputs={"pairs": "123"}).digest != digest


def test_an_empty_folder_is_replaced_and_a_full_one_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    with pytest.raises(SimipuError, match="already exists; remove it"):
        write(tmp_path / "out")


def fail(out: Path, error: Exception) -> None:
    with write_artifact(out, "pairs", inputs={}, parameters={}, licence="none") as draft:
        (draft.path / "half.parquet").write_text("half")
        raise error


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(SimipuError, match="the disk is full"):
        fail(tmp_path / "out", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(RuntimeError, match="bug"):
        fail(tmp_path / "out", RuntimeError("bug"))
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_sound_artifact_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SimipuError, match="not an artifact"):
        read_manifest(tmp_path)
    out = tmp_path / "out"
    write(out)
    with pytest.raises(SimipuError, match="holds catalogue, but pairs or depth is needed"):
        read_manifest(out, "pairs", "depth")
    (out / "nested/file.txt").write_text("HELLO")
    with pytest.raises(SimipuError, match="content differs"):
        verify_files(out, read_manifest(out))
    (out / "nested/file.txt").write_text("much longer")
    with pytest.raises(SimipuError, match="missing or of another size"):
        read_manifest(out)
    values = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**values, "schema_version": 99}))
    with pytest.raises(SimipuError, match="schema version 99"):
        read_manifest(out)
    (out / "manifest.json").write_text("{")
    with pytest.raises(SimipuError, match="not a readable manifest"):
        read_manifest(out)


def test_the_revision_may_be_set_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    code_revision.cache_clear()
    monkeypatch.setenv("SIMIPU_REVISION", "abc123")
    assert code_revision() == "abc123"
    code_revision.cache_clear()

import errno
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest

from simipu_core.artifacts import Manifest, code_revision, read_manifest, write_artifact
from simipu_core.data.shards import Shards
from simipu_core.errors import SimipuError
from tests import samples


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
    with pytest.raises(SimipuError, match=r"file.txt: its content differs from its manifest; run the step again"):
        read_manifest(out)
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


def test_no_single_change_of_a_manifest_passes(tmp_path: Path) -> None:
    written = write(tmp_path / "out", origin="/data/raw", mlflow_run_id="abc")
    file = tmp_path / "out/manifest.json"
    text = file.read_text()
    for position in range(0, len(text), 2):
        file.write_text(text[:position] + ("1" if text[position] != "1" else "9") + text[position + 1 :])
        with suppress(SimipuError):
            assert read_manifest(tmp_path / "out") == written, file.read_text()


def test_a_manifest_without_its_checksum_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "out")
    values = json.loads((tmp_path / "out/manifest.json").read_text())
    del values["checksum"]
    (tmp_path / "out/manifest.json").write_text(json.dumps(values))
    with pytest.raises(SimipuError, match="differs from its checksum"):
        read_manifest(tmp_path / "out")


@pytest.mark.parametrize("kind", ["pairs", "depth"])
def test_damaged_shards_are_noticed_when_they_are_read(tmp_path: Path, kind: Literal["pairs", "depth"]) -> None:
    rows = {"pairs": [samples.pair_row(0, 50)]} if kind == "pairs" else {"train": [samples.depth_row(0)]}
    folder = samples.write_shards(tmp_path / "shards", kind, **rows)
    (file,) = folder.glob("*.parquet")
    valid = file.read_bytes()

    def content() -> list[Any]:
        shards = Shards(folder, "pairs") if kind == "pairs" else Shards(folder, "depth", "train")
        return [shards.row(0), shards.group_sources]

    expected = content()
    footer = int.from_bytes(valid[-8:-4], "little") + 8
    noticed = 0
    positions = [*range(4, len(valid) - footer, 1501), *range(len(valid) - footer, len(valid), 23)]
    for position in positions:
        file.write_bytes(valid[:position] + bytes([valid[position] ^ 4]) + valid[position + 1 :])
        try:
            assert content() == expected, position  # a byte without a meaning
        except SimipuError:
            noticed += 1
    assert noticed > 0.9 * len(positions)


def test_the_revision_may_be_set_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    code_revision.cache_clear()
    monkeypatch.setenv("SIMIPU_REVISION", "abc123")
    assert code_revision() == "abc123"
    code_revision.cache_clear()

import io
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simipu_core import storage
from simipu_core.errors import SimipuError
from simipu_core.storage import S3Path, StorageError
from simipu_core.storage.s3_path import seekable
from tests.proxy import Proxy
from tests.storage.conftest import Upload


def test_a_path_is_taken_apart_and_put_together_like_others() -> None:
    path = S3Path.at("s3://bucket/raw/a/b.png")
    assert str(path) == path.as_posix() == "s3://bucket/raw/a/b.png"
    assert (path.bucket, path.key, path.prefix) == ("bucket", "raw/a/b.png", "raw/a/b.png/")
    assert (path.name, path.stem, path.suffix, path.is_absolute()) == ("b.png", "b", ".png", True)
    assert str(path.with_name("c.bin")) == "s3://bucket/raw/a/c.bin"
    assert path.relative_to(S3Path.at("s3://bucket/raw/")).as_posix() == "a/b.png"
    assert str(S3Path.at("s3://bucket") / "a#b") == "s3://bucket/a#b"
    assert pickle.loads(pickle.dumps(path)) == path
    assert path.absolute() is path.resolve() is path
    assert storage.absolute("s3://bucket/raw") == "s3://bucket/raw"
    assert isinstance(storage.place("s3://bucket/raw"), S3Path)
    assert type(storage.place("raw")) is type(Path())


def test_addresses_that_are_none_are_refused_without_telling_credentials() -> None:
    with pytest.raises(SimipuError, match="names no bucket"):
        S3Path.at("s3:///raw")
    for address in ("s3://AKIA123:se/cret@bucket/raw", "s3://AKIA123:secret@bucket", "s3://b-c/raw?X-Amz-Signature=ab"):
        with pytest.raises(SimipuError, match="without credentials or signatures") as told:
            S3Path.at(address)
        assert not any(word in str(told.value) for word in ("AKIA", "secret", "=ab"))


def test_it_never_passes_for_a_local_path(tmp_path: Path) -> None:
    path = S3Path.at("s3://bucket/raw.csv")
    for act in (lambda: open(path), lambda: pq.ParquetFile(path), path.mkdir, lambda: path.open("w")):  # noqa: SIM115, PTH123
        with pytest.raises(StorageError, match=r"s3://bucket/raw.csv: is (needed on a local disk|open for reading)"):
            act()
    assert seekable(tmp_path) is tmp_path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    for name in ("top.txt", "a/x_1.png", "a/x_2.bin", "a/deep/er/x_1.png", "b/x_3.png", "bc/none", "a0", "a-b/z"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


@pytest.mark.slow
def test_listing_agrees_with_a_local_folder(tree: Path, upload: Upload) -> None:
    remote = upload(tree, "tree")

    def names(folder: Path, found: object) -> list[str]:
        return sorted(path.relative_to(folder).as_posix() for path in found)  # type: ignore[attr-defined]

    for pattern in ("*", "*/*.png", "a/x_*", "*/deep", "**/x_*", "**/deep/*", "nothing/*", "top.txt/*", "a*/*"):
        storage.s3_path.forget_listings()
        assert names(remote, remote.glob(pattern)) == names(tree, tree.glob(pattern)), pattern
    assert names(remote, remote.rglob("x_1.png")) == names(tree, tree.rglob("x_1.png"))
    for name in ("", "a", "a/deep", "a/deep/er/x_1.png", "top.txt", "b/none", "none/at/all", "a/x_1.png/below"):
        storage.s3_path.forget_listings()
        ours, theirs = remote / name, tree / name
        assert (ours.exists(), ours.is_dir(), ours.is_file()) == (theirs.exists(), theirs.is_dir(), theirs.is_file())
    assert names(remote, (remote / "a").iterdir()) == names(tree, (tree / "a").iterdir())
    with pytest.raises(FileNotFoundError):
        list((remote / "none").iterdir())
    assert (remote / "a0").stat().st_size == 2
    assert (remote / "a0").stat().st_mtime_ns > 1e18
    assert (remote / "a/x_1.png").read_text() == "a/x_1.png"
    with pytest.raises(FileNotFoundError):
        (remote / "a/none").read_bytes()


@pytest.mark.slow
def test_what_was_listed_costs_no_further_request(tree: Path, upload: Upload, weed: Proxy) -> None:
    remote = upload(tree, "tree")
    storage.s3_path.forget_listings()
    assert len(list(remote.rglob("x_*"))) == 4
    assert len(weed.requests) == 1
    assert (remote / "a/deep").is_dir()
    assert not (remote / "a/none").exists()
    assert [path.name for path in (remote / "b").iterdir()] == ["x_3.png"]
    assert len(weed.requests) == 1
    assert (remote / "b/x_3.png").read_bytes() == b"b/x_3.png"
    assert len(weed.requests) == 2


@pytest.mark.slow
def test_parquet_is_read_by_ranges(tmp_path: Path, upload: Upload, weed: Proxy) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    columns = {"small": list(range(4)), "large": [bytes([index]) * 3_000_000 for index in range(4)]}
    pq.write_table(pa.table(columns), folder / "t.parquet", row_group_size=1, compression="none", use_dictionary=False)
    file = upload(folder, "tables") / "t.parquet"
    opened = seekable(file)
    assert isinstance(opened, io.BufferedReader)
    parquet = pq.ParquetFile(opened, pre_buffer=False)
    assert parquet.read(columns=["small"], use_threads=False)["small"].to_pylist() == [0, 1, 2, 3]
    assert parquet.read_row_group(2, use_threads=False)["large"][0].as_py() == bytes([2]) * 3_000_000
    assert all("tables/t.parquet" in request for request in weed.requests[1:])
    with opened as stream:
        assert stream.seek(-4, io.SEEK_END) == file.stat().st_size - 4
        assert stream.read() == b"PAR1"

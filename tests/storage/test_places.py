import hashlib
import io
import json
import os
from pathlib import Path

import pytest

from simipu_core import storage
from simipu_core.errors import SimipuError
from simipu_core.storage.downloads import digests


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    (folder / "nested").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "nested/b.txt").write_text("b")
    return folder


def dvc_directory(objects: Path, entries: dict[str, str]) -> str:
    listing = []
    for name, content in entries.items():
        md5 = hashlib.md5(content.encode()).hexdigest()
        listing.append({"md5": md5, "relpath": name})
        (objects / md5[:2]).mkdir(parents=True, exist_ok=True)
        (objects / md5[:2] / md5[2:]).write_text(content)
    return write_listing(objects, listing)


def write_listing(objects: Path, listing: list[dict[str, str]]) -> str:
    data = json.dumps(listing).encode()
    md5 = hashlib.md5(data).hexdigest()
    (objects / md5[:2]).mkdir(parents=True, exist_ok=True)
    (objects / md5[:2] / f"{md5[2:]}.dir").write_bytes(data)
    return str(objects / md5[:2] / f"{md5[2:]}.dir")


def test_a_plain_path_is_the_folder(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage.resolve(str(raw)) == raw
    monkeypatch.chdir(raw.parent)
    assert storage.resolve("raw") == raw


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    for attempt in (lambda: storage.resolve(str(tmp_path / "nowhere")), lambda: storage.pin(tmp_path / "nowhere")):
        with pytest.raises(SimipuError, match=r"nowhere: no such folder; set `root`"):
            attempt()


def test_a_pinned_folder_resolves_while_it_is_unchanged(raw: Path) -> None:
    uri = storage.pin(raw)
    assert uri.startswith(f"{raw}#")
    assert storage.resolve(uri) == raw
    assert storage.pin(raw) == uri


@pytest.mark.parametrize("change", ["content", "unseen", "time", "name", "new"])
def test_a_changed_folder_no_longer_matches_its_pin(raw: Path, change: str) -> None:
    uri = storage.pin(raw)
    file = raw / "nested/b.txt"
    if change == "content":
        file.write_text("longer")
    elif change == "unseen":
        before = file.stat()
        file.write_text("c")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    elif change == "time":
        os.utime(file, ns=(1, 1))
    elif change == "name":
        file.rename(raw / "nested/c.txt")
    else:
        (raw / "new.txt").write_text("new")
    with pytest.raises(SimipuError, match="changed since the run was submitted; submit the run again"):
        storage.resolve(uri)


def test_a_dangling_link_cannot_be_pinned(raw: Path) -> None:
    (raw / "link").symlink_to(raw / "nowhere")
    with pytest.raises(SimipuError, match="link: cannot be read"):
        storage.pin(raw)


def test_a_dvc_directory_becomes_a_tree_of_links(tmp_path: Path) -> None:
    uri = dvc_directory(tmp_path / "cache/files/md5", {"a.txt": "a", "deep/er/b.txt": "b"})
    folder = storage.resolve(uri, tmp_path / "views")
    assert (folder / "deep/er/b.txt").read_text() == "b"
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.txt")) == ["a.txt", "deep/er/b.txt"]
    made = folder.stat().st_ino
    assert storage.resolve(uri, tmp_path / "views") == folder
    assert folder.stat().st_ino == made
    (folder / "a.txt").unlink()
    assert (storage.resolve(uri, tmp_path / "views") / "a.txt").read_text() == "a"
    assert [path.name for path in (tmp_path / "views").iterdir()] == [folder.name]


@pytest.mark.parametrize("is_shown_before", [False, True])
def test_a_dvc_object_of_another_content_is_refused(tmp_path: Path, is_shown_before: bool) -> None:
    uri = dvc_directory(tmp_path / "cache/files/md5", {"a.txt": "aaaa", "b.txt": "bbbb"})
    if is_shown_before:
        storage.resolve(uri, tmp_path / "views")
    md5 = hashlib.md5(b"bbbb").hexdigest()
    file = tmp_path / "cache/files/md5" / md5[:2] / md5[2:]
    before = file.stat()
    file.write_text("cccc")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):
        with pytest.raises(SimipuError, match=rf"{md5[2:]}: its content does not match its name; remove it and run"):
            storage.resolve(uri, tmp_path / "views")
    file.write_text("bbbb")
    assert (storage.resolve(uri, tmp_path / "views") / "b.txt").read_text() == "bbbb"


def test_dvc_views_lie_below_build_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = dvc_directory(tmp_path / "files/md5", {"a.txt": "a"})
    assert storage.resolve(uri).parent == tmp_path / "build/dvc-views"


@pytest.mark.parametrize("name", ["../a.txt", "/etc/a.txt", "x/../../a.txt", ""])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    uri = dvc_directory(tmp_path / "files/md5", {name: "a"})
    with pytest.raises(SimipuError, match="leads out of the folder"):
        storage.resolve(uri, tmp_path / "views")
    assert not (tmp_path / "views").exists()


@pytest.mark.parametrize("listing", ["[", "3", '[{"md5": "a"}]', "[" * 100_000, "\xff"])
def test_a_listing_that_is_none_is_an_error(tmp_path: Path, listing: str) -> None:
    data = listing.encode("latin-1")
    md5 = hashlib.md5(data).hexdigest()
    file = tmp_path / "files/md5" / md5[:2] / f"{md5[2:]}.dir"
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    with pytest.raises(SimipuError, match="is no listing of a DVC directory"):
        storage.resolve(str(file), tmp_path / "views")


def test_object_names_that_are_no_md5_are_refused(tmp_path: Path) -> None:
    uri = write_listing(tmp_path / "files/md5", [{"md5": "../../../../etc/passwd", "relpath": "a.txt"}])
    with pytest.raises(SimipuError, match="leads out of the folder"):
        storage.resolve(uri, tmp_path / "views")


def test_missing_and_damaged_dvc_objects_are_named_with_the_mend(tmp_path: Path) -> None:
    objects = tmp_path / "files/md5"
    uri = dvc_directory(objects, {"a.txt": "a"})
    md5 = hashlib.md5(b"a").hexdigest()
    (objects / md5[:2] / md5[2:]).unlink()
    with pytest.raises(SimipuError, match=rf"{md5[2:]}: this DVC object is missing; run `dvc pull`"):
        storage.resolve(uri, tmp_path / "views")
    Path(uri).write_text("[]")
    with pytest.raises(SimipuError, match="does not match its name"):
        storage.resolve(uri, tmp_path / "views")
    Path(uri).unlink()
    with pytest.raises(SimipuError, match="run `dvc pull`"):
        storage.resolve(uri, tmp_path / "views")


def dos2unix(content: bytes) -> str:
    return hashlib.md5(content.replace(b"\r\n", b"\n")).hexdigest()


def test_a_directory_of_dvc_2_is_read_with_its_own_digests(tmp_path: Path) -> None:
    """Objects lie below the remote itself, and texts go by the md5 of their content with Unix's line ends."""
    contents = {"a.txt": b"1 2\r\n3 4\r\n", "b.bin": bytes(range(256)) * 9000 + b"\r\n", "c.txt": b"x\r" * 600_000}
    names = {"a.txt": dos2unix(contents["a.txt"]), "b.bin": hashlib.md5(contents["b.bin"]).hexdigest()}
    names["c.txt"] = dos2unix(contents["c.txt"])
    for name, md5 in names.items():
        (tmp_path / "remote" / md5[:2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "remote" / md5[:2] / md5[2:]).write_bytes(contents[name])
    uri = write_listing(tmp_path / "remote", [{"md5": md5, "relpath": name} for name, md5 in names.items()])
    folder = storage.resolve(uri, tmp_path / "views")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents
    (tmp_path / "remote" / names["a.txt"][:2] / names["a.txt"][2:]).write_bytes(b"1 2\r\n3 5\r\n")
    with pytest.raises(SimipuError, match="its content does not match its name"):
        storage.resolve(uri, tmp_path / "views")


def test_digests_of_dvc_3_do_not_forgive_line_ends(tmp_path: Path) -> None:
    uri = dvc_directory(tmp_path / "files/md5", {"a.txt": "1\n"})
    md5 = hashlib.md5(b"1\n").hexdigest()
    (tmp_path / "files/md5" / md5[:2] / md5[2:]).write_bytes(b"1\r\n")
    with pytest.raises(SimipuError, match="its content does not match its name"):
        storage.resolve(uri, tmp_path / "views")


@pytest.mark.parametrize("size", [1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_line_ends_are_told_across_pieces(size: int) -> None:
    content = b"a" * size + b"\r\nb\r"
    assert digests(io.BytesIO(content), "md5-dos2unix") == {hashlib.md5(content).hexdigest(), dos2unix(content)}

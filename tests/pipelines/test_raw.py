import hashlib
from pathlib import Path

import pytest

from pipelines import raw
from simipu_core.errors import SimipuError
from simipu_core.experiment import Experiment, load_experiment

ROOT = Path(__file__).parents[2]


def demo(*overrides: str) -> Experiment:
    return load_experiment(ROOT / "params.yaml", list(overrides))


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """DVC commands that were run."""
    seen: list[tuple[str, ...]] = []
    monkeypatch.setattr(raw, "_dvc", lambda *arguments: seen.append(arguments))
    monkeypatch.setattr("dvc.api.get_url", lambda path, repo: f"{repo}/remote/files/md5/{path}.dir")
    return seen


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_frames_of_dvc_are_made_and_pushed_once(commands: list[tuple[str, ...]]) -> None:
    uris = raw.raw_uris(demo())
    address = f"{ROOT}/remote/files/md5/data/raw.dir"
    assert uris == {"data_pretrain": address, "data_depth": address}
    assert commands == [("repro", "--quiet", "raw"), ("push", "--quiet", "raw")]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_pointer_names_the_version(
    commands: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simipu_core.project.root", lambda: tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/kitti.dvc").touch()
    roots = (f"pretrain_data.root={tmp_path}/data/kitti", f"depth_data.root={tmp_path}/data/kitti")
    assert raw.raw_uris(demo(*roots))["data_depth"] == f"{tmp_path}/remote/files/md5/data/kitti.dir"
    assert commands == [("push", "--quiet", f"{tmp_path}/data/kitti.dvc")]


def test_a_pointer_without_a_copy_names_its_source(
    commands: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/scan.bin").write_bytes(b"scan")
    (tmp_path / "kitti.dvc").touch()
    monkeypatch.setattr("dvc.api.get_url", lambda path, repo: f"{tmp_path}/source")
    uris = raw.raw_uris(demo("finetune.init=torch_default", f"depth_data.root={tmp_path}/kitti"))
    assert uris["data_depth"].startswith(f"{tmp_path}/source#")


def test_other_folders_are_pinned(commands: list[tuple[str, ...]], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scan.bin").write_bytes(name.encode())
    uris = raw.raw_uris(demo(f"pretrain_data.root={tmp_path}/a", f"depth_data.root={tmp_path}/b"))
    assert uris["data_pretrain"].startswith(f"{tmp_path}/a#")
    assert uris["data_depth"].startswith(f"{tmp_path}/b#")
    assert commands == []


def test_without_pretraining_its_frames_are_not_looked_for(tmp_path: Path) -> None:
    (tmp_path / "scan.bin").write_bytes(b"scan")
    roots = (f"pretrain_data.root={tmp_path}/nowhere", f"depth_data.root={tmp_path}")
    uris = raw.raw_uris(demo("finetune.init=torch_default", *roots))
    assert set(uris) == {"data_depth"}


def test_weights_files_are_addressed_by_content(tmp_path: Path) -> None:
    file = tmp_path / "net.pth"
    file.write_bytes(b"one")
    finetuned = demo("finetune.init=imagenet", f"finetune.init_file={file}")
    pretrained = demo("pretrain.image_encoder.init=checkpoint", f"pretrain.image_encoder.init_file={file}")
    before = raw.with_pinned_weights(finetuned).finetune.init_file
    assert before == raw.with_pinned_weights(pretrained).pretrain.image_encoder.init_file
    assert before == f"{file}#{hashlib.sha256(b'one').hexdigest()}"
    file.write_bytes(b"two")
    assert raw.with_pinned_weights(finetuned).finetune.init_file != before
    assert raw.with_pinned_weights(demo()) == demo()


def test_a_missing_weights_file_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(SimipuError, match=r"gone\.pth: no such weights file"):
        raw.with_pinned_weights(demo("finetune.init=checkpoint", f"finetune.init_file={tmp_path}/gone.pth"))


def test_another_world_than_dvcs_is_refused(commands: list[tuple[str, ...]]) -> None:
    with pytest.raises(SimipuError, match=r"synthetic: differs from params\.yaml"):
        raw.raw_uris(demo("synthetic.drives=3"))
    assert commands == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SimipuError, match="nowhere"):
        raw.raw_uris(demo(f"pretrain_data.root={tmp_path}/nowhere", f"depth_data.root={tmp_path}"))


def test_a_failing_dvc_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("simipu_core.project.root", lambda: tmp_path)  # not a DVC project
    with pytest.raises(SimipuError, match="dvc repro raw failed"):
        raw._dvc("repro", "raw")


CONFLICT = "schema: '2.0'\nstages:\n  raw:\n<<<<<<< HEAD\n    cmd: a\n=======\n    cmd: b\n>>>>>>> branch\n"


def test_marks_of_a_merge_are_told_by_file(
    commands: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simipu_core.project.root", lambda: tmp_path)
    for file, root in (("kitti.dvc", "kitti"), ("dvc.lock", "data/raw")):
        (tmp_path / file).write_text(CONFLICT)
        (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
        sentence = rf"{file}: holds the marks of a merge that is not finished \(<<<<<<<\); choose one side\.$"
        with pytest.raises(SimipuError, match=sentence):
            raw.raw_uris(demo("finetune.init=torch_default", f"depth_data.root={tmp_path}/{root}"))
    assert commands == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("remote", ["gs", "azure", "ssh"])
def test_remotes_that_are_not_read_are_refused_by_name(
    commands: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: str
) -> None:
    (tmp_path / "kitti.dvc").touch()
    monkeypatch.setattr("dvc.api.get_url", lambda path, repo: f"{remote}://place/files/md5/ab/cd.dir")
    sentence = rf"^{remote}://.* are not read; .* It is in DVC's remote, of which a local folder and S3 are read\.$"
    with pytest.raises(SimipuError, match=sentence):
        raw.raw_uris(demo("finetune.init=torch_default", f"depth_data.root={tmp_path}/kitti"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_pointer_that_dvc_does_not_understand_is_told_in_its_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dvc.exceptions import DvcException

    def fail(path: str, repo: str) -> str:
        raise DvcException("unable to read: 'kitti.dvc', YAML file structure is corrupted")

    monkeypatch.setattr(raw, "_dvc", lambda *_: None)
    monkeypatch.setattr("dvc.api.get_url", fail)
    (tmp_path / "kitti.dvc").touch()
    with pytest.raises(SimipuError, match=r"kitti: DVC does not know where it lies \(unable to read: .* corrupted\)"):
        raw.raw_uris(demo("finetune.init=torch_default", f"depth_data.root={tmp_path}/kitti"))

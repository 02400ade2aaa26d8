import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from simipu_core.config import LoopConfig
from simipu_core.errors import InterruptionError, SimipuError
from simipu_core.project import checkpoints as checkpoints_place
from simipu_core.training.checkpoint import Checkpoints, TrainingState, checkpoints_for
from simipu_core.training.networks import prepare
from simipu_core.training.stores import LocalStore, S3Store, Store, open_store
from tests.servers import SeaweedFS, seaweedfs
from tests.training.toy import ALONE, CONFIG, assert_equal_states, new_state, train


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    with seaweedfs(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "folder":
        return str(tmp_path / "store")
    server: SeaweedFS = request.getfixturevalue("s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{server.bucket}/{tmp_path.name}"


def test_a_store_keeps_pieces(place: str) -> None:
    store: Store = open_store(place)
    assert store.names() == set()
    assert store.read("a") is None
    store.write("a", b"first")
    store.write("a", b"second")
    store.write("b", bytes(9 << 20))
    assert store.names() == {"a", "b"}
    assert store.read("a") == b"second"
    assert store.read("b") == bytes(9 << 20)
    store.keep({"b", "c"})
    assert store.names() == {"b"}
    store.keep(set())
    assert store.names() == set()


def test_exact_resume_from_any_place(place: str) -> None:
    undisturbed = new_state()
    train(undisturbed)
    with pytest.raises(ZeroDivisionError):
        train(new_state(), checkpoints=Checkpoints(place), after_step=lambda done: {"x": 1 / (10 - done)})
    assert Checkpoints(place).steps() == [9, 6]
    resumed = new_state()
    recorder = train(resumed, checkpoints=Checkpoints(place))
    assert min(step for step in recorder.steps if step is not None) == 10
    assert_equal_states(resumed, undisturbed)


def test_damaged_checkpoints_are_passed_over_and_old_ones_removed(place: str) -> None:
    state, store, pieces = new_state(), Checkpoints(place, keep=3), open_store(place)
    for step in (3, 6, 9, 12):
        store.save(step, state)
    assert store.steps() == [12, 9, 6]
    assert len(pieces.names()) == 6
    pieces.write("step-00000012.safetensors", b"damaged")
    assert store.resume(new_state()) == 9
    pieces.write("step-00000009.json", b"{")
    assert store.resume(new_state()) == 6
    pieces.keep(pieces.names() - {"step-00000006.safetensors"})
    assert store.resume(new_state()) == 0
    store.save(3, state)
    assert store.steps() == [3]
    store.clear()
    assert pieces.names() == set()


def test_no_single_change_of_a_checkpoint_is_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Digits, letters and structure of the values, and bytes of the tensors."""
    state = new_state()
    train(state, steps=3)
    Checkpoints(tmp_path).save(3, state)
    for file in tmp_path.iterdir():
        written = file.read_bytes()
        for position in range(0, len(written), max(1, len(written) // 60)):
            for other in b"0{":
                if written[position] != other:
                    file.write_bytes(written[:position] + bytes([other]) + written[position + 1 :])
                    resumed = new_state()
                    if Checkpoints(tmp_path).resume(resumed):
                        assert_equal_states(resumed, state)  # it was white space
        file.write_bytes(written)
    assert Checkpoints(tmp_path).resume(new_state()) == 3
    assert "the checkpoint of step 3 is damaged, left out" in capsys.readouterr().err


def test_an_equal_training_is_kept_out_until_the_first_has_ended_or_died(tmp_path: Path) -> None:
    mine, yours, other = Checkpoints(tmp_path / "a"), Checkpoints(tmp_path / "a"), Checkpoints(tmp_path / "b")
    refused = rf"a: process {os.getpid()} on \S+ trains with the same data and settings; wait for it"
    with mine.held():
        mine.save(3, new_state())
        with pytest.raises(InterruptionError, match=refused), yours.held():
            raise AssertionError
        with other.held():
            pass
        assert mine.steps() == [3]
    with yours.held():
        yours.clear()
    killed = os.fork()
    if not killed:
        with yours.held():
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(killed, 0)
    assert (tmp_path / ".a.lock").exists()
    with mine.held():
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_killed_save_does_not_count_and_is_cleaned_up(tmp_path: Path) -> None:
    state, store = new_state(), Checkpoints(tmp_path)
    store.save(3, state)
    (tmp_path / "step-00000006.safetensors").write_bytes(b"whole, but without its JSON")
    (tmp_path / ".step-00000006.json.partial").write_bytes(b"{")
    assert store.resume(new_state()) == 3
    store.save(9, state)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"step-0000000{step}.{kind}" for step in (3, 9) for kind in ("json", "safetensors")
    }


@pytest.mark.slow
def test_a_killed_upload_is_aborted_by_the_next_save(s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    store = S3Store(f"s3://{s3.bucket}/uploads")
    store.client.create_multipart_upload(Bucket=s3.bucket, Key="uploads/step-00000003.safetensors")
    Checkpoints(f"s3://{s3.bucket}/uploads").save(6, new_state())
    assert "Uploads" not in store.client.list_multipart_uploads(Bucket=s3.bucket, Prefix="uploads/")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "bucket", "reason"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "wrong-secret"}, None, "access is refused (SignatureDoesNotMatch); check AWS_"),
        ({}, "no-such-bucket", "there is no such bucket (NoSuchBucket); make it"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            None,
            "the server does not answer (EndpointConnectionError); check",
        ),
    ],
)
def test_s3_problems_are_one_sentence_without_credentials(
    s3: SeaweedFS, monkeypatch: pytest.MonkeyPatch, change: dict[str, str], bucket: str | None, reason: str
) -> None:
    for name, value in (s3.environment | change | {"AWS_MAX_ATTEMPTS": "1"}).items():
        monkeypatch.setenv(name, value)
    store = Checkpoints(f"s3://{bucket or s3.bucket}/x")
    acts: list[Callable[[], object]] = [lambda: store.save(1, new_state()), lambda: store.resume(new_state())]
    for act in acts[1:] if bucket else acts:  # SeaweedFS makes a missing bucket when it is written to
        with pytest.raises(SimipuError, match=re.escape(reason)) as caught:
            act()
        assert "\n" not in str(caught.value)
        assert not any(value in str(caught.value) for name, value in s3.environment.items() if "KEY" in name)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SimipuError, match=r"file/store: checkpoints cannot be written \(Not a directory\)"):
        Checkpoints(tmp_path / "file" / "store").save(1, new_state())


def test_an_address_without_a_bucket_is_refused() -> None:
    with pytest.raises(SimipuError, match=r"^s3:///pretrain-\w+: names no bucket"):
        checkpoints_for("s3://", "pretrain", CONFIG, {})


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(3, new_state())
    with pytest.raises(SimipuError, match="step 3 was written by another version of this code"):
        Checkpoints(tmp_path).resume(TrainingState(nn.Linear(2, 2), [], []))


def test_checkpoints_are_kept_apart_by_what_decides_the_result(tmp_path: Path) -> None:
    def place(digest: str, **changes: object) -> str:
        store = checkpoints_for(tmp_path, "pretrain", CONFIG.model_copy(update=changes), {"pairs": digest})
        assert store
        return store.place

    assert place("a") == place("a") == place("a", workers=7, checkpoint_every=1)
    assert len({place("a"), place("b"), place("a", epochs=2), place("a", seed=1)}) == 4
    assert checkpoints_for(None, "pretrain", CONFIG, {}) is None


def test_the_place_is_a_folder_or_an_s3_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMIPU_CHECKPOINTS", "s3://bucket/some/where/")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    remote = checkpoints_for(checkpoints_place(), "pretrain", CONFIG, {})
    assert remote
    assert S3Store(remote.place).bucket == "bucket"
    assert S3Store(remote.place).prefix.startswith("some/where/pretrain-")
    monkeypatch.setenv("SIMIPU_CHECKPOINTS", str(tmp_path))
    local = checkpoints_for(checkpoints_place(), "pretrain", CONFIG, {})
    assert local
    assert Path(local.place).parent == tmp_path
    assert isinstance(open_store(local.place), LocalStore)


def test_resume_keeps_the_memory_order_of_channels_last(tmp_path: Path) -> None:
    """Fused steps walk parameters and their slots side by side."""
    images = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))

    def state() -> TrainingState:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 3))
        prepare(model, LoopConfig(epochs=1, batch_size=2, channels_last=True), ALONE)
        optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(model.parameters(), 0.1, fused=True)]
        return TrainingState(model, optimizers, [torch.optim.lr_scheduler.StepLR(optimizers[0], 5)])

    def run(state: TrainingState, **options: object) -> None:
        train(state, lambda batch: (state.model(images).square().mean(), dict), steps=8, **options)

    whole, killed, resumed = state(), state(), state()
    run(whole)
    with pytest.raises(ZeroDivisionError):
        run(killed, checkpoints=Checkpoints(tmp_path), after_step=lambda done: {"x": 1 / (5 - done)})
    run(resumed, checkpoints=Checkpoints(tmp_path))
    assert resumed.model[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[index]
    assert_equal_states(resumed, whole)

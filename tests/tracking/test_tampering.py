"""What somebody who reaches MLflow, and no more, cannot do: turn the champion without a trace."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from mlflow.tracking import MlflowClient

from simipu_core.artifacts import sha256_file
from simipu_core.config import TrackingConfig
from simipu_core.errors import SimipuError
from simipu_core.tracking import promotion, promotion_log, signing
from simipu_core.tracking.overview import overview
from simipu_core.tracking.promotion import fetch, promote, promote_instead_of, repair, rollback
from simipu_core.tracking.promotion_log import log_name
from simipu_core.tracking.signing import SIGNING_KEY, TRUSTED_KEYS
from tests.tracking.versions import register, weights

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def champion(client: MlflowClient, config: TrackingConfig) -> int:
    return int(client.get_model_version_by_alias(config.model_name, "champion").version)


def is_refused(client: MlflowClient, config: TrackingConfig, out: Path, problem: str) -> None:
    """Promotion, rollback, repair, the gate and serving all refuse, and `models` reports."""
    before = champion(client, config)
    for attempt in (
        lambda: promote(2, config),
        lambda: rollback(config),
        lambda: repair(config),
        lambda: fetch(config, out),
    ):
        with pytest.raises(SimipuError, match=problem):
            attempt()
    assert not out.exists()
    with promotion.champion(config) as found:
        assert found is not None
        assert problem in (found.problem or "")
    assert problem in (promote_instead_of(before, 2, config, reason="better", by="a run") or "")
    assert any(problem in each for each in overview(config).problems)
    assert champion(client, config) == before


def test_a_deleted_log_under_an_alias_is_refused(client: MlflowClient, config: TrackingConfig, tmp_path: Path) -> None:
    promote(1, config)
    client.delete_registered_model(log_name(config.model_name))
    client.set_registered_model_alias(config.model_name, "champion", "4")
    is_refused(client, config, tmp_path / "out", "entries 1 were deleted or changed")
    client.delete_registered_model_tag(config.model_name, "simipu.promotions")
    is_refused(client, config, tmp_path / "out", "is empty, but the alias champion is at version 4")
    promote(1, config, reason="it was champion on Monday")
    assert overview(config).problems == ()
    assert champion(client, config) == 1


def test_a_log_whose_last_entries_are_deleted_is_refused(
    client: MlflowClient, config: TrackingConfig, tmp_path: Path
) -> None:
    promote(1, config)
    promote(2, config)
    client.delete_model_version(log_name(config.model_name), "2")
    client.set_registered_model_alias(config.model_name, "champion", "1")
    is_refused(client, config, tmp_path / "out", "entries 2 were deleted or changed")
    promote(2, config, reason="the last one before the attack")
    assert overview(config).problems == ()
    assert [entry.number for entry in promotion_log.read(client, config.model_name).entries] == [1, 3]


def test_an_entry_that_cannot_be_read_is_refused(client: MlflowClient, config: TrackingConfig, tmp_path: Path) -> None:
    promote(1, config)
    assert (
        changes(client, config, [(tag, "x") for tag in ("action", "weights_sha256", "based_on", "lost")]) == [(1,)] * 4
    )
    client.set_model_version_tag(log_name(config.model_name), "1", "action", "x")
    is_refused(client, config, tmp_path / "out", "entries 1 were deleted or changed")


def changes(client: MlflowClient, config: TrackingConfig, tags: list[tuple[str, str]]) -> list[tuple[int, ...]]:
    """Change tags of the log's first entry, one at a time; the entries that are missing then."""
    name, found = log_name(config.model_name), []
    for tag, value in tags:
        before = client.get_model_version(name, "1").tags.get(tag)
        client.set_model_version_tag(name, "1", tag, value)
        found.append(promotion_log.read(client, config.model_name).lost)
        if before is None:
            client.delete_model_version_tag(name, "1", tag)
        else:
            client.set_model_version_tag(name, "1", tag, before)
    assert promotion_log.read(client, config.model_name).lost == ()
    return found


def test_a_log_begun_anew_does_not_hide_later_deletions(client: MlflowClient, config: TrackingConfig) -> None:
    for version in (1, 2):
        promote(version, config)
    client.delete_registered_model(log_name(config.model_name))
    promote(1, config, reason="begun anew")
    promote(2, config)
    promote(1, config)
    client.delete_model_version(log_name(config.model_name), "2")
    assert promotion_log.read(client, config.model_name).lost == (2,)


@pytest.mark.parametrize("tag", ["gate", "weights_sha256"])
def test_a_version_without_its_tags_is_not_promoted(
    client: MlflowClient, config: TrackingConfig, tmp_path: Path, tag: str
) -> None:
    client.delete_model_version_tag(config.model_name, "1", tag)
    weights(tmp_path, 1).write_bytes(b"tampered")
    said = {"gate": "was not judged by the gate", "weights_sha256": "weights_sha256 is missing"}[tag]
    with pytest.raises(SimipuError, match=said):
        promote(1, config)
    with pytest.raises(SimipuError, match="weights"):
        promote(1, config, reason="all the same")
    assert "weights" in (promote_instead_of(None, 1, config, reason="better", by="a run") or "")
    assert promotion_log.read(client, config.model_name).entries == ()


def test_weights_that_changed_after_the_promotion_are_not_served(
    client: MlflowClient, config: TrackingConfig, tmp_path: Path
) -> None:
    """Not even where the digest of the version was changed with them."""
    promote(1, config)
    promote(2, config)
    for version in (1, 2):
        weights(tmp_path, version).write_bytes(b"tampered")
        tampered = sha256_file(weights(tmp_path, version))
        client.set_model_version_tag(config.model_name, str(version), "weights_sha256", tampered)
    with pytest.raises(SimipuError, match="version 2: its weights are not the ones"):
        fetch(config, tmp_path / "out")
    with pytest.raises(SimipuError, match="version 1: its weights are not the ones"):
        rollback(config)


def test_the_champion_is_fetched_for_serving(client: MlflowClient, config: TrackingConfig, tmp_path: Path) -> None:
    with pytest.raises(SimipuError, match="there is no champion"):
        fetch(config, tmp_path / "out")
    promote(1, config)
    assert fetch(config, tmp_path / "served" / "out") == 1
    assert [path.name for path in (tmp_path / "served").iterdir()] == ["out"]
    assert (tmp_path / "served" / "out").read_bytes() == b"weights 1"
    client.set_registered_model_alias(config.model_name, "champion", "4")
    with pytest.raises(SimipuError, match="the alias champion is at version 4"):
        fetch(config, tmp_path / "other")


def test_an_entry_says_what_became_champion(client: MlflowClient, config: TrackingConfig, tmp_path: Path) -> None:
    client.set_model_version_tag(config.model_name, "1", "image", "simipu@sha256:00ff")
    promote(1, config)
    (entry,) = promotion_log.read(client, config.model_name).entries
    registered = client.get_model_version(config.model_name, "1").tags
    assert entry.weights_sha256 == registered["weights_sha256"]
    assert (entry.data_digest, entry.image) == ("d" * 64, "simipu@sha256:00ff")


@pytest.fixture
def key(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a key and its `.pub` file."""

    def make(name: str) -> Path:
        made = Ed25519PrivateKey.generate()
        private = made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        public = made.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        (tmp_path / name).write_bytes(private)
        (tmp_path / f"{name}.pub").write_bytes(public + f" {name}\n".encode())
        return tmp_path / name

    return make


@pytest.fixture
def trusted(key: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Signatures are demanded, and this process has a trusted key. Returns the file of trusted keys."""
    mine = key("ada")
    file = tmp_path / "trusted"
    file.write_text(f"# who may promote\n\n{mine.with_suffix('.pub').read_text()}")
    monkeypatch.setenv(SIGNING_KEY, str(mine))
    monkeypatch.setenv(TRUSTED_KEYS, str(file))
    return file


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_keys_of_ssh_keygen_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, passphrase in (("plain", ""), ("locked", "a long passphrase")):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", name, "-f", str(tmp_path / name)]
        subprocess.run(command, check=True)
    monkeypatch.setenv(TRUSTED_KEYS, str(tmp_path / "plain.pub"))
    monkeypatch.setenv(SIGNING_KEY, str(tmp_path / "plain"))
    signature = signing.sign({"a": "1"})
    assert signing.is_trusted({"a": "1"}, signature, signing.trusted_keys())
    assert not signing.is_trusted({"a": "2"}, signature, signing.trusted_keys())
    monkeypatch.setenv(SIGNING_KEY, str(tmp_path / "locked"))
    with pytest.raises(SimipuError, match="without a passphrase"):
        signing.sign({"a": "1"})


def test_signed_promotions_count(client: MlflowClient, config: TrackingConfig, trusted: Path, tmp_path: Path) -> None:
    promote(1, config)
    promote(3, config, reason="bei Nacht besser: ünïcode, \n and a second line")
    assert rollback(config, reason="no")[0].version == 1
    assert fetch(config, tmp_path / "out") == 1
    assert overview(config).problems == ()


def test_a_changed_entry_is_refused(
    client: MlflowClient, config: TrackingConfig, trusted: Path, tmp_path: Path
) -> None:
    promote(1, config)
    changed = [
        ("version", "4"),
        ("weights_sha256", "f" * 64),
        ("data_digest", "e" * 64),
        ("image", "other@sha256:00"),
        ("by", "eve"),
        ("why", "because"),
        ("at", "2020-01-01T00:00:00Z"),
        ("signature", "AAAA"),
        ("signature", "ü"),
    ]
    assert changes(client, config, changed) == [(1,)] * len(changed)
    client.delete_model_version_tag(log_name(config.model_name), "1", "signature")
    is_refused(client, config, tmp_path / "out", "entries 1 were deleted or changed, or are not signed")


def test_a_forged_entry_is_refused_and_a_person_settles_it(
    client: MlflowClient,
    config: TrackingConfig,
    trusted: Path,
    key: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    promote(1, config)
    for forger in (None, key("eve")):
        with monkeypatch.context() as elsewhere:
            elsewhere.delenv(TRUSTED_KEYS)
            elsewhere.delenv(SIGNING_KEY)
            if forger:
                elsewhere.setenv(SIGNING_KEY, str(forger))
            promote(4, config, reason="mine")
        number = len(client.search_model_versions(f"name = '{log_name(config.model_name)}'"))
        is_refused(client, config, tmp_path / "out", f"entries {number} were deleted or changed, or are not signed")
        promote(1, config, reason="the forged one does not count")
        assert (overview(config).problems, champion(client, config)) == ((), 1)
        with monkeypatch.context() as elsewhere:
            elsewhere.delenv(TRUSTED_KEYS)
            assert promotion_log.read(client, config.model_name).champion == 1  # also for who does not verify


def test_a_signature_holds_for_one_model_only(
    client: MlflowClient, config: TrackingConfig, trusted: Path, tmp_path: Path
) -> None:
    promote(1, config)
    (entry,) = client.search_model_versions(f"name = '{log_name(config.model_name)}'")
    other = TrackingConfig(model_name=f"{config.model_name}-other")
    client.create_registered_model(other.model_name)
    client.create_registered_model(log_name(other.model_name))
    register(client, other, tmp_path / "other")
    client.create_model_version(log_name(other.model_name), "promotion:/x", tags=dict(entry.tags))
    assert promotion_log.read(client, other.model_name).lost == (1,)


def test_without_a_trusted_key_nothing_is_written(
    client: MlflowClient,
    config: TrackingConfig,
    trusted: Path,
    key: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    refusals = {"": "promotions must be signed; set SIMIPU_SIGNING_KEY", str(key("eve")): "is not among the keys of"}
    refusals |= {str(tmp_path / "nothing"): "cannot be read", str(trusted): "is no ed25519 key without a passphrase"}
    for place, said in refusals.items():
        monkeypatch.setenv(SIGNING_KEY, place)
        with pytest.raises(SimipuError, match=said):
            promote(1, config)
        assert said in (promote_instead_of(None, 1, config, reason="better", by="a run") or "")
    assert promotion_log.read(client, config.model_name).entries == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no key"),
        ("# only this\n", "holds no key"),
        ("ssh-rsa AAAA eve\n", "line 1 is no public ed25519 key"),
        ("\x00\xff\n", "line 1 is no public ed25519 key"),
        (None, "cannot be read"),
    ],
)
def test_a_broken_file_of_keys_is_refused_by_name(
    client: MlflowClient,
    config: TrackingConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str | None,
    said: str,
) -> None:
    if text is not None:
        (tmp_path / "keys").write_text(text)
    monkeypatch.setenv(TRUSTED_KEYS, str(tmp_path / "keys"))
    with pytest.raises(SimipuError, match=f"keys: {said}"):
        overview(config)

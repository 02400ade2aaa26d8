import time
from pathlib import Path

import pytest

from simipu_core.errors import SimipuError
from simipu_core.models import hub
from simipu_core.models.hub import HubFile, newest
from tests.models.hub import HubServer

NAMED = ("someone/weights", "model.safetensors")


@pytest.fixture
def served(hub_server: HubServer) -> HubServer:
    hub_server.files[NAMED] = b"content"
    return hub_server


def test_a_file_is_downloaded_once(served: HubServer) -> None:
    file = HubFile.at(served.address(*NAMED))
    assert file.address == served.address(*NAMED)
    assert file.fetch().read_bytes() == b"content"
    served.files.clear()
    assert file.fetch().read_bytes() == b"content"
    assert served.downloads == 1


def test_the_newest_becomes_an_address_of_one_content_and_stays_it(served: HubServer) -> None:
    first = newest(*NAMED)
    assert first.address == served.address(*NAMED)
    served.files[NAMED] = b"changed"
    assert newest(*NAMED) == first
    assert first.fetch().read_bytes() == b"content"


def test_content_that_is_not_what_the_address_names_is_refused(served: HubServer) -> None:
    file = HubFile.at(served.address(*NAMED))
    served.files[NAMED] = b"poisons"  # of equal size, in the same revision
    with pytest.raises(SimipuError, match=rf"#{file.sha256}: what came has the sha256 .* is not loaded"):
        file.fetch()


def test_content_that_is_not_what_the_hub_announced_is_refused(served: HubServer) -> None:
    served.announced[NAMED] = "0" * 64
    with pytest.raises(SimipuError, match=rf"#{'0' * 64}: what came has the sha256 .* is not loaded"):
        newest(*NAMED).fetch()


def test_a_damaged_cache_is_refused(served: HubServer) -> None:
    file = HubFile.at(served.address(*NAMED))
    file.fetch().write_bytes(b"damaged")
    with pytest.raises(SimipuError, match=r"delete .*model\.safetensors"):
        file.fetch()
    with pytest.raises(SimipuError, match=r"delete .*model\.safetensors"):
        newest(*NAMED).fetch()


def test_a_hub_that_announces_no_sha256_is_taken_at_its_word(served: HubServer) -> None:
    served.announced[NAMED] = "of-another-kind"
    assert newest(*NAMED).address == served.address(*NAMED)


@pytest.mark.parametrize(
    "address",
    [
        "hf://someone/weights/model.safetensors",
        f"hf://someone/weights@main/model.safetensors#{'0' * 64}",
        f"hf://someone/weights@{'0' * 40}/model.safetensors",
        f"hf://someone/weights@{'0' * 40}/model.safetensors#{'0' * 63}",
        f"hf://someone/weights@{'0' * 40}#{'0' * 64}",
        f"hf://weights@{'0' * 40}/model.safetensors#{'0' * 64}",
    ],
)
def test_an_address_names_revision_and_digest(address: str) -> None:
    with pytest.raises(SimipuError, match="write hf://OWNER/NAME@REVISION/FILE#SHA256"):
        HubFile.at(address)


def test_a_file_that_is_not_there_is_told(served: HubServer) -> None:
    with pytest.raises(SimipuError, match=r"other\.pth of someone/weights cannot be downloaded"):
        newest("someone/weights", "other.pth")


def test_without_a_network_there_is_one_sentence_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(hub, "hf_hub_url", lambda *_, **__: "http://127.0.0.1:9/model.safetensors")  # nobody listens
    begun = time.monotonic()
    with pytest.raises(SimipuError, match="cannot be downloaded from the Hugging Face hub") as caught:
        newest(*NAMED)
    assert time.monotonic() - begun < 5
    assert "set init_file" in str(caught.value)
    assert "\n" not in str(caught.value)

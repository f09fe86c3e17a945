"""Places where users keep weights: files, folders, Hugging Face's cache and its hub."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

from covis.engines.errors import CovisError, ExitCode
from covis.export.weights.find import PICKLES, find_weights
from covis.export.weights.load import read_weights
from covis.export.weights.shards import INDEX
from tests.export.weights.test_shards import NAMES, write_shards

WEIGHTS = {"a": torch.arange(3.0), "b": torch.arange(5.0), "c": torch.arange(2.0)}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A repository's folder of Hugging Face's cache: files are links to `blobs`."""
    repository = tmp_path / "models--somebody--model"
    for name in ("blobs", "refs", "snapshots/0123abcd"):
        (repository / name).mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abcd")
    save_file(WEIGHTS, repository / "blobs" / "d1635")
    link = repository / "snapshots" / "0123abcd" / "model.safetensors"
    link.symlink_to("../../blobs/d1635")
    return repository


def refusal(path: Path | str, code: ExitCode = ExitCode.USER) -> str:
    with pytest.raises(CovisError) as caught:
        find_weights(path)
    assert caught.value.code == code and "\n" not in str(caught.value)
    return str(caught.value)


def test_each_place_of_a_cache_is_its_file(cache: Path) -> None:
    snapshot = cache / "snapshots" / "0123abcd"
    file = snapshot / "model.safetensors"
    for given in (cache, snapshot, file, str(file)):
        assert find_weights(given) == file
        assert read_weights(find_weights(given))["b"].tolist() == [0, 1, 2, 3, 4]
    blob = cache / "blobs" / "d1635"
    assert find_weights(blob) == blob and read_weights(blob).keys() == WEIGHTS.keys()


def test_the_branch_main_chooses_between_snapshots(cache: Path) -> None:
    (cache / "snapshots" / "ffff").mkdir()
    assert find_weights(cache).parent.name == "0123abcd"
    for text in ("eeee", "..", "../..", "/", "", "\x00", "a" * 5000):
        (cache / "refs" / "main").write_text(text)
        assert "2 snapshots (0123abcd, ffff); name the .safetensors file" in refusal(cache)
    (cache / "refs" / "main").unlink()
    (cache / "snapshots" / "ffff").rmdir()
    assert find_weights(cache).parent.name == "0123abcd"


def test_an_interrupted_download_is_named(cache: Path) -> None:
    (cache / "blobs" / "d1635").unlink()
    assert "this is a folder without weights" in refusal(cache)
    assert "no such weights file" in refusal(cache / "snapshots" / "0123abcd" / "model.safetensors")


def test_folders_with_one_checkpoint_are_that_checkpoint(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "fine-tuned.safetensors")
    assert find_weights(tmp_path) == tmp_path / "fine-tuned.safetensors"
    save_file(WEIGHTS, tmp_path / "other.safetensors")
    assert refusal(tmp_path).endswith(
        "this is a folder; name a file in it: fine-tuned.safetensors, other.safetensors"
    )
    write_shards(WEIGHTS, tmp_path)
    assert find_weights(tmp_path) == tmp_path / INDEX
    save_file(WEIGHTS, tmp_path / "model.safetensors")
    assert find_weights(tmp_path) == tmp_path / "model.safetensors"


@pytest.mark.parametrize("suffix", [*PICKLES, ".PT"])
def test_a_pickle_names_the_command_that_converts_it(tmp_path: Path, suffix: str) -> None:
    pickle = tmp_path / f"model{suffix}"
    pickle.write_bytes(b"x")
    assert "convert this one: covis convert-checkpoint FILE OUT.safetensors" in refusal(pickle)
    message = refusal(tmp_path)
    assert f"this is a folder with pickles alone (model{suffix}); convert one: covis" in message


def hub_error(kind: type[Exception], text: str) -> Exception:
    """An error of the hub client without the response of a server, which its classes ask for."""
    error = kind.__new__(kind)
    Exception.__init__(error, text)
    return error


class Hub:
    """Replacement of huggingface_hub.hf_hub_download that has some files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.asked: list[tuple[str, str | None]] = []
        self.folder = folder
        monkeypatch.setattr("huggingface_hub.hf_hub_download", self)

    def __call__(self, repository: str, filename: str, *, revision: str | None = None) -> str:
        self.asked.append((filename, revision))
        if not (self.folder / filename).is_file():
            raise hub_error(errors.EntryNotFoundError, f"404: {repository} has no {filename}")
        return str(self.folder / filename)


def test_shards_are_fetched_where_there_is_no_whole_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_shards(WEIGHTS, tmp_path)
    hub = Hub(monkeypatch, tmp_path)
    found = find_weights("somebody/sharded", "v2")
    assert [name for name, _ in hub.asked] == ["model.safetensors", INDEX, *NAMES, "config.json"]
    assert {revision for _, revision in hub.asked} == {"v2"}
    assert read_weights(found).keys() == WEIGHTS.keys()


def test_a_repository_of_pickles_names_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Hub(monkeypatch, tmp_path)
    message = refusal("facebook/VGGT-1B-Commercial")
    assert message.startswith("facebook/VGGT-1B-Commercial: model.safetensors could not be fetched")
    assert message.endswith("covis convert-checkpoint converts a pickle")


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (hub_error(errors.LocalEntryNotFoundError, "offline"), "check the name and the network"),
        (ConnectionError("no route\nto host"), "check the name and the network"),
        (hub_error(errors.GatedRepoError, "403"), "accept its licence on its page"),
    ],
    ids=["offline", "no network", "gated"],
)
def test_a_hub_out_of_reach_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, hint: str
) -> None:
    def failing(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", failing)
    assert hint in refusal("somebody/model", ExitCode.ENVIRONMENT)

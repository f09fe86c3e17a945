"""Checkpoints in several files: read and merged exactly, and every way to be wrong."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from covis.engines.bundle.bundle import open_bundle
from covis.engines.errors import CovisError, ExitCode
from covis.export.models import load_model
from covis.export.weights.entries import read_entries
from covis.export.weights.load import read_weights
from covis.export.weights.shards import INDEX, merge_shards
from tests.tiny_vggt import CONFIG, export_tiny_bundle, random_weights

NAMES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def write_shards(weights: dict[str, Tensor], folder: Path) -> Path:
    """Split weights into two shards, and return their index."""
    keys = sorted(weights)
    parts = keys[: len(keys) // 3], keys[len(keys) // 3 :]
    weight_map = {}
    for name, part in zip(NAMES, parts, strict=True):
        save_file({key: weights[key] for key in part}, folder / name)
        weight_map |= dict.fromkeys(part, name)
    return write_index(folder, weight_map)


def write_index(folder: Path, weight_map: Any) -> Path:
    record = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(record))
    return folder / INDEX


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return load_file(random_weights(tmp_path_factory.mktemp("weights")))


def test_an_index_and_its_folder_are_read_as_one_checkpoint(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    index = write_shards(weights, tmp_path)
    for given in (index, tmp_path):
        state = load_model("vggt", CONFIG, given).state_dict()
        assert all(torch.equal(state[key], weights[key]) for key in state)


def test_shards_of_several_types_become_one_aligned_file(tmp_path: Path) -> None:
    weights = {
        "a": torch.randn(3).half(),
        "b": torch.randn(5, 3),
        "c": torch.randn(1).bfloat16(),
        "d": torch.randn(4),
        "e": torch.zeros(0, 4),
    }
    merge_shards(write_shards(weights, tmp_path), tmp_path / "whole.safetensors")
    merged = load_file(tmp_path / "whole.safetensors")
    assert merged.keys() == weights.keys()
    assert all(torch.equal(merged[key], weights[key]) for key in weights)
    entries = read_entries(tmp_path / "whole.safetensors")
    assert all(entry.offset % weights[key].itemsize == 0 for key, entry in entries.items())


@pytest.mark.parametrize("options", [{}, {"dtype": "float16"}, {"precision": "fp16"}])
def test_a_bundle_of_shards_contains_their_tensors_in_one_file(
    weights: dict[str, Tensor],
    tmp_path: Path,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if the keys have a prefix, and the shards are links of a cache."""
    blobs, folder = tmp_path / "blobs", tmp_path / "links"
    blobs.mkdir()
    folder.mkdir()
    write_shards({f"module.{key}": value for key, value in weights.items()}, blobs)
    for number, name in enumerate((*NAMES, INDEX)):
        (blobs / name).rename(blobs / f"{number}")
        (folder / name).symlink_to(blobs / f"{number}")
    if "precision" not in options:  # the graphs are not looked at
        monkeypatch.setattr("covis.export.exporter.write_graphs", lambda *_: ())
    bundle = export_tiny_bundle(tmp_path, weights=folder, **options)
    stored = load_file(bundle / "model.safetensors")
    unused = {"module.aggregator.patch_embed.mask_token"} if "precision" in options else set()
    assert stored.keys() == {f"module.{key}" for key in weights} - unused
    assert all(
        torch.equal(value, weights[key.removeprefix("module.")].to(value.dtype))
        for key, value in stored.items()
    )
    narrow = {value.dtype for value in stored.values()} - {torch.float32}
    assert narrow == ({torch.float16} if options else set())
    assert open_bundle(bundle).manifest.weights.source == INDEX
    assert all((folder / name).is_symlink() for name in (*NAMES, INDEX))


def refusal(path: Path) -> str:
    start = time.process_time()
    with pytest.raises(CovisError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert caught.value.code == ExitCode.USER and "\n" not in message and len(message) < 1000
    assert time.process_time() - start < 20  # else minutes, or for ever
    return message


NOT_IN_FOLDER: dict[str, Any] = {
    "above": "../model.safetensors",
    "absolute": "/etc/model.safetensors",
    "below": "sub/model.safetensors",
    "dots": "..",
    "backslash": "..\\model.safetensors",
    "other suffix": "model.pt",
    "hidden": ".model.safetensors",
    "control": "a\n.safetensors",
    "zero": "a\0.safetensors",
    "long": "a" * 5000 + ".safetensors",
    "number": 3,
    "nothing": None,
    "list": ["model.safetensors"],
}


@pytest.mark.parametrize("kind", NOT_IN_FOLDER)
def test_shards_outside_the_folder_are_refused(tmp_path: Path, kind: str) -> None:
    message = refusal(write_index(tmp_path, {"a": NOT_IN_FOLDER[kind]}))
    assert " for 'a', which" in message or " for a, which is no safetensors file in its" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": [1]}', "has no weight_map"),
        ('{"weight_map": {"a": "x.safetensors"}}', "names 1 of 1 files that are not there"),
        (json.dumps({"weight_map": {str(n): f"{n}.safetensors" for n in range(2000)}}),
         "names 2,000 files, more than 1,000"),
    ],
    ids=["cut", "deep", "list", "empty", "no object", "missing", "many"],
)  # fmt: skip
def test_wrong_indices_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / INDEX).write_text(text)
    assert message in refusal(tmp_path / INDEX)


def test_an_index_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / INDEX)
    assert "is no regular file" in refusal(tmp_path / INDEX)


def test_shards_that_contradict_the_index(tmp_path: Path) -> None:
    weights = {name: torch.randn(2) for name in "abcdef"}
    index = write_shards(weights, tmp_path)
    weight_map = json.loads(index.read_text())["weight_map"]
    save_file({name: weights[name] for name in "bcdef"}, tmp_path / NAMES[1])
    assert "1 tensors are in two shards (b)" in refusal(index)
    save_file({name: weights[name] for name in "cde"}, tmp_path / NAMES[1])
    assert "1 tensors are not in their shard (f)" in refusal(index)
    save_file({**{name: weights[name] for name in "cdef"}, "g": weights["a"]}, tmp_path / NAMES[1])
    assert "1 tensors are in no index (g)" in refusal(index)
    write_index(tmp_path, {**weight_map, "g": NAMES[0]})
    assert "1 tensors are not in their shard (g)" in refusal(index)
    (tmp_path / NAMES[1]).write_bytes((tmp_path / NAMES[1]).read_bytes()[:-1])
    assert f"{NAMES[1]}: the file is cut short" in refusal(index)
    (tmp_path / NAMES[1]).unlink()
    assert f"names 1 of 2 files that are not there ({NAMES[1]})" in refusal(index)

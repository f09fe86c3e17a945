"""Bundles whose files are not the ones that were exported: each is refused before it is used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from covis.engines.bundle.bundle import open_bundle
from covis.engines.errors import CovisError, ExitCode
from tests.engines.mini_bundle import edit, flip, sign

FILES = ["encoder.onnx", "saliency.onnx", "model.safetensors", "manifest.json"]


def refused(bundle: Path, message: str) -> None:
    with pytest.raises(CovisError, match=message) as caught:
        open_bundle(bundle)
    assert caught.value.code == ExitCode.USER
    assert "\n" not in str(caught.value) and caught.value.hint


def test_the_undamaged_bundle_opens(mini_bundle: Path) -> None:
    bundle = open_bundle(mini_bundle)
    assert [stage.name for stage in bundle.manifest.stages] == ["encoder", "saliency"]
    assert bundle.weights.path == mini_bundle / "model.safetensors"
    assert len(bundle.digest()) == 64


@pytest.mark.parametrize("name", FILES[:3])
@pytest.mark.parametrize("position", [0, -1])
def test_flipped_bit(mini_bundle: Path, name: str, position: int) -> None:
    flip(mini_bundle / name, position)
    refused(mini_bundle, rf"{name}: is not what was exported \(sha256 differs\)")


@pytest.mark.parametrize("name", FILES[:3])
def test_cut_and_lengthened(mini_bundle: Path, name: str) -> None:
    path = mini_bundle / name
    data = path.read_bytes()
    for wrong in (data[: len(data) // 2], data + b"\0", b""):
        path.write_bytes(wrong)
        refused(mini_bundle, f"{name}: has {len(wrong):,} bytes where the manifest says")


@pytest.mark.parametrize("name", FILES)
def test_missing_file(mini_bundle: Path, name: str) -> None:
    (mini_bundle / name).unlink()
    refused(mini_bundle, f"{name}: is missing")


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "deep/down/model.onnx", "plan s\n.bin"])
def test_extra_file(mini_bundle: Path, name: str) -> None:
    (mini_bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (mini_bundle / name).touch()
    refused(mini_bundle, "is not listed in the manifest; remove it")


def test_built_engines_may_lie_in_plans(mini_bundle: Path) -> None:
    (mini_bundle / "plans").mkdir()
    (mini_bundle / "plans" / "encoder.plan").touch()
    open_bundle(mini_bundle)


@pytest.mark.parametrize("name", FILES)
def test_symbolic_link_to_a_file(mini_bundle: Path, tmp_path: Path, name: str) -> None:
    # The same bytes, so only the link itself can give it away.
    shutil.move(mini_bundle / name, tmp_path / name)
    (mini_bundle / name).symlink_to(tmp_path / name)
    refused(mini_bundle, f"{name}: is a symbolic link")


def test_dangling_link(mini_bundle: Path) -> None:
    (mini_bundle / "encoder.onnx").unlink()
    (mini_bundle / "encoder.onnx").symlink_to("/nowhere")
    refused(mini_bundle, "is a symbolic link")


@pytest.mark.parametrize("name", FILES)
def test_hard_link(mini_bundle: Path, tmp_path: Path, name: str) -> None:
    os.link(mini_bundle / name, tmp_path / "outside")
    refused(mini_bundle, f"{name}: is a hard link; replace it by a copy")


def test_installers_may_link_what_ships_with_the_package(
    mini_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As uv and conda do, from their caches."""
    os.link(mini_bundle / FILES[0], tmp_path / "cache")
    monkeypatch.setattr("covis.engines.bundle.bundle._ASSETS", mini_bundle.parent.resolve())
    open_bundle(mini_bundle)


@pytest.mark.parametrize("name", ["plans", "more"])
def test_linked_folder(mini_bundle: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (mini_bundle / name).symlink_to(tmp_path / "elsewhere")
    refused(mini_bundle, f"{name}: is not listed")


def test_listed_file_below_a_linked_folder(mini_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.move(mini_bundle / "encoder.onnx", tmp_path / "elsewhere" / "encoder.onnx")
    (mini_bundle / "sub").symlink_to(tmp_path / "elsewhere")

    def move(manifest: dict) -> None:
        manifest["files"][0]["path"] = "sub/encoder.onnx"
        manifest["files"].append({"path": "sub", "size": 0, "sha256": "0" * 64})
        manifest["stages"][0]["graph"] = "sub/encoder.onnx"

    edit(mini_bundle, move)
    refused(mini_bundle, "sub: is a symbolic link")


@pytest.mark.parametrize("name", ["encoder.onnx", "manifest.json"])
def test_neither_pipe_nor_folder_is_opened(mini_bundle: Path, name: str) -> None:
    (mini_bundle / name).unlink()
    os.mkfifo(mini_bundle / name)  # reading it would wait for ever
    refused(mini_bundle, f"{name}: is not a regular file")
    (mini_bundle / name).unlink()
    (mini_bundle / name).mkdir()
    refused(mini_bundle, f"{name}: is not a regular file")


def test_swapped_files_of_equal_size(mini_bundle: Path) -> None:
    data = (mini_bundle / "encoder.onnx").read_bytes()
    (mini_bundle / "encoder.onnx").write_bytes(data[:50] + data[50:][::-1])
    refused(mini_bundle, "sha256 differs")


def test_no_bundle_at_all(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "no such bundle folder; make one with `covis export`")
    refused(tmp_path, "manifest.json: is missing")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "no such bundle folder")


def test_disk_that_fails_is_the_environment(
    mini_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(descriptor: int, size: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(CovisError, match=r"manifest.json: cannot be read \(Input/output") as caught:
        open_bundle(mini_bundle)
    monkeypatch.undo()
    open_bundle(mini_bundle)
    read = os.pread

    def broken_later(descriptor: int, size: int, offset: int) -> bytes:
        if offset == 0 and os.fstat(descriptor).st_ino == graph:
            raise OSError(5, "Input/output error")
        return read(descriptor, size, offset)

    graph = (mini_bundle / "encoder.onnx").stat().st_ino
    monkeypatch.setattr(os, "pread", broken_later)
    with pytest.raises(CovisError, match=r"encoder.onnx: cannot be read \(Input/output") as caught:
        open_bundle(mini_bundle)
    assert caught.value.code == ExitCode.ENVIRONMENT


def test_nothing_is_parsed_before_every_digest_was_checked(
    mini_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def parsed(data: bytes, path: Path) -> None:
        raise AssertionError(f"{path} was parsed")

    monkeypatch.setattr("covis.engines.graphs.read.parse_model", parsed)
    flip(mini_bundle / "model.safetensors", -1)  # the last of the files
    refused(mini_bundle, "sha256 differs")
    sign(mini_bundle)
    with pytest.raises(AssertionError, match="was parsed"):
        open_bundle(mini_bundle)


def test_bundle_in_the_cache_of_the_hub(mini_bundle: Path, tmp_path: Path) -> None:
    """There every file is a link, and the error names the download that has none."""
    blobs, snapshot = tmp_path / "models--a--b" / "blobs", tmp_path / "models--a--b" / "snapshots"
    shutil.move(mini_bundle, blobs)
    (snapshot / "0123").mkdir(parents=True)
    for file in blobs.iterdir():
        (snapshot / "0123" / file.name).symlink_to(Path("..") / ".." / "blobs" / file.name)
    refused(
        snapshot / "0123", r"is a symbolic link; .* snapshot_download\(\.\.\., local_dir=FOLDER\)"
    )


def test_bundle_downloaded_from_the_hub(mini_bundle: Path) -> None:
    """What a download with `local_dir` adds to the folder is no part of the bundle."""
    (mini_bundle / ".gitattributes").touch()
    (mini_bundle / "README.md").touch()
    cache = mini_bundle / ".cache" / "huggingface" / "download"
    cache.mkdir(parents=True)
    (cache / "encoder.onnx.metadata").touch()
    open_bundle(mini_bundle)
    (mini_bundle / "README.md").unlink()
    (mini_bundle / "README.md").mkdir()
    refused(mini_bundle, "README.md: is not listed in the manifest")

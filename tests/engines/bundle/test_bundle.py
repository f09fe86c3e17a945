"""Opening bundles, and the folders that `--force` may replace; see also tests/attacks."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from covis.engines.bundle.bundle import check_replaceable, describe_file, open_bundle, sha256_of
from covis.engines.errors import CovisError
from tests.engines.mini_bundle import edit, flip


def test_open(mini_bundle: Path) -> None:
    bundle = open_bundle(str(mini_bundle))
    stage = bundle.manifest.stage("saliency")
    assert bundle.graph(stage).path == mini_bundle / "saliency.onnx"
    assert bundle.manifest.patches == 2
    assert bundle.digest() == sha256_of(mini_bundle / "manifest.json")
    with pytest.raises(KeyError):
        bundle.manifest.stage("camera")


def test_a_link_to_the_whole_bundle_is_fine(mini_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(mini_bundle)
    open_bundle(tmp_path / "latest")


def test_copies_open(mini_bundle: Path, tmp_path: Path) -> None:
    open_bundle(shutil.copytree(mini_bundle, tmp_path / "copy"))


def test_the_digest_covers_every_file(mini_bundle: Path) -> None:
    before = open_bundle(mini_bundle).digest()
    edit(mini_bundle, lambda m: m["files"][0].update(sha256="0" * 64))
    assert sha256_of(mini_bundle / "manifest.json") != before


def test_describe_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    file = describe_file(tmp_path, "file")
    assert (file.path, file.size) == ("file", 3)
    assert file.sha256 == hashlib.sha256(b"abc").hexdigest()


def test_bundles_and_empty_folders_may_be_replaced(mini_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (mini_bundle, tmp_path / "empty", tmp_path / "absent"):
        check_replaceable(folder)
    flip(mini_bundle / "model.safetensors", -1)  # a damaged bundle is what one wants to replace
    check_replaceable(mini_bundle)


def test_a_bundle_of_an_earlier_version_is_exported_again(mini_bundle: Path) -> None:
    """It has other fields, and is named by its format all the same; `--force` may replace it."""
    edit(mini_bundle, lambda m: m.update(format=1, sparsity={"selector": "saliency", "old": 1}))
    with pytest.raises(CovisError) as caught:
        open_bundle(mini_bundle)
    assert str(caught.value) == (
        f"{mini_bundle / 'manifest.json'}: has format 1, and this covis reads format 2: it was "
        "exported by another version; export the bundle again or copy it anew"
    )
    assert caught.value.code == 2
    check_replaceable(mini_bundle)


def test_nothing_else_is_replaced(mini_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    (tmp_path / "link").symlink_to(mini_bundle)
    (mini_bundle / "notes.txt").touch()
    for folder, message in [
        (tmp_path / "home", "is no intact bundle, and is not replaced .*manifest.json: is missing"),
        (tmp_path / "link", "is a link, and is not replaced"),
        (
            mini_bundle,
            "holds 'notes.txt', which its manifest does not list, .*; choose another name",
        ),
    ]:
        with pytest.raises(CovisError, match=message):
            check_replaceable(folder)

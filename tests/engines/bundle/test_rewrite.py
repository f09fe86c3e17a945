"""The manifest is replaced atomically."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from covis.engines.bundle.bundle import (
    MANIFEST,
    check_replaceable,
    open_bundle,
    rewrite_manifest,
)
from covis.engines.errors import CovisError
from covis.engines.system.drafts import new_draft_file


def test_a_new_manifest_is_read_back(mini_bundle: Path) -> None:
    before = open_bundle(mini_bundle)
    digest = before.digest()
    (mini_bundle / MANIFEST).chmod(0o640)
    sparsity = replace(before.manifest.sparsity, tau=0.375)
    changed = before.manifest.model_copy(update={"sparsity": sparsity})
    after = rewrite_manifest(before, changed)
    assert open_bundle(mini_bundle).manifest == changed == after.manifest
    assert after.digest() == open_bundle(mini_bundle).digest() != digest
    assert (mini_bundle / MANIFEST).stat().st_mode & 0o777 == 0o640
    assert not [p for p in mini_bundle.iterdir() if p.name.endswith(".partial")]


def test_a_failure_leaves_the_old_one(mini_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_bundle(mini_bundle)
    text = (mini_bundle / MANIFEST).read_bytes()
    changed = bundle.manifest.model_copy(
        update={"sparsity": replace(bundle.manifest.sparsity, tau=0.1)}
    )

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CovisError, match=r"manifest.json: cannot be written \(No space") as caught:
        rewrite_manifest(bundle, changed)
    assert caught.value.code == 3
    assert (mini_bundle / MANIFEST).read_bytes() == text
    monkeypatch.undo()
    assert open_bundle(mini_bundle).manifest == bundle.manifest  # no stray file is left either


@pytest.mark.parametrize("alive", [True, False])
def test_a_draft_of_the_manifest_is_no_part_of_the_bundle(mini_bundle: Path, alive: bool) -> None:
    """Another process writes it at this moment, or was killed then."""
    handle, draft = new_draft_file(mini_bundle / MANIFEST)
    if not alive:
        os.close(handle)
    bundle = open_bundle(mini_bundle)
    check_replaceable(mini_bundle)
    rewrite_manifest(bundle, bundle.manifest)
    assert draft.exists() == alive
    (mini_bundle / ".weights.safetensors.aaaaaaaa.partial").touch()
    with pytest.raises(CovisError, match="is not listed in the manifest"):
        open_bundle(mini_bundle)
    if alive:
        os.close(handle)

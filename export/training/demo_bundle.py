"""Build the bundle that ships with covis, from the released weights of covis-mini.

    python -m covis.export.training.release --run RUN --out RELEASE
    python -m covis.export.training.demo_bundle --weights RELEASE/covis-mini.safetensors

The training record (`covis-mini.json`, beside the weights) and the licence of the weights are
written beside the bundle, so that the package documents where the weights come from.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

import covis
from covis.engines.bundle.bundle import check_replaceable, open_bundle, rewrite_manifest
from covis.engines.errors import user_error
from covis.engines.options import Sparsity
from covis.engines.system.atomic import atomic_folder
from covis.export.exporter import export_bundle
from covis.export.options import ExportOptions

LARGEST = 8_000_000  # bytes of the weights file
SPARSITY = Sparsity()
_ASSETS = Path(covis.__file__).resolve().parent / "assets"
_LICENCE = """{name}: weights of a small VGGT-type network, trained from random initialisation on
synthetic scenes (see {name}.json). They derive from no other weights and no photographs.

Copyright 2026 The covis authors
SPDX-License-Identifier: Apache-2.0

Licensed under the Apache License, Version 2.0; the text is in the package's LICENSE file and at
https://www.apache.org/licenses/LICENSE-2.0
"""


def make(
    weights: Path,
    out: Path = _ASSETS / "demo",
    record: Path | None = None,
    sparsity: Sparsity = SPARSITY,
    verify: bool = True,
) -> Path:
    """Export the bundle to `out`, replacing an old one; record and licence are written beside it.

    Args:
        weights: Released file `covis-mini.safetensors`, which contains its configuration.
        out: Folder of the bundle.
        record: Training record; None: the file of the same name beside the weights.
        sparsity: Selector options of the bundle.
        verify: Compare every graph with torch.

    Returns:
        The bundle's folder.

    Raises:
        CovisError: no released weights, no record, weights that are too large, or something else
            than this bundle in `out`.
    """
    config, licence = _metadata(weights)
    record = record or weights.with_suffix(".json")
    size = _image_size(record, weights)
    if weights.stat().st_size > LARGEST:
        raise user_error(
            f"has {weights.stat().st_size:,} bytes, over {LARGEST:,}",
            where=weights,
            hint="the package takes a smaller model only",
        )
    check_replaceable(out)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "config.json"
        written.write_text(json.dumps(config))
        options = ExportOptions(
            model="vggt",
            out=Path(folder) / "bundle",
            weights=str(weights),
            config=written,
            height=size,
            width=size,
            dtype="float16",
            verify=verify,
            sparsity=sparsity,
        )
        export_bundle(options, on_progress=lambda text: print(text, file=sys.stderr))
        bundle = open_bundle(options.out)
        # The exporter assumes that weights of this architecture are the official ones.
        origin = bundle.manifest.weights.model_copy(
            update={"licence": licence, "source": weights.name}
        )
        rewrite_manifest(bundle, bundle.manifest.model_copy(update={"weights": origin}))
        with atomic_folder(out, force=True) as scratch:
            shutil.copytree(options.out, scratch, dirs_exist_ok=True)
    shutil.copyfile(record, out.parent / f"{weights.stem}.json")
    licence_file = out.parent / f"{weights.stem}.LICENSE.txt"
    licence_file.write_text(_LICENCE.format(name=weights.stem))
    return out


def _metadata(weights: Path) -> tuple[dict[str, Any], str]:
    """Return the configuration and the licence in the released file."""
    try:
        with safe_open(weights, framework="pt") as file:
            metadata = file.metadata() or {}
        return json.loads(metadata["config"]), metadata["licence"]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise user_error(
            "is no released weights file (its metadata names no config and licence)",
            where=weights,
            hint="write one with `python -m covis.export.training.release --run RUN --out OUT`",
        ) from error


def _image_size(record: Path, weights: Path) -> int:
    """Return the side of the training images; the record must belong to these weights."""
    from covis.engines.bundle.bundle import sha256_of

    try:
        content = json.loads(record.read_text())
        size, digest = int(content["image_size"]), content["file"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise user_error(
            "is no training record", where=record, hint="give --record or make it with release"
        ) from error
    if digest != sha256_of(weights):
        raise user_error(f"is the record of other weights than {weights.name}", where=record)
    return size


def main(
    weights: Path,
    out: Path = _ASSETS / "demo",
    record: Path | None = None,
) -> None:
    """Build the bundle that ships with covis, from released weights.

    Args:
        weights: Released file covis-mini.safetensors.
        out: Folder of the bundle.
        record: Training record; default: the file beside the weights.
    """
    print(make(weights, out, record))


if __name__ == "__main__":
    import tyro

    tyro.cli(main)

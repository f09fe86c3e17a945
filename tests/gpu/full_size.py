"""A full-size bundle that travels without its weights, and random weights made where it arrives.

    python -m tests.gpu.full_size strip BUNDLE SOURCE FOLDER
    python -m tests.gpu.full_size fill FOLDER BUNDLE

Graphs of VGGT-1B's shape are megabytes, its weights gigabytes. `strip` keeps graphs, manifest and
the header of the weights file, besides those tensors that the export computed itself. `fill` makes
the others anew, by the rule of benchmarks/random_weights.py: their numbers mean nothing, time and
memory are those of the real model.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from covis.engines.bundle.folder import MANIFEST  # noqa: E402

KEPT, FACTS = "weights.kept", "weights.json"
Entry = dict[str, Any]


def read_header(path: Path) -> tuple[bytes, dict[str, Entry]]:
    """A safetensors file's first bytes, up to its data, and its tensors in the data's order."""
    with path.open("rb") as stream:
        size = stream.read(8)
        text = stream.read(struct.unpack("<Q", size)[0])
    entries = json.loads(text)
    entries.pop("__metadata__", None)
    return size + text, dict(sorted(entries.items(), key=lambda item: item[1]["data_offsets"][0]))


def strip(bundle: Path, source: Path, folder: Path) -> None:
    """Write `folder`: the bundle without its weights.

    Args:
        bundle: with weights.
        source: the random weights it was exported from; tensors of other names are kept.
        folder: must not be there yet.
    """
    manifest = json.loads((bundle / MANIFEST).read_text())
    weights = manifest["weights"]["file"]
    header, entries = read_header(bundle / weights)
    _, known = read_header(source)
    folder.mkdir(parents=True)
    for file in (MANIFEST, *(entry["path"] for entry in manifest["files"])):
        if file != weights:
            shutil.copy(bundle / file, folder / file)
    kept = [name for name in entries if name not in known]
    with (bundle / weights).open("rb") as whole, (folder / KEPT).open("wb") as part:
        part.write(header)
        for name in kept:
            begin, end = entries[name]["data_offsets"]
            whole.seek(len(header) + begin)
            part.write(whole.read(end - begin))
    (folder / FACTS).write_text(json.dumps({"file": weights, "kept": kept}) + "\n")


def fill(folder: Path, bundle: Path, seed: int = 0) -> None:
    """Write `bundle`: what `strip` left, with random weights and a manifest that lists them."""
    facts = json.loads((folder / FACTS).read_text())
    header, entries = read_header(folder / KEPT)
    bundle.mkdir(parents=True)
    for path in folder.iterdir():
        if path.name not in (KEPT, FACTS):
            shutil.copy(path, bundle / path.name)
    digest = hashlib.sha256()
    with (bundle / facts["file"]).open("wb") as out, (folder / KEPT).open("rb") as part:
        part.seek(len(header))
        out.write(header)
        digest.update(header)
        for data in _tensors(entries, set(facts["kept"]), part, seed):
            out.write(data)
            digest.update(data)
    manifest = json.loads((bundle / MANIFEST).read_text())
    for file in manifest["files"]:
        if file["path"] == facts["file"]:
            file["sha256"] = digest.hexdigest()
    (bundle / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _tensors(
    entries: dict[str, Entry], kept: set[str], part: BinaryIO, seed: int
) -> Iterator[bytes]:
    """The bytes of every tensor, in the data's order; one is in memory at a time."""
    import torch

    from benchmarks.random_weights import tensors

    types = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
    made = {name: tuple(e["shape"]) for name, e in entries.items() if name not in kept}
    values = tensors(made, seed)
    at = 0
    for name, entry in entries.items():
        begin, end = entry["data_offsets"]
        if begin != at:
            raise ValueError(f"{name}: there is a gap before its data")
        at = end
        if name in kept:
            yield part.read(end - begin)
        else:
            value = next(values).to(types[entry["dtype"]]).contiguous()
            yield value.reshape(-1).view(torch.uint8).numpy().tobytes()


def main() -> None:
    """Strip or fill."""
    match sys.argv[1:]:
        case ["strip", bundle, source, folder]:
            strip(Path(bundle), Path(source), Path(folder))
        case ["fill", folder, bundle]:
            fill(Path(folder), Path(bundle))
        case _:
            print(__doc__, file=sys.stderr)
            sys.exit(2)


if __name__ == "__main__":
    main()

"""The commands on engines: `covis inspect`, `covis compare`, `covis bench`."""

from __future__ import annotations

import json
from typing import Any

from PIL import Image

from covis.engines.bundle.bundle import open_bundle
from tests.gpu.engine_checks.place import CHUNK, VIEWS, Place, command, pictures


def check_inspect(place: Place) -> Any:
    """`covis inspect` shows a plan of every stage, and each is proven to be what was asked for."""
    code, out, err = command("inspect", place.bundle)
    assert code == 0, err
    stages = [stage.name for stage in open_bundle(place.bundle).manifest.stages]
    missing = [name for name in stages if f"plan of {name}: " not in out]
    assert not missing, f"no plan of {', '.join(missing)}"
    doubts = [line for line in out.splitlines() if "not proven: " in line or "NOT " in line]
    assert not doubts, doubts
    return [line for line in out.splitlines() if "in the graph's type" in line]


def check_compare(place: Place) -> Any:
    """`covis compare` of float16 engines against float32 in ONNX Runtime."""
    folder, out = place.folder / "photos", place.folder / "compare.json"
    folder.mkdir(exist_ok=True)
    for index, pixels in enumerate(pictures(place.bundle, 6).uint8):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{index}.png")
    code, told, err = command(
        "compare", place.wide, folder, "--candidate", place.bundle, "--backend", "tensorrt",
        "--out", out, "--chunk", str(CHUNK), *place.plugin_words("--plugin"),
    )  # fmt: skip
    assert code in (0, 4), err
    record = json.loads(out.read_text())
    worst = max(e["rel_l2"] for s in record["stages"] for e in s["end_to_end"])
    assert worst < 0.1, told
    return {"passed": record["passed"], "worst_rel_l2": worst, "scene": record["scene"]}


def check_bench(place: Place) -> Any:
    """`covis bench` on the engines."""
    out = place.folder / "bench.json"
    code, told, err = command(
        "bench", place.bundle, "--views", str(VIEWS), "--chunk", str(CHUNK),
        "--backend", "tensorrt", "--iterations", "5", "--duration", "0",
        "--also", "light", "anchors=4",
        "--exportTimes", out, *place.plugin_words("--plugin"),
    )  # fmt: skip
    assert code == 0, err
    record = json.loads(out.read_text())
    assert record["absolute_times"] == "of this GPU" and record["gpu"]
    assert list(record["settings"]) == ["dense", "light", "anchors=4"]
    stages = record["settings"]["dense"]["stages"]
    assert all(s["latency_ms"]["min"] > 0 and s["memory_bytes"] > 0 for s in stages.values())
    return told

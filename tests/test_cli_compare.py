"""`covis compare` between bundles, selectors and torch."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covis.cli import run_command
from tests.engines.mini_bundle import sign

Captured = pytest.CaptureFixture[str]
CULPRIT = "aggregator.global_blocks.1"


def worsen(bundle: Path, prefix: str, share: float) -> None:
    """Add noise to the matrices of a layer: the given share of their spread."""
    path = bundle / "model.safetensors"
    data = bytearray(path.read_bytes())
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    random = np.random.default_rng(0)
    for name, entry in header.items():
        if name.startswith(prefix) and len(entry["shape"]) > 1:
            start, end = (8 + size + offset for offset in entry["data_offsets"])
            values = np.frombuffer(data[start:end], np.float32)
            noise = share * values.std() * random.standard_normal(values.shape)
            data[start:end] = (values + noise).astype(np.float32).tobytes()
    path.write_bytes(data)
    sign(bundle)


def compare(*arguments: str | Path) -> int:
    return run_command(["compare", *map(str, arguments)])


def report(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def test_a_bundle_is_like_itself(
    tiny_bundle: Path, photos: Path, tmp_path: Path, capsys: Captured
) -> None:
    assert compare(tiny_bundle, photos, "--out", tmp_path / "c.json", "--views", "2") == 0
    found = report(tmp_path / "c.json")
    assert found["passed"] and found["views"] == 2 and found["bisection"] is None
    errors = [e for s in found["stages"] for kind in ("alone", "end_to_end") for e in s[kind]]
    assert errors and all(e["max_abs"] == e["rank"] == e["non_finite"] == 0 for e in errors)
    assert [s["stage"] for s in found["stages"]] == [
        "encoder", "saliency", "aggregator", "camera", "depth", "points",
    ]  # fmt: skip
    out = capsys.readouterr().out
    assert "world_points_conf" in out and "cameras turn by" in out


def test_the_culprit_is_found_by_stage_and_layer(
    tiny_bundle: Path, tiny_copy: Path, photos: Path, tmp_path: Path, capsys: Captured
) -> None:
    worsen(tiny_copy, CULPRIT, 0.3)
    out = tmp_path / "c.json"
    arguments = [
        tiny_bundle, photos, "--candidate", tiny_copy, "--by-layer", "--out", out,
        "--rotation-tolerance", "1e-3", "--depth-tolerance", "1e-5",
    ]  # fmt: skip
    assert compare(*arguments) == 4
    found = report(out)
    assert not found["passed"]
    alone = {s["stage"]: max(e["rel_l2"] for e in s["alone"]) for s in found["stages"]}
    assert alone["encoder"] == alone["camera"] == alone["depth"] == 0 < alone["aggregator"]
    assert found["bisection"]["stages"] == ["aggregator"]
    assert found["bisection"]["layers"] == {"aggregator": [CULPRIT]}
    option = f"--keep-fp32 aggregator/{CULPRIT}"
    assert found["bisection"]["export_option"] == option
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("covis: ") and line.endswith(f"export the candidate with {option}")


def test_dense_against_sparse(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    options = ["--tau", "1", "--layers", "all", "--reference-selector", "dense"]
    compare(tiny_bundle, photos, "--out", out, *options)
    found = report(out)
    alone = {e["tensor"]: e for s in found["stages"] for e in s["alone"]}
    assert found["reference"]["sparsity"]["selector"] == "dense"
    assert found["candidate"]["sparsity"]["selector"] == "saliency"
    assert alone["patch_tokens"]["max_abs"] == alone["similarity"]["max_abs"] == 0
    last = [error["rel_l2"] for name, error in alone.items() if name.startswith("tap3")]
    assert alone["pair_levels"]["max_abs"] == 2 and max(last) > 0
    assert alone["depth"]["max_abs"] == 0  # its own error; that of the aggregator is not its fault
    assert found["bisection"] is None
    compare(tiny_bundle, photos, "--out", out, *options, "--selector", "pooled")
    assert report(out)["stages"][2]["stage"] == "aggregator_pooled"


def test_schedules_of_different_maps(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    """Dense has one map of view pairs, the schedule three; they are compared layer by layer."""
    out = tmp_path / "c.json"
    options = ["--schedule", "0:self, 1:anchors=1, rest:dense", "--reference-selector", "dense"]
    assert compare(tiny_bundle, photos, "--out", out, *options) in (0, 4)
    found = report(out)
    assert found["candidate"]["sparsity"]["selector"] == "anchors"
    alone = {e["tensor"]: e for s in found["stages"] for e in s["alone"]}
    assert alone["pair_levels"]["max_abs"] == 2 and alone["pair_levels"]["mean_abs"] < 1


def test_auto_follows_the_number_of_photos(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    options = ["--dense-up-to", "1", "--light-up-to", "1", "--reference-selector", "auto"]
    assert compare(tiny_bundle, photos, "--out", out, *options) == 0
    found = report(out)
    assert [found[side]["sparsity"]["selector"] for side in ("reference", "candidate")] == [
        "anchors", "anchors",
    ]  # fmt: skip


def test_torch_as_the_reference(tiny_bundle: Path, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out = tmp_path / "c.json"
    assert compare(tiny_bundle, photos, "--reference-backend", "torch", "--out", out) == 0
    found = report(out)
    assert found["reference"]["backend"] == "torch"
    errors = [e["rel_l2"] for s in found["stages"] for e in s["end_to_end"]]
    assert 0 < max(errors) < 1e-4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--by-layer"], "--by-layer: needs a candidate bundle"),
        (["--views", "-1"], "--views: -1 is negative"),
        (["--depth-tolerance", "0"], "--depth-tolerance: 0.0 is not above 0"),
        (["--rotation-tolerance", "nan"], "--rotation-tolerance: nan is not above 0"),
        (["--backend", "vulkan"], "vulkan"),
        (["--device", "-1"], "--device: -1 is negative"),
    ],
)
def test_wrong_options(
    tiny_bundle: Path, photos: Path, capsys: Captured, options: list[str], words: str
) -> None:
    assert compare(tiny_bundle, photos, *options) == 2
    assert words in capsys.readouterr().err


def test_another_model_is_refused(
    tiny_bundle: Path, tiny_copy: Path, photos: Path, capsys: Captured
) -> None:
    from tests.engines.mini_bundle import edit

    def change(manifest: dict[str, Any]) -> None:
        manifest["pixel_rule"]["kind"] = "vggt_pad"

    edit(tiny_copy, change)
    assert compare(tiny_bundle, photos, "--candidate", tiny_copy) == 2
    assert "prepares photos in another way" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"dtype": "float16"}, {"precision": "fp16"}])
def test_a_narrow_export(
    tiny_bundle: Path, photos: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Float16 storage, and float16 computing."""
    from tests.tiny_vggt import export_tiny_bundle

    narrow, out = export_tiny_bundle(tmp_path, **options), tmp_path / "c.json"
    assert compare(tiny_bundle, photos, "--candidate", narrow, "--out", out) == 0
    rel = [e["rel_l2"] for s in report(out)["stages"] for e in s["end_to_end"]]
    assert 1e-6 < max(rel) < 0.05
    limits = ["--rotation-tolerance", "4e-4", "--depth-tolerance", "1e-5"]
    assert compare(
        tiny_bundle, photos, "--candidate", narrow, "--by-layer", "--out", out, *limits
    ) == 4  # fmt: skip
    found = report(out)["bisection"]
    # Limits that a single rounding passes: a stage of which no choice of layers does is kept whole.
    assert found["stages"] and any(found["layers"].values())
    named = [f"{s}/{layer}" for s, inner in found["layers"].items() for layer in inner or ()]
    whole = [stage for stage in found["stages"] if not found["layers"].get(stage)]
    assert set(named + whole) <= set(found["keep"])

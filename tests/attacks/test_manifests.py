"""Forged manifests: strict in every field, and never a way out of the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from covis.engines.bundle.bundle import open_bundle
from covis.engines.errors import CovisError, ExitCode
from tests.engines.mini_bundle import edit, put

OUTSIDE = ["../secret", "/etc/passwd", "a/../../secret", "./encoder.onnx", "a//b", "..", ".", "",
           "a\\..\\b", "encoder.onnx/", "a\0b"]  # fmt: skip


def refused(bundle: Path, message: str) -> None:
    with pytest.raises(CovisError, match=message) as caught:
        open_bundle(bundle)
    assert caught.value.code == ExitCode.USER
    assert str(caught.value).startswith(str(bundle / "manifest.json"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("place", ["files.0.path", "stages.0.graph", "weights.file"])
def test_paths_that_leave_the_folder(mini_bundle: Path, place: str, name: str) -> None:
    put(mini_bundle, place, name)
    refused(mini_bundle, f"is not valid at {place}: .*(no plain relative path|leaves the bundle)")


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("format", 3, "has format 3, and this covis reads format 2: it was exported by another"),
        ("op_version", 2, "is not valid at op_version: Input should be 1"),
        ("surprise", 1, "is not valid at surprise: Extra inputs are not permitted"),
        ("model.surprise", 1, "at model.surprise: Extra"),
        ("stages.0.surprise", 1, "at stages.0.surprise: Extra"),
        ("sparsity.surprise", 1, "at sparsity.surprise: "),
        ("pixel_rule.surprise", 1, "at pixel_rule.surprise: "),
        ("opset", "20", "at opset: Input should be a valid integer"),
        ("opset", 20.0, "at opset: Input should be a valid integer"),
        ("opset", True, "at opset: Input should be a valid integer"),
        ("files.0.path", "x" * 256, "at files.0.path: .*a path of more than 255 bytes"),
        ("files.0.path", "a/" * 2000 + "a", "at files.0.path: .*a path of more than 255 bytes"),
        ("files.0.size", -1, "at files.0.size: Input should be greater than or equal to 0"),
        ("files.0.sha256", "ABC", "at files.0.sha256: String should match pattern"),
        ("files.0.sha256", "A" * 64, "at files.0.sha256: String should match pattern"),
        ("stages.0.name", "../encoder", "at stages.0.name: String should match pattern"),
        ("stages.0.scope", "everything", "at stages.0.scope: "),
        ("stages.0.inputs.0.dtype", "object", "at stages.0.inputs.0.dtype: "),
        ("stages.0.outputs.0.shape", [-1], r"at stages.0.outputs.0.shape.0"),
        ("model.patch", 0, "at model.patch: Input should be greater"),
        ("model.global_layers", 10**15, "at model.global_layers: Input should be less"),
        ("pixel_rule.patch", 0, "is no positive patch size"),
        ("pixel_rule.patch", 7, "differ in the size of a patch"),
        ("pixel_rule.height", 28, "stage 'encoder' reads images of another size"),
        ("pixel_rule.height", 15, "is no positive multiple of 14"),
        ("pixel_rule.height", 14 * 10**9, "is above"),
        ("pixel_rule.kind", "eval", "at pixel_rule.kind"),
        ("sparsity.tau", 2.0, "--tau: 2.0 is not in"),
        ("sparsity.min_neighbours", 10**30, "--min-neighbours"),
        ("sparsity.schedule", "0:kmeans", "--schedule: 'kmeans' is no regime"),
        ("sparsity.schedule", "0-2:self, 2:dense", "--schedule: names layer 2 twice"),
        ("sparsity.schedule", 7, "at sparsity.schedule: Input should be a valid string"),
        ("sparsity.anchors", 0, "--anchors: 0 is not in"),
        ("sparsity.anchors", 2.0, "at sparsity.anchors: Input should be a valid integer"),
        ("sparsity.own_frame", 1, "at sparsity.own_frame: Input should be a valid boolean"),
        ("sparsity.anchor_choice", "far", "at sparsity.anchor_choice: "),
        ("sparsity.light_up_to", 1, "--light-up-to: 1 is below --dense-up-to 50"),
        ("sparsity.layers", "²", "--layers: '²' is no layer"),
        ("weights", None, "at weights: "),
    ],
)
def test_every_field_is_strict(mini_bundle: Path, place: str, value: Any, message: str) -> None:
    put(mini_bundle, place, value)
    refused(mini_bundle, message)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("field", ["tau", "keep_ratio"])
def test_numbers_that_json_does_not_know(mini_bundle: Path, number: str, field: str) -> None:
    put(mini_bundle, f"sparsity.{field}", "HERE")
    path = mini_bundle / "manifest.json"
    path.write_text(path.read_text().replace('"HERE"', number))
    refused(mini_bundle, f"(at sparsity.{field}|--{field.replace('_', '-')}): ")


@pytest.mark.parametrize("where", ["files", "stages"])
def test_duplicate_entries(mini_bundle: Path, where: str) -> None:
    edit(mini_bundle, lambda m: m[where].append(m[where][0]))
    refused(mini_bundle, "a (file|stage) is listed twice")


def test_one_tensor_listed_twice(mini_bundle: Path) -> None:
    edit(mini_bundle, lambda m: m["stages"][1]["inputs"].append(m["stages"][1]["inputs"][0]))
    refused(mini_bundle, "'saliency' lists an input twice")


@pytest.mark.parametrize("index", range(3))
def test_files_in_use_must_be_listed(mini_bundle: Path, index: int) -> None:
    edit(mini_bundle, lambda m: m["files"].pop(index))
    refused(mini_bundle, "is used but not listed under files")


def test_stages_out_of_order(mini_bundle: Path) -> None:
    edit(mini_bundle, lambda m: m["stages"].reverse())
    refused(mini_bundle, "stage 'saliency' reads 'patch_tokens' before any stage writes it")


def test_stages_that_do_not_fit_each_other(mini_bundle: Path) -> None:
    put(mini_bundle, "stages.1.inputs.0.shape", ["M", 5])
    refused(mini_bundle, "'patch_tokens' in another type or shape")


@pytest.mark.parametrize("field", ["format", "model", "stages", "files", "pixel_rule", "checks"])
def test_missing_field(mini_bundle: Path, field: str) -> None:
    edit(mini_bundle, lambda m: m.pop(field))
    refused(mini_bundle, f"at {field}: Field required")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": 1'],
    ids=["empty", "open", "list", "null", "no-text", "deep", "cut"],
)  # fmt: skip
def test_no_manifest(mini_bundle: Path, data: bytes) -> None:
    (mini_bundle / "manifest.json").write_bytes(data)
    refused(mini_bundle, "is not valid at the top|is not valid at format")


def test_oversized_manifest_is_not_even_read(mini_bundle: Path) -> None:
    with (mini_bundle / "manifest.json").open("r+b") as file:
        file.truncate(17 << 20)  # sparse: takes no space
    refused(mini_bundle, "is larger than 16 MiB")


def test_escape_sequences_do_not_reach_the_terminal(
    mini_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from covis.cli import run_command

    put(mini_bundle, "weights.licence", "\x1b[2J[bold]free[/nonsense]\nmodel: something else")
    assert run_command(["inspect", str(mini_bundle)]) == 0
    out = capsys.readouterr().out
    assert "\x1b[2J" not in out and r"\x1b[2J[bold]free[/nonsense]\n" in out
    put(mini_bundle, "files.0.path", "../\x1b[2J")
    assert run_command(["inspect", str(mini_bundle)]) == 2
    err = capsys.readouterr().err
    assert "\x1b" not in err and err.count("\n") == 1


def test_the_manifest_is_json_as_written(mini_bundle: Path) -> None:
    manifest = open_bundle(mini_bundle).manifest
    again = json.loads(manifest.model_dump_json())
    assert again["stages"][0]["name"] == "encoder" and again["sparsity"]["tau"] == 0.9

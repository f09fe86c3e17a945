"""`covis build` without TensorRT: its options, and the trtexec lines it prints."""

from __future__ import annotations

import shlex
from pathlib import Path

import onnx
import pytest

from covis.cli import run_command
from covis.engines.errors import CovisError
from covis.engines.tensorrt.build.options import BuildOptions, parse_pools
from tests.places import DEMO

Captured = pytest.CaptureFixture[str]


def lines(capsys: Captured, *arguments: str | Path) -> list[dict[str, str]]:
    """Parse the flags of each printed line, by name."""
    assert run_command(["build", *map(str, arguments), "--print-trtexec"]) == 0
    out = capsys.readouterr().out
    found = []
    for line in out.splitlines():
        program, *flags = shlex.split(line)
        assert program == "trtexec"
        found.append({flag.partition("=")[0]: flag.partition("=")[2] for flag in flags})
    return found


def test_every_stage_has_a_line(capsys: Captured) -> None:
    found = lines(capsys, DEMO, "--views", "1:8:32", "--chunk", "4")
    names = ["encoder", "saliency", "aggregator", "aggregator_pooled", "camera", "depth", "points"]
    assert [line["--saveEngine"] for line in found] == [f"{name}.plan" for name in names]
    assert found[0]["--minShapes"].startswith("images:1x3x112x")
    assert found[0]["--maxShapes"].startswith("images:4x3x112x")
    shapes = found[2]["--optShapes"].split(",")
    names_of = [entry.partition(":")[0] for entry in shapes]
    assert names_of == ["patch_tokens", "pair_levels", "probe"]
    assert shapes[0].startswith("patch_tokens:8x") and shapes[1:] == [
        "pair_levels:3x8x8",
        "probe:1",
    ]
    assert "pair_levels:1x1x1," in found[2]["--minShapes"]
    assert "pair_levels:8x32x32," in found[2]["--maxShapes"]
    for line in found:
        assert {"--stronglyTyped", "--noTF32", "--skipInference"} <= line.keys()
        assert (
            line["--profilingVerbosity"] == "detailed" and line["--builderOptimizationLevel"] == "3"
        )
    uses_plugin = [
        name for name, line in zip(names, found, strict=True) if "--dynamicPlugins" in line
    ]
    assert uses_plugin == ["encoder", "saliency", "aggregator", "aggregator_pooled", "camera"]


def test_options_reach_the_line(capsys: Captured, tmp_path: Path) -> None:
    arguments = shlex.split(
        "--stages camera --memPoolSize workspace:1.5G,tacticSharedMem:48K "
        "--timingCacheFile t.cache --builderOptimizationLevel 5 --staticPlugins lib.so --tf32 "
        "--profilingVerbosity none "
        "--hardwareCompatibilityLevel ampere+ --stripWeights --refit --exportLayerInfo l.json "
        "--verbose --device 3"
    )
    [line] = lines(capsys, DEMO, *arguments, "--parser-onnx", tmp_path / "a folder")
    assert line["--onnx"] == f"{tmp_path}/a folder/camera.onnx"
    assert line["--memPoolSize"] == "workspace:1610612736B,tacticSharedMem:49152B"
    assert line["--hardwareCompatibilityLevel"] == "ampere+" and line["--staticPlugins"] == "lib.so"
    assert line["--timingCacheFile"] == "t.cache" and line["--exportLayerInfo"] == "l.json"
    assert line["--device"] == "3" and line["--profilingVerbosity"] == "none"
    assert {"--stripWeights", "--refit", "--verbose"} <= line.keys()
    assert not {"--noTF32", "--dynamicPlugins"} & line.keys()


def test_graphs_for_trtexec(capsys: Captured, tmp_path: Path) -> None:
    folder = tmp_path / "graphs"
    found = lines(capsys, DEMO, "--parser-onnx", folder)
    for line in found:
        model = onnx.load(line["--onnx"], load_external_data=False)
        assert not any(function.domain == "covis" for function in model.functions)
        op_nodes = [node for node in model.graph.node if node.domain == "covis"]
        names = [{a.name for a in node.attribute} for node in op_nodes]
        assert all({"plugin_version", "plugin_namespace"} <= found for found in names)
    # TensorRT reads weights beside the graph: a link, because a copy would double the disk space.
    assert (folder / "model.safetensors").resolve() == DEMO / "model.safetensors"
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").touch()
    assert run_command(["build", str(DEMO), "--print-trtexec", "--parser-onnx", str(folder)]) == 2
    assert "model.safetensors: is there already; choose another" in capsys.readouterr().err


def test_single_graph(capsys: Captured) -> None:
    graph = DEMO / "camera.onnx"
    width = onnx.load(graph, load_external_data=False).graph.input[0].type.tensor_type.shape.dim[1]
    token = f"camera_token:{{}}x{width.dim_value}"
    arguments = ["--onnx", graph, "--saveEngine", "c.plan", "--minShapes", token.format(1)]
    [line] = lines(capsys, *arguments, f"--maxShapes={token.format(8)}")
    assert line["--minShapes"] == token.format(1) and line["--maxShapes"] == token.format(8)
    assert line["--optShapes"] == token.format(8) and line["--saveEngine"] == "c.plan"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "covis build: give a bundle or --onnx, one of the two"),
        ("B --onnx x.onnx --saveEngine y", "give a bundle or --onnx"),
        ("--onnx x.onnx", "--saveEngine: is missing; say where the plan goes"),
        ("--onnx nowhere.onnx --saveEngine y", "nowhere.onnx: no such file"),
        ("B --saveEngine y", "--saveEngine: belongs to --onnx; a bundle takes --views"),
        ("B --minShapes a:1", "--minShapes: belongs to --onnx"),
        ("B --staticPlugins a --dynamicPlugins b", "--staticPlugins and --dynamicPlugins: give"),
        ("B --builderOptimizationLevel 6", "--builderOptimizationLevel: 6 is not in [0, 5]; 3 is"),
        ("B --memPoolSize 4G", "--memPoolSize: '4G' is no memory pool; write NAME:SIZE"),
        ("B --memPoolSize dlaSRAM:1", "is no memory pool"),
        ("B --memPoolSize workspace:1,workspace:2", "is no memory pool"),
        ("B --views 5:1", "--views: '5:1' is no range"),
        ("B --chunk 0", "--chunk: '1:0:0' is no range"),
        ("B --probes x", "--probes: 'x' is no range"),
        ("B --stages encoder,head", "--stages: the bundle has no stage 'head'; use encoder"),
        ("B --profilingVerbosity loud", "loud"),
        ("nowhere", "nowhere: no such bundle folder"),
        ("--onnx CAMERA --saveEngine y", "input 'camera_token' has open dimensions and no shape"),
        ("--onnx CAMERA --saveEngine y --minShapes x:1", "--minShapes: the graph has no input 'x'"),
        ("--onnx CAMERA --saveEngine y --minShapes camera_token:1x7", "'camera_token' is ?x"),
        ("--onnx CAMERA --saveEngine y --minShapes camera_token:1", "'camera_token' is ?x"),
    ],
)  # fmt: skip
def test_wrong_arguments(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"B": str(DEMO), "CAMERA": str(DEMO / "camera.onnx")}
    line = [places.get(word, word) for word in arguments.split()]
    assert run_command(["build", *line, "--print-trtexec"]) == 2
    out, err = capsys.readouterr()
    assert words in err and err.count("\n") == 1 and not out
    assert list(tmp_path.iterdir()) == []


def test_pools() -> None:
    assert parse_pools(None) == {}
    assert parse_pools("workspace:0.25") == {"workspace": 1 << 18}
    assert parse_pools("workspace:7B,tacticSharedMem:1M") == {
        "workspace": 7, "tacticSharedMem": 1 << 20,
    }  # fmt: skip
    with pytest.raises(CovisError):
        BuildOptions(bundle=DEMO, memPoolSize="workspace:-1")


def test_build_without_a_gpu(capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines are printed, then the error names what the machine lacks; exit code 3."""

    def absent(index: int) -> None:
        from covis.engines.errors import environment_error

        raise environment_error("no NVIDIA driver answers")

    monkeypatch.setattr("covis.engines.tensorrt.build.stages.find_gpu", absent)
    assert run_command(["build", str(DEMO), "--stages", "camera"]) == 3
    out, err = capfd.readouterr()
    assert out.startswith("trtexec --onnx=") and err.splitlines()[-1].startswith("covis: no NVIDIA")

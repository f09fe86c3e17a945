"""Files that remain of an engine which the proof rejects; TensorRT and the GPU are fakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from covis.cli import run_command
from covis.engines.errors import ExitCode
from covis.engines.tensorrt.build import stages
from covis.engines.tensorrt.build.layer_evidence import preserve_layers, stage_layers_file
from covis.engines.tensorrt.plans.cache import EngineInfo, Write
from tests.engines.tensorrt.demo_graphs import facts, rewritten
from tests.engines.tensorrt.layers import as_json, engine_layers
from tests.engines.tensorrt.plan_inputs import H200, TENSORRT
from tests.places import DEMO

Captured = pytest.CaptureFixture[str]
STAGES = ("depth", "points")  # without nodes of the three ops, so no plugin is needed


def layers_of(stage: str) -> str:
    return as_json(engine_layers(rewritten(stage), facts(stage, 4, 4)))


@pytest.fixture
def inspector(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """Layer information by stage, at first of engines that pass the proof."""
    texts = {stage: layers_of(stage) for stage in STAGES}

    def build_engine(request: stages.EngineRequest, write: Write) -> None:
        write(request.graph.path.stem.encode())

    fakes: dict[str, Callable[..., object]] = {
        "find_gpu": lambda device: H200,
        "import_tensorrt": lambda: SimpleNamespace(__version__=TENSORRT),
        "use_gpu": lambda device: None,
        "build_engine": build_engine,
        "inspect_plan": lambda plan: EngineInfo(texts[plan.read_text()], 1),
        "logger": lambda log: None,
    }
    for name, function in fakes.items():
        monkeypatch.setattr(stages, name, function)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return texts


def build(tmp_path: Path, *more: str | Path) -> int:
    words = ["build", str(DEMO), "--stages", ",".join(STAGES), "--cache", str(tmp_path / "plans")]
    return run_command([*words, "--views", "1:4:8", "--chunk", "4", *map(str, more)])


def wrong(text: str) -> str:
    return text.replace("_f32f32_f32f32_f32", "_f32f32_tf32f32_f32")


def test_each_stage_has_a_file_of_its_own(inspector: dict[str, str], tmp_path: Path) -> None:
    assert build(tmp_path, "--exportLayerInfo", tmp_path / "layers.json") == 0
    for stage in STAGES:
        assert (tmp_path / f"layers.{stage}.json").read_text() == inspector[stage]
    assert not (tmp_path / "layers.json").exists()
    assert stage_layers_file(Path("a/l.json"), "depth", 1) == Path("a/l.json")


def test_trtexec_writes_to_the_same_files(capsys: Captured) -> None:
    words = ["build", str(DEMO), "--print-trtexec", "--exportLayerInfo", "l.json", "--stages"]
    assert run_command([*words, "depth,points"]) == 0
    out = capsys.readouterr().out
    assert all(f"--exportLayerInfo=l.{stage}.json" in out for stage in STAGES)
    assert run_command([*words, "depth"]) == 0
    assert "--exportLayerInfo=l.json" in capsys.readouterr().out


def test_a_refused_engine_leaves_its_layers(
    inspector: dict[str, str], tmp_path: Path, capsys: Captured
) -> None:
    good, inspector["points"] = inspector["points"], wrong(inspector["points"])
    assert build(tmp_path) == ExitCode.NUMERICS
    err = capsys.readouterr().err
    plans = tmp_path / "plans"
    [saved] = plans.glob("points-*.refused.layers")
    assert saved.read_text() == inspector["points"]
    assert err.splitlines()[-1].endswith(f"its plan was not kept, its layers are in {saved}")
    assert "stage points: the engine is not what was asked for: layer" in err
    assert not list(plans.glob("points-*.plan")) and list(plans.glob("depth-*.plan"))
    # Once the engine passes, the file of the rejection is removed.
    inspector["points"] = good
    assert build(tmp_path) == 0
    assert not saved.exists() and list(plans.glob("points-*.plan"))


def test_the_file_that_was_asked_for_is_named(
    inspector: dict[str, str], tmp_path: Path, capsys: Captured
) -> None:
    inspector["depth"] = wrong(inspector["depth"])
    assert build(tmp_path, "--exportLayerInfo", tmp_path / "l.json") == ExitCode.NUMERICS
    assert (tmp_path / "l.depth.json").read_text() == inspector["depth"]
    assert f"its layers are in {tmp_path / 'l.depth.json'}" in capsys.readouterr().err
    assert not list((tmp_path / "plans").glob("*.refused.layers"))


def test_what_the_proof_cannot_read_is_kept(
    inspector: dict[str, str], tmp_path: Path, capsys: Captured
) -> None:
    inspector["depth"] = json.dumps({"Layers": ["only", "names"]})
    assert build(tmp_path) == ExitCode.ENVIRONMENT
    [saved] = (tmp_path / "plans").glob("depth-*.refused.layers")
    assert saved.read_text() == inspector["depth"]
    err = capsys.readouterr().err
    assert "build with --profilingVerbosity detailed; its plan was not kept" in err


def test_what_trips_the_proof_is_kept(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyError, match="a field nobody foresaw"),
        preserve_layers("{}", None, tmp_path / "refused"),
    ):
        raise KeyError("a field nobody foresaw")
    assert (tmp_path / "refused").read_text() == "{}"


def test_a_folder_is_refused_before_anything_is_built(
    inspector: dict[str, str], tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "l.depth.json").mkdir()
    assert build(tmp_path, "--exportLayerInfo", tmp_path / "l.json") == ExitCode.USER
    assert "l.depth.json: is a folder; name a file" in capsys.readouterr().err
    assert not (tmp_path / "plans").exists()

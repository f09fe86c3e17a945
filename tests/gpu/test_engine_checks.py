"""What of the engine checks can be held to without a GPU: they pass for no lack of engines."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from covis.engines.bundle.bundle import open_bundle
from covis.engines.bundle.folder import PLANS
from covis.engines.errors import user_error
from covis.engines.tensorrt.plans.cache import EngineInfo, PlanCache
from covis.engines.tensorrt.plans.record import EngineOptions, Range
from tests.engines.tensorrt.plan_inputs import plan_inputs
from tests.gpu.engine_checks import CHECKS, check
from tests.gpu.engine_checks.place import Place, command, cut, pictures, refusal


@pytest.fixture
def place(tiny_bundle: Path, tmp_path: Path) -> Place:
    shutil.copytree(tiny_bundle, tmp_path / "half")
    shutil.copytree(tiny_bundle, tmp_path / "wide")
    return Place(tmp_path, None)


@pytest.mark.parametrize("name", [name for name in CHECKS if name != "onnxruntime"])
def test_no_check_passes_without_engines(place: Place, name: str) -> None:
    if name in ("compare", "bench"):
        pytest.importorskip("PIL")
    with pytest.raises(Exception) as caught:
        check(name)(place)
    assert not isinstance(caught.value, AttributeError | TypeError), caught.value


def test_inspect_wants_every_plan_proven(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with pytest.raises(AssertionError, match="no plan of encoder, saliency, aggregator"):
        check("inspect")(place)
    bundle, names = open_bundle(place.bundle), '{"Layers": ["a", "b"]}'
    digests = {file.path: file.sha256 for file in bundle.manifest.files}
    for stage in bundle.manifest.stages:
        inputs = plan_inputs(
            stage=stage.name,
            graph=digests[stage.graph],
            weights=digests[bundle.manifest.weights.file],
            profile={"M": Range(min=1, opt=4, max=8), "N": Range(min=1, opt=4, max=4),
                     "K": Range(min=1, opt=1, max=1), "R": Range(min=1, opt=3, max=8)},
            options=EngineOptions(profiling_verbosity="layer_names_only"),
        )  # fmt: skip
        PlanCache(place.bundle / PLANS).get(
            inputs, lambda write: write(b"plan"), lambda plan: EngineInfo(names, 1)
        )
    with pytest.raises(AssertionError, match="not proven"):
        check("inspect")(place)


def test_fewer_views_are_cut_everywhere(tiny_bundle: Path) -> None:
    images = cut(pictures(tiny_bundle, 5), 3)
    assert len(images) == len(images.names) == len(images.original_sizes) == 3


def test_commands_run_in_this_process(tiny_bundle: Path) -> None:
    code, out, err = command("inspect", tiny_bundle)
    assert code == 0 and "aggregator" in out and not err
    assert command("inspect", tiny_bundle / "nothing")[0] == 2


def test_a_refusal_must_come_with_its_code_and_words() -> None:
    with refusal(2, "no such|absent"):
        raise user_error("no such thing")
    with pytest.raises(AssertionError, match="nothing was refused"), refusal(2, "x"):
        pass
    for code, words in ((3, "no such"), (2, "other words")):
        with pytest.raises(AssertionError, match="no such thing"), refusal(code, words):
            raise user_error("no such thing")

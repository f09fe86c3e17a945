"""The choice of a plan, and the mismatches for which one is refused."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from covis.engines.bundle.bundle import Bundle, open_bundle
from covis.engines.bundle.folder import PLANS
from covis.engines.errors import CovisError, ExitCode
from covis.engines.system.gpu import Gpu
from covis.engines.tensorrt.plans.cache import PlanCache
from covis.engines.tensorrt.plans.choose import find_plan
from covis.engines.tensorrt.plans.record import EngineOptions, PlanRecord, Range, read_record
from covis.engines.tensorrt.plans.trust import Host, Mismatch, accepted, mismatches
from tests.engines.tensorrt.plan_inputs import H200, TENSORRT, plan_inputs


@pytest.fixture
def bundle(mini_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return open_bundle(mini_bundle)


def add(bundle: Bundle, stage: str, profile: tuple[int, int, int], **changes: Any) -> PlanRecord:
    digests = {file.path: file.sha256 for file in bundle.manifest.files}
    low, opt, high = profile
    symbol = "N" if bundle.manifest.stage(stage).scope == "frames" else "M"
    inputs = plan_inputs(
        **{
            "stage": stage,
            "graph": digests[f"{stage}.onnx"],
            "weights": digests["model.safetensors"],
            "profile": {symbol: Range(min=low, opt=opt, max=high)},
            **changes,
        }
    )
    record, _ = PlanCache(bundle.path / PLANS).get(
        inputs, lambda write: write(inputs.key().encode())
    )
    return record


def find(bundle: Bundle, stage: str, views: int, **changes: Any) -> PlanRecord:
    settings: dict[str, Any] = {"gpu": H200, "tensorrt": TENSORRT, "plugin": None, **changes}
    gpu = settings.pop("gpu")
    return find_plan(bundle, bundle.manifest.stage(stage), views, gpu, **settings)


def refusal(bundle: Bundle, stage: str, views: int, **changes: Any) -> str:
    with pytest.raises(CovisError) as caught:
        find(bundle, stage, views, **changes)
    assert caught.value.code == ExitCode.USER
    return str(caught.value)


def test_nearest_profile(bundle: Bundle) -> None:
    small, large = add(bundle, "saliency", (1, 8, 50)), add(bundle, "saliency", (20, 300, 500))
    assert find(bundle, "saliency", 10) == small
    assert find(bundle, "saliency", 40) == small
    assert find(bundle, "saliency", 51) == large
    assert refusal(bundle, "saliency", 501) == (
        "stage saliency: 501 views are outside the profile of every plan of this stage "
        f"(nearest: 20:300:500); covis build {bundle.path} --stages saliency --views 20:501:501"
    )


def test_chunks_go_to_the_nearest_range(bundle: Bundle) -> None:
    plan = add(bundle, "encoder", (2, 8, 16))
    assert find(bundle, "encoder", 100) == find(bundle, "encoder", 1) == plan
    assert plan.views.clamp(100) == 16 and plan.views.clamp(1) == 2 and plan.views.clamp(5) == 5


def test_none_built(bundle: Bundle) -> None:
    assert refusal(bundle, "encoder", 1) == (
        f"stage encoder: has no plan; covis build {bundle.path} --stages encoder"
    )


def other(**changes: Any) -> Gpu:
    return dataclasses.replace(H200, **changes)


@pytest.mark.parametrize(
    ("built", "here", "words", "trusting_helps"),
    [
        ({"graph": "9" * 64}, {}, "it was built from another graph", False),
        ({"weights": "9" * 64}, {}, "it was built from other weights", False),
        ({"tensorrt": "10.6.0.26"}, {}, "it was built by TensorRT 10.6.0.26, here is 10.15", False),
        ({}, {"tensorrt": "11.2.0.0"}, f"by TensorRT {TENSORRT}, here is 11.2.0.0", False),
        ({"plugin": "9" * 64}, {}, "it was built with another version of the plugin", True),
        ({"plugin": "9" * 64}, {"plugin": "8" * 64}, "another version of the plugin", True),
        ({}, {"gpu": other(name="NVIDIA H100", compute_capability=(9, 0))},
         "it was built for NVIDIA H200, here is NVIDIA H100", True),
        ({}, {"gpu": other(driver="570.1", cuda="12.8")},
         "built with driver 580 (CUDA 13.0), here is 570 (CUDA 12.8)", True),
    ],
)  # fmt: skip
def test_foreign_plans(
    bundle: Bundle, built: dict[str, Any], here: dict[str, Any], words: str, trusting_helps: bool
) -> None:
    plan = add(bundle, "encoder", (1, 8, 16), **built)
    text = refusal(bundle, "encoder", 4, **here)
    assert f"{plan.file}: is refused: " in text and words in text
    assert text.endswith(f"covis build {bundle.path} --stages encoder")
    if trusting_helps:
        assert find(bundle, "encoder", 4, trusted=[plan.sha256], **here) == plan
    else:
        assert words in refusal(bundle, "encoder", 4, trusted=[plan.sha256], **here)
    mine = add(bundle, "encoder", (1, 4, 4))  # a plan of this machine is taken although not nearest
    if not here:
        assert find(bundle, "encoder", 8) == mine


def test_trust_overrides_no_mismatch_besides_others(bundle: Bundle) -> None:
    """A plan of other weights stays refused, whatever else differs and in whatever order."""
    assert {m for m in Mismatch if m.trust_overrides} == {
        Mismatch.PLUGIN, Mismatch.GPU, Mismatch.DRIVER
    }  # fmt: skip
    plan = add(bundle, "encoder", (1, 8, 16), weights="9" * 64, plugin="9" * 64)
    found = mismatches(plan, bundle, Host(other(name="NVIDIA H100"), TENSORRT, None))
    assert found == (Mismatch.WEIGHTS, Mismatch.PLUGIN, Mismatch.GPU)
    for order in itertools.permutations(found):
        assert not accepted(plan, order, [plan.sha256])
    assert accepted(plan, found[1:], [plan.sha256])
    assert not accepted(plan, found[1:]) and accepted(plan, ())


def test_plans_for_several_gpus(bundle: Bundle) -> None:
    same = EngineOptions(hardware_compatibility="sameComputeCapability")
    ampere = EngineOptions(hardware_compatibility="ampere+")
    h100 = other(name="NVIDIA H100")
    rtx, turing = other(name="RTX", compute_capability=(8, 9)), other(
        name="T4", compute_capability=(7, 5)
    )  # fmt: skip
    plan = add(bundle, "encoder", (1, 8, 16), options=same)
    assert find(bundle, "encoder", 1, gpu=h100) == plan
    assert "here is RTX" in refusal(bundle, "encoder", 1, gpu=rtx)
    plan = add(bundle, "encoder", (1, 8, 16), options=ampere)
    assert find(bundle, "encoder", 1, gpu=rtx) == plan
    assert "here is T4" in refusal(bundle, "encoder", 1, gpu=turing)


def test_plan_of_the_same_driver_branch(bundle: Bundle) -> None:
    plan = add(bundle, "encoder", (1, 8, 16))
    assert find(bundle, "encoder", 1, gpu=other(driver="580.126.09")) == plan


def test_records_that_are_none(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "x.plan.json"
    record = add(bundle, "encoder", (1, 8, 16))
    changes: list[tuple[dict[str, Any], str]] = [
        ({"size": 0}, "at size"), ({"sha256": "x"}, "at sha256"), ({"format": 2}, "at format"),
        ({"profile": {"Q": {"min": 1, "opt": 1, "max": 1}}}, "at profile.Q"),
        ({"file": "a/b.plan"}, "another folder"),
        ({"profile": {"N": {"min": 3, "opt": 2, "max": 4}}}, "3:2:4 does not rise"),
    ]  # fmt: skip
    for change, words in changes:
        path.write_text(json.dumps({**json.loads(record.model_dump_json()), **change}))
        with pytest.raises(CovisError, match=r"is no valid record|another folder") as caught:
            read_record(path)
        assert words in str(caught.value)
    path.write_bytes(b"[" * (1 << 21))
    with pytest.raises(CovisError, match="is larger than 1 MiB"):
        read_record(path)

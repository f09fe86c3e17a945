"""Valid checkpoints, and every way in which one can be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from covis.engines.errors import CovisError, ExitCode
from covis.export.models import MODELS, load_model
from covis.export.weights.entries import read_entries
from covis.export.weights.find import find_weights
from covis.export.weights.keys import identify
from covis.export.weights.load import read_weights
from covis.export.weights.page_cache import release_pages
from tests.golden_data import golden, golden_json

CONFIGS = {
    "vggt": "vggt_a1",
    "pi3": "pi3_a1",
    "mapanything": "mapanything_a1",
    "mapanything v1": "mapanything_a2",
}


def recorded(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    record = golden_json(f"{CONFIGS[name]}.json")
    return record["config"], load_file(golden(record["weights"]))


@pytest.fixture
def vggt() -> tuple[dict[str, Any], dict[str, Tensor]]:
    return recorded("vggt")


def refusal(name: str, config: Any, weights: Any, code: ExitCode = ExitCode.USER) -> str:
    with pytest.raises(CovisError) as caught:
        load_model(name, config, weights)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_takes_exactly_its_own_weights(name: str) -> None:
    config, weights = recorded(name)
    model = load_model(name.partition(" ")[0], config, weights)
    state = model.state_dict()
    used = {k: v for k, v in weights.items() if not k.startswith(model.ignored_keys)}
    assert state.keys() == used.keys()
    assert all(torch.equal(state[key], used[key]) for key in used)
    assert not any(p.requires_grad for p in model.parameters()) and not model.training
    assert all(v.dtype == torch.float32 and v.device.type == "cpu" for v in state.values())


def test_track_head_keys_are_skipped(vggt: tuple[dict[str, Any], dict[str, Tensor]]) -> None:
    config, weights = vggt
    load_model("vggt", config, {**weights, "track_head.tracker.flow_mlp.bias": torch.zeros(1)})


def test_half_precision_weights_become_float32(
    vggt: tuple[dict[str, Any], dict[str, Tensor]],
) -> None:
    config, weights = vggt
    half = {key: value.to(torch.bfloat16) for key, value in weights.items()}
    state = load_model("vggt", config, half).state_dict()
    key = "aggregator.camera_token"
    assert state[key].dtype == torch.float32 and torch.equal(state[key], half[key].float())


def test_any_alias_of_the_dense_head_is_accepted() -> None:
    record = golden_json("mapanything_a1.json")
    weights = load_file(golden(record["weights"]))
    renamed = {
        key.replace("dense_head.0.input_process.2.1.", "dpt_feature_head.scratch.layer3_rn.")
        .replace("dense_head.0.scratch.refinenet", "dpt_feature_head.scratch.refinenet")
        .replace("dense_head.1.", "dpt_regressor_head."): value
        for key, value in weights.items()
    }
    assert renamed.keys() != weights.keys()
    model = load_model("mapanything", record["config"], renamed)
    key = "dense_head.0.input_process.2.1.weight"
    assert torch.equal(model.state_dict()[key], weights[key])


def test_all_differences_are_named_in_one_error(
    vggt: tuple[dict[str, Any], dict[str, Tensor]],
) -> None:
    config, weights = vggt
    del weights["camera_head.embed_pose.bias"]
    weights["camera_head.embed_pose.offset"] = torch.zeros(3)
    weights["aggregator.camera_token"] = torch.zeros(1, 2, 1, 64)
    message = refusal("vggt", config, weights)
    assert "1 missing (camera_head.embed_pose.bias)" in message
    assert "1 unknown (camera_head.embed_pose.offset)" in message
    assert "aggregator.camera_token is [1, 2, 1, 64], not [1, 2, 1, 128]" in message


@pytest.mark.parametrize("actual", CONFIGS)
@pytest.mark.parametrize("expected", CONFIGS)
def test_a_checkpoint_of_another_model_is_named(actual: str, expected: str) -> None:
    if actual == expected:
        return
    config, _ = recorded(expected)
    _, weights = recorded(actual)
    names = {
        "vggt": "VGGT",
        "pi3": "pi^3",
        "mapanything": "MapAnything V1.1",
        "mapanything v1": "MapAnything V1",
    }
    message = refusal(expected.partition(" ")[0], config, weights)
    assert f"this is a checkpoint of {names[actual]};" in message
    assert message.endswith(f"pass one of {names[expected]}")


def test_unknown_checkpoints_are_told_apart() -> None:
    assert identify(["some.weight"]) is None
    assert identify(["point_decoder.projects.weight", "metric_token"]) == "Pi3X (not supported)"
    message = refusal("pi3", recorded("pi3")[0], {"some.weight": torch.zeros(1)})
    assert "this is a checkpoint of none of the known models; pass one of pi^3" in message


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(
    vggt: tuple[dict[str, Any], dict[str, Tensor]], bad: float
) -> None:
    config, weights = vggt
    weights["point_head.norm.bias"][3] = bad
    message = refusal("vggt", config, weights, ExitCode.NUMERICS)
    assert "1 weights hold NaN or infinity (point_head.norm.bias)" in message


def test_a_caller_s_own_changes_to_mapped_weights_are_kept(tmp_path: Path) -> None:
    config, weights = recorded("vggt")
    save_file(weights, tmp_path / "model.safetensors")
    mapped = load_file(tmp_path / "model.safetensors")
    mapped["aggregator.camera_token"].fill_(3.0)
    state = load_model("vggt", config, mapped).state_dict()
    assert (state["aggregator.camera_token"] == 3.0).all()


def test_files_cut_short_say_so(tmp_path: Path) -> None:
    config, weights = recorded("vggt")
    whole = tmp_path / "model.safetensors"
    save_file(weights, whole)
    assert read_entries(whole).keys() == weights.keys()
    content = whole.read_bytes()
    for length in (len(content) // 2, 100, 8):
        half = tmp_path / f"half {length}.safetensors"
        half.write_bytes(content[:length])
        message = refusal("vggt", config, half)
        assert f"half {length}.safetensors: the file is cut short: {length} bytes" in message
    with pytest.raises(CovisError, match="cut short"):
        read_entries(half)


def test_other_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    config, _ = recorded("vggt")
    other = tmp_path / "photo.jpg"
    other.write_bytes(b"\xff\xd8\xff\xe0" + bytes(range(256)) * 8)
    assert "photo.jpg: not a readable safetensors file" in refusal("vggt", config, other)
    pickle = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(1)}, pickle)
    message = refusal("vggt", config, pickle)
    assert (
        "this is a pickle, and opening a pickle runs code" in message and ".safetensors" in message
    )
    assert "this is a folder" in refusal("vggt", config, tmp_path)
    assert "no such weights file" in refusal("vggt", config, tmp_path / "absent.safetensors")
    assert "no such weights file" in refusal("vggt", config, "no/such/path/at-all")


class Hub:
    """Replacement of huggingface_hub.hf_hub_download that records its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]) -> None:
        self.asked: list[tuple[str, str, str | None]] = []
        self.files = files
        monkeypatch.setattr("huggingface_hub.hf_hub_download", self)

    def __call__(self, repository: str, filename: str, *, revision: str | None = None) -> str:
        self.asked.append((repository, filename, revision))
        if filename not in self.files:
            raise OSError(f"404: {repository}\nhas no {filename}")
        return str(self.files[filename])


@pytest.mark.parametrize("name", MODELS)
def test_no_weights_means_the_official_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = golden_json(f"{CONFIGS[name]}.json")
    hub = Hub(monkeypatch, {"model.safetensors": golden(record["weights"])})
    load_model(name, record["config"], None)
    repositories = {
        "vggt": "facebook/VGGT-1B",
        "pi3": "yyfz233/Pi3",
        "mapanything": "facebook/map-anything-apache",
    }
    assert hub.asked[0] == (repositories[name], "model.safetensors", MODELS[name].revision)


def test_other_repositories_and_revisions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = Hub(monkeypatch, {"model.safetensors": tmp_path / "model.safetensors"})
    assert find_weights("someone/finetuned", "v2") == tmp_path / "model.safetensors"
    assert hub.asked[0] == ("someone/finetuned", "model.safetensors", "v2")
    assert {filename for _, filename, _ in hub.asked} == {"model.safetensors", "config.json"}


def test_a_hub_that_fails_is_an_environment_error_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Hub(monkeypatch, {})
    message = refusal("pi3", None, None, ExitCode.ENVIRONMENT)
    assert message.startswith("yyfz233/Pi3: model.safetensors could not be fetched")
    assert "404: yyfz233/Pi3" in message


def test_sizes_beside_the_weights_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A V1 file with V1's config.json is read as V1, so that its fault is its (tiny) size alone."""
    _, weights = recorded("mapanything v1")
    save_file(weights, tmp_path / "model.safetensors")
    joint = {
        "model_type": "alternating_attention",
        "module_args": {"indices": [11, 17], "depth": 24},
    }
    (tmp_path / "config.json").write_text(
        json.dumps({"encoder_config": {"size": "large"}, "info_sharing_config": joint})
    )
    hub = Hub(monkeypatch, {n: tmp_path / n for n in ("model.safetensors", "config.json")})
    message = refusal("mapanything", None, "facebook/map-anything-v1")
    assert [filename for _, filename, _ in hub.asked] == ["model.safetensors", "config.json"]
    assert "pass the configuration that the weights were trained with" in message


def resident_kib() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("memory is read from /proc")
    return int(status.read_text().split("VmRSS:")[1].split()[0])


@pytest.mark.parametrize("name", ["model.safetensors", "d1635"])
def test_reading_maps_the_file_and_copies_nothing(tmp_path: Path, name: str) -> None:
    """Also a file that a download cache names by its digest."""
    path = tmp_path / name
    save_file({"weight": torch.zeros(32 << 20, dtype=torch.float16)}, path)
    before = resident_kib()
    weights = read_weights(path)
    assert weights["weight"].shape == (32 << 20,)
    assert resident_kib() - before < 16 << 10
    assert weights["weight"].sum() == 0
    assert resident_kib() - before > 48 << 10
    release_pages(weights.values())
    assert resident_kib() - before < 16 << 10

"""A smoke run of the training: it learns, stops and resumes exactly, and its files are valid."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from covis.engines.errors import CovisError
from covis.export.models import load_model
from covis.export.training import checkpoint
from covis.export.training.config import MINI, Phase, TrainingConfig
from covis.export.training.data import Pool, window_of_views
from covis.export.training.objective import Losses, auxiliary_weight
from covis.export.training.release import release
from covis.export.training.train import COLUMNS, LOG, train
from covis.export.training.trainer import Trainer, learning_rate

TINY = TrainingConfig(
    model={
        **MINI,
        "embed_dim": 32,
        "depth": 4,
        "num_heads": 1,
        "img_size": 28,
        "dino_depth": 1,
        "dino_heads": 1,
        "camera_heads": 1,
        "dpt_features": 8,
        "dpt_out_channels": [8, 8, 8, 8],
        "dpt_layers": [0, 1, 2, 3],
    },
    size=28,
    steps=40,
    images=8,
    map_frames=4,
    views_per_scene=4,
    scenes_per_step=0.1,
    warm_scenes=3,
    warmup=5,
    attention_layers=(1, 2),
    flow_layer=2,
    pose_layer=3,
    learning_rate=4e-3,
    auxiliary=0.3,
    curriculum=(Phase(1.0, {"studio/arc": 1.0}, (2, 3)),),
)


def _rows(folder: Path) -> list[dict[str, float]]:
    with (folder / LOG).open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def _same(a: checkpoint.Checkpoint, b: checkpoint.Checkpoint) -> None:
    assert a.step == b.step
    for mine, other in ((a.model, b.model), (a.average, b.average)):
        for name, value in mine.items():
            assert torch.equal(value, other[name]), name


def test_it_learns_and_resumes_exactly(tmp_path: Path) -> None:
    whole, parts, cache = tmp_path / "whole", tmp_path / "parts", tmp_path / "cache"
    train(whole, TINY, device="cpu", cache=cache, log_every=10)
    rows = _rows(whole)
    assert [r["step"] for r in rows] == [10, 20, 30, 40]
    for name in ("loss", "camera", "depth", "points", "attention", "patch_points"):
        assert rows[-1][name] < 0.85 * rows[0][name], name

    train(parts, TINY, device="cpu", cache=cache, log_every=10, stop_after=15)
    assert checkpoint.load(parts).step == 15
    with pytest.raises(CovisError, match="holds a run already"):
        train(parts, TINY, device="cpu")
    train(parts, resume=True, device="cpu", cache=cache, log_every=10)
    _same(checkpoint.load(whole), checkpoint.load(parts))
    assert [r["step"] for r in _rows(parts)] == [10, 15, 25, 35, 40]


def test_signal_handlers_are_put_back(tmp_path: Path) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    train(tmp_path, TINY, device="cpu", stop_after=1)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_run_that_died_between_checkpoints_repeats_its_rows(tmp_path: Path) -> None:
    train(tmp_path, TINY, device="cpu", log_every=1, stop_after=3)
    with (tmp_path / LOG).open("a") as file:
        for step in (4, 5):
            file.write(f"{step}" + ",0" * (len(COLUMNS) - 1) + "\n")
    train(tmp_path, resume=True, device="cpu", log_every=1, stop_after=1)
    rows = _rows(tmp_path)
    assert [r["step"] for r in rows] == [1, 2, 3, 4]
    assert rows[-1]["loss"] > 0


def test_exported_weights_are_half_the_size_and_give_the_same_cameras(tmp_path: Path) -> None:
    trainer = Trainer(TINY)
    for _ in range(3):
        trainer.advance()
    path = tmp_path / "mini.safetensors"
    checkpoint.export_weights(path, trainer.average, {"steps": "3"})
    stored = load_file(path)
    assert {v.dtype for v in stored.values()} == {torch.float16}
    assert sum(v.numel() for v in stored.values()) * 2 <= path.stat().st_size < 2**20
    images = torch.rand(1, 2, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    half = load_model("vggt", TINY.model, path)(images)["pose_enc"]
    full = load_model("vggt", TINY.model, trainer.average)(images)["pose_enc"]
    torch.testing.assert_close(half, full, atol=5e-3, rtol=0)
    with pytest.raises(CovisError, match="does not fit float16: a"):
        checkpoint.export_weights(path, {"a": torch.tensor(1e9)}, {})


def test_a_new_run_starts_with_the_weights_of_another(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    train(first, TINY, device="cpu", log_every=1, stop_after=1)
    still = dataclasses.replace(TINY, learning_rate=0.0)
    train(second, still, device="cpu", start_from=first, log_every=1, stop_after=1)
    state, average = checkpoint.load(second), checkpoint.load(first).average
    assert state.step == 1
    for name, value in average.items():
        torch.testing.assert_close(state.model[name], value)
        torch.testing.assert_close(state.average[name], value)
    for name, value in checkpoint.load(first).heads.items():
        torch.testing.assert_close(state.heads[name], value)
    other = dataclasses.replace(TINY, model={**TINY.model, "embed_dim": 64})
    with pytest.raises(CovisError, match="another model"):
        train(tmp_path / "third", other, device="cpu", start_from=first)


def test_a_release_holds_its_own_record(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    train(run, TINY, device="cpu", log_every=1, stop_after=2)
    weights, record = release(run, out, ("studio/orbit",), scenes=1, views=3, earlier=(run,))
    content = json.loads(record.read_text())
    assert content["file"]["bytes"] == weights.stat().st_size
    assert content["file"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert content["training"]["steps_done"] == 2
    assert content["training"]["images_seen"] == 16
    assert content["training"]["curves"]["step"] == [1, 2]
    assert [r["steps_done"] for r in content["training"]["earlier_runs"]] == [2]
    scores = content["evaluation"]["scores"]["studio/orbit"]
    models = {"covis-mini", "self only", "each view alone"}
    assert set(scores) == {*models, "identity", "mean training pose"}
    assert scores["covis-mini"]["pairs"] == 3
    assert load_model("vggt", content["config"], weights).config.embed_dim == 32


def test_checkpoints_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(CovisError, match="no such checkpoint"):
        train(tmp_path, resume=True)
    (tmp_path / checkpoint.FILE).write_bytes(b"half a file")
    with pytest.raises(CovisError, match="is no checkpoint"):
        train(tmp_path, resume=True)


def test_the_shipped_model_fits_its_limits() -> None:
    config = TrainingConfig()
    assert TrainingConfig.from_json(config.to_json()) == config
    parameters = sum(p.numel() for p in Trainer(config).model.parameters())
    assert parameters <= 4_000_000
    assert config.model["depth"] >= 8


def test_learning_rate_rises_and_falls() -> None:
    rates = np.array([learning_rate(TINY, s, s / TINY.steps) for s in range(TINY.steps + 1)])
    assert rates.argmax() in (4, 5)
    assert 0.95 * TINY.learning_rate < rates.max() < TINY.learning_rate
    assert (np.diff(rates[5:]) < 0).all()
    assert rates[-1] == pytest.approx(0.01 * TINY.learning_rate)


def test_wrong_configurations_are_named() -> None:
    with pytest.raises(CovisError, match="no family/path"):
        Phase(1.0, {"cave/orbit": 1.0}, (2, 3))
    with pytest.raises(CovisError, match="two views"):
        Phase(1.0, {"room/orbit": 1.0}, (1, 3))
    with pytest.raises(CovisError, match="samples of 24 views"):
        TrainingConfig(images=8)
    with pytest.raises(CovisError, match="not all layers of a model of 8"):
        TrainingConfig(flow_layer=8)
    with pytest.raises(CovisError, match="share"):
        Phase(1.0, {"room/orbit": 1.0}, (2, 3), (0.5, 1.2))
    with pytest.raises(CovisError, match="minutes: is -1"):
        TrainingConfig(minutes=-1)
    with pytest.raises(CovisError, match="no configuration of a training run"):
        TrainingConfig.from_json('{"curriculum": [], "colour": 1}')


def test_a_schedule_in_minutes_ends_in_time_and_passes_all_phases(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, minutes=0.02)
    train(tmp_path, config, device="cpu", log_every=1)
    rows = _rows(tmp_path)
    progress = [r["progress"] for r in rows]
    assert progress[0] == 0 and progress == sorted(progress) and progress[-1] < 1
    assert checkpoint.load(tmp_path).seconds >= 60 * config.minutes
    assert rows[0]["auxiliary"] == config.auxiliary


def test_auxiliary_losses_fade_out() -> None:
    config = dataclasses.replace(TINY, auxiliary=2.0, fade=0.5)
    assert [auxiliary_weight(config, p) for p in (0.0, 0.5)] == [2.0, 2.0]
    assert auxiliary_weight(config, 0.75) == pytest.approx(1.0)
    assert auxiliary_weight(config, 1.0) == pytest.approx(0.0, abs=1e-12)
    one = torch.ones(())
    losses = Losses(one, one, one, *[100 * one] * 5)
    assert float(losses.total(config, 1.0)) == pytest.approx(config.pose_weight + 2)


def test_scenes_rendered_ahead_are_those_rendered_now() -> None:
    ahead, now = Pool(TINY, workers=1), Pool(TINY)
    try:
        for step in (0, 1):
            torch.testing.assert_close(ahead.batch(step).images, now.batch(step).images)
    finally:
        ahead.close()


def test_a_new_run_starts_with_a_weights_file(tmp_path: Path) -> None:
    trainer = Trainer(TINY)
    trainer.advance()
    path = tmp_path / "mini.safetensors"
    checkpoint.export_weights(path, trainer.average, {})
    still = dataclasses.replace(TINY, learning_rate=0.0)
    train(tmp_path / "run", still, device="cpu", start_from=path, stop_after=1)
    for name, value in checkpoint.load(tmp_path / "run").average.items():
        torch.testing.assert_close(value, trainer.average[name], atol=1e-3, rtol=1e-3)
    path.write_bytes(b"no weights")
    with pytest.raises(CovisError, match="neither the folder of a run nor a safetensors file"):
        train(tmp_path / "other", still, device="cpu", start_from=path)


def test_auxiliary_heads_are_not_exported(tmp_path: Path) -> None:
    trainer = Trainer(TINY)
    assert set(trainer.average) == set(trainer.model.state_dict())
    saved = checkpoint.load(checkpoint.save(tmp_path, trainer.checkpoint()).parent)
    assert set(saved.heads) == set(trainer.heads.state_dict())


def test_a_checkpoint_is_small_enough_to_travel(tmp_path: Path) -> None:
    trainer = Trainer(TINY)
    trainer.advance()
    parameters = sum(p.numel() for p in trainer.model.parameters())
    # Weights, averages and two moments in float32, names and padding, and no scenes.
    path = checkpoint.save(tmp_path, trainer.checkpoint())
    assert path.stat().st_size < 16 * parameters + 600_000


def test_windows_of_a_path_are_close_views() -> None:
    rng = np.random.default_rng(0)
    spans = []
    for _ in range(200):
        chosen = window_of_views(rng, 24, 3, (0.25, 0.5))
        assert len(set(chosen.tolist())) == 3 and chosen.min() >= 0 and chosen.max() < 24
        spans.append(chosen.max() - chosen.min() + 1)
    assert 10 <= max(spans) <= 12 and min(spans) == 3
    assert set(window_of_views(rng, 4, 4, (0.1, 0.1)).tolist()) == {0, 1, 2, 3}

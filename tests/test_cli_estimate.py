"""`covis estimate`: predictions, the limit that it names, and wrong arguments."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from covis.cli import run_command
from covis.commands.estimate import EstimateCommand, _times
from covis.engines.bundle.bundle import open_bundle
from covis.engines.errors import CovisError
from covis.engines.options import Sparsity
from tests.places import ROOT

DEMO = str(ROOT / "covis" / "assets" / "demo")
Captured = pytest.CaptureFixture[str]


def predict(capsys: Captured, *arguments: str, code: int = 0) -> dict[str, Any]:
    assert run_command(["estimate", DEMO, *arguments, "--json"]) == code
    return dict(json.loads(capsys.readouterr().out))


def test_prediction(capsys: Captured) -> None:
    few = predict(capsys, "--views", "10", "--memory", "1", "--chunk", "4")
    many = predict(capsys, "--views", "40", "--memory", "1", "--chunk", "4")
    names = ["encoder", "saliency", "aggregator", "camera", "depth", "points"]
    assert [row["stage"] for row in few["stages"]] == names
    for row, more in zip(few["stages"], many["stages"], strict=True):
        assert row["median_ms"] is None and row["weights"] == more["weights"]
        if row["runs_over"] == "chunks":  # the memory of chunks does not grow with the views
            assert row["scratch"] == more["scratch"]
        else:
            assert row["scratch"] < more["scratch"] < 17 * row["scratch"]
    assert few["total"] < many["total"] and few["most_views"] == many["most_views"] > 40


def test_auto_and_its_share_of_attention(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 8 global layers: 1 self, 2 of 10 anchors, 5 of 25; each view has 4 neighbours."""
    monkeypatch.setattr("covis.commands.estimate._budget", lambda command: None)
    options = ("--views", "300", "--backend", "cpu")
    auto = predict(capsys, *options)
    assert (auto["selector"], auto["reason"]) == ("anchors", "more than 250 views")
    assert auto["attention_work"] == pytest.approx((1 + 2 * 15 + 5 * 30) / 300 / 8)
    # Three maps need more between the stages than the one of dense.
    dense = predict(capsys, *options, "--selector", "dense")
    assert (dense["selector"], dense["reason"], dense["attention_work"]) == ("dense", "", 1.0)
    kept = [{r["stage"]: r["kept"] for r in it["stages"]}["aggregator"] for it in (auto, dense)]
    assert kept[0] - kept[1] == 2 * 300 * 300 * 4
    assert run_command(["estimate", DEMO, *options, "--schedule", "all:anchors=10"]) == 0
    assert "selector anchors: at most 5.0 %" in capsys.readouterr().out


def test_limit_is_named(capsys: Captured) -> None:
    arguments = ["estimate", DEMO, "--views", "3000", "--memory", "1", "--selector", "pooled"]
    assert run_command(arguments) == 3
    out, err = capsys.readouterr()
    assert "aggregator_pooled" in out and "not measured" in out and "selector pooled" in out
    assert err.startswith("covis: stage ") and "3000 views do not fit: " in err
    assert "need 1" in err and "there are 1.00 GiB; at most" in err and err.count("\n") == 1


def test_onnxruntime_shares_weights_and_knows_no_limit_of_elements(capsys: Captured) -> None:
    found = predict(capsys, "--views", "4", "--memory", "4", "--backend", "cpu")
    size = (ROOT / "covis/assets/demo/model.safetensors").stat().st_size
    assert 0 < found["weights"] <= size and "2^31" not in found["limit"]


def test_no_memory_to_ask_for(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("covis.commands.estimate._budget", lambda command: None)
    monkeypatch.setattr("covis.runtime.run_memory.MOST_ELEMENTS", 10**7)
    found = predict(capsys, "--views", "4")
    assert found["budget"] is None and "2^31 elements" in found["limit"]
    most = {row["stage"]: row["elements"] for row in found["stages"]}
    assert found["most_views"] >= 4 and max(most.values()) <= 10**7


def test_times_come_from_records_of_this_bundle(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    bundle = open_bundle(DEMO)
    command = EstimateCommand(Path(DEMO), 4, bench=(path,))
    prediction: Any = SimpleNamespace(
        command=command, bundle=bundle, sparsity=Sparsity(selector="anchors", anchors=10)
    )
    settings = {
        name: {
            "sparsity": asdict(Sparsity(selector="anchors", anchors=count)),
            "stages": {"encoder": {"latency_ms": {"median": count + 2.5}}},
        }
        for name, count in (("anchors", 25), ("anchors=10", 10))
    }
    record = {
        "bundle": bundle.digest(), "backend": "tensorrt", "views": 4, "chunk": 16,
        "settings": settings,
    }  # fmt: skip
    path.write_text(json.dumps(record))
    assert _times(prediction) == {"encoder": 12.5}
    others = {"bundle": "0" * 64, "backend": "onnxruntime", "views": 5, "chunk": 2, "settings": {}}
    for name, value in others.items():
        path.write_text(json.dumps({**record, name: value}))
        assert _times(prediction) == {}, name
    path.write_text("[" * 100_000)
    with pytest.raises(CovisError, match="is not JSON"):
        _times(prediction)
    path.write_text("{}")
    with pytest.raises(CovisError, match=r"bench.json: is no record of `covis bench`; write one"):
        _times(prediction)
    path.unlink()
    with pytest.raises(CovisError, match=r"bench.json: cannot be read"):
        _times(prediction)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--views", "0"], "--views: 0 is not in [1, 20,000]"),
        (["--views", "4", "--chunk", "0"], "--chunk: 0 is below 1"),
        (["--views", "4", "--probes", "-1"], "--probes: -1 is negative"),
        (["--views", "4", "--backend", "cuda"], "--backend: there is no estimate for cuda; use"),
        (["--views", "4", "--probes", "9" * 23], "is above 1,000,000"),
        (["--views", "4", "--memory", "0"], "--memory: 0 GiB is no size"),
        (["--views", "4", "--memory", "nan"], "--memory: nan GiB is no size"),
    ],
)
def test_wrong_arguments(capsys: Captured, arguments: list[str], words: str) -> None:
    assert run_command(["estimate", DEMO, *arguments]) == 2
    assert words in capsys.readouterr().err


def test_former_name(capsys: Captured) -> None:
    """`covis plan` does the same for one version, with one line of notice."""
    assert run_command(["estimate", DEMO, "--views", "4", "--memory", "1", "--json"]) == 0
    now = capsys.readouterr()
    assert run_command(["plan", DEMO, "--views", "4", "--memory", "1", "--json"]) == 0
    former = capsys.readouterr()
    assert former.out == now.out and not now.err
    assert former.err.startswith("covis: `covis plan` is now `covis estimate`")
    assert former.err.count("\n") == 1

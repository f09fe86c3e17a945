"""The pages about evaluation: commands parse, every name is explained, the Python example runs."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields

import pytest

from covis.commands.demo import demo_bundle
from covis.commands.eval import EvalCommand
from covis.evaluation.accuracy import scoring
from covis.evaluation.accuracy.results import COLUMNS
from covis.evaluation.datasets import NAMES
from covis.evaluation.sweep.axes import ANCHOR_SOURCES, NAMED_SCHEDULES, SweepAxes
from tests.places import ROOT

HOW_TO = (ROOT / "docs" / "how-to" / "evaluate.md").read_text()
REFERENCE = (ROOT / "docs" / "reference" / "datasets-and-metrics.md").read_text()


def test_commands_parse() -> None:
    from covis.cli import _parse

    lines = [line for line in HOW_TO.splitlines() if re.match("covis eval [a-z]", line)]
    assert len(lines) >= 5
    for line in lines:
        options = _parse(EvalCommand, "covis eval", shlex.split(line, comments=True)[2:])
        assert isinstance(options, EvalCommand) and options.paths


def test_every_axis_of_anchors_is_explained() -> None:
    named = [f.name for f in fields(SweepAxes) if "anchor" in f.name]
    for name in (*named, "own_frame", "min_neighbours", "schedules"):
        assert f"`--{name.replace('_', '-')}`" in HOW_TO, name
    for word in (*ANCHOR_SOURCES, *NAMED_SCHEDULES):
        assert f"`{word}`" in HOW_TO, word


def test_every_dataset_and_metric_is_explained() -> None:
    for name in NAMES:
        assert f"| `{name}` |" in REFERENCE
    for name in COLUMNS:
        if name not in ("scene", "group", "views", "pairs") and not re.match("auc.*directed", name):
            assert f"`{name}`" in REFERENCE, name


def test_the_example_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("scipy", reason="point clouds need the extra `eval`")
    monkeypatch.setattr(scoring, "_CLOUD_LIMIT", 2000)  # clouds of random weights take long
    (code,) = re.findall(r"```python\n(.*?)```", HOW_TO, re.DOTALL)
    code = code.replace('"bundle"', repr(str(demo_bundle()))).replace("-1000003/24", "/3")
    exec(compile(code, "docs/how-to/evaluate.md", "exec"), {})
    assert 0.0 <= float(capsys.readouterr().out) <= 1.0

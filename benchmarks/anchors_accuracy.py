"""Accuracy of covis-mini by the choice of its anchors: k-center against four others.

    python benchmarks/anchors_accuracy.py                    # of the bundle that ships

Every choice takes the same numbers of anchors in the default schedule, with the default rule and
with the published one, on the same held-out scenes, in the order of the camera path. Writes
`benchmarks/results/anchors_accuracy.json` after each scene; an interrupted run continues in
`--work`. `benchmarks/accuracy_mini.py` writes the tables into docs/explanation/accuracy.md.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from accuracy_mini import made

from covis.engines.bundle.bundle import open_bundle
from covis.engines.options import RunOptions, Sparsity
from covis.engines.regime import format_schedule
from covis.engines.schedule import default_schedule
from covis.evaluation.accuracy.job import Job
from covis.evaluation.accuracy.scoring import Record, ScoreOptions
from covis.evaluation.accuracy.summary import aggregate
from covis.evaluation.metrics.pose import THRESHOLDS
from covis.evaluation.sweep.axes import ANCHOR_SOURCES, SweepAxes
from covis.evaluation.sweep.settings import Setting, settings
from covis.evaluation.sweep.sweep import Sweep
from covis.runtime.flow import Step, shape_of
from covis.runtime.photos.images import Images
from covis.runtime.pipeline import Pipeline

ROOT = Path(__file__).resolve().parent.parent
KINDS = ("studio/orbit", "studio/scatter")
BUDGETS = {24: (3, 6, 12), 48: (6, 12, 24)}
SEEDS = (0, 1, 2)
RULES = {True: "own frame, 4 neighbours", False: "one list for all (published)"}


class CamerasAlone(Pipeline):
    """Pipeline without the dense heads, whose results this benchmark does not read."""

    def run_stage(self, step: Step, images: Images, *others: Any) -> dict[str, Any]:
        """Run a stage; depth and points, half of the time, are zeros instead."""
        if step.stage.name not in ("depth", "points"):
            return super().run_stage(step, images, *others)
        views = len(images)
        sizes = {"M": views, "N": views}
        return {t.name: np.zeros(shape_of(t, sizes), t.dtype) for t in step.stage.outputs}


def sweeps(pipeline: Pipeline, kinds: Sequence[str], work: Path) -> dict[int, list[Sweep]]:
    """Return one sweep for each number of views and kind of scenes."""
    depth = pipeline.bundle.manifest.model.global_layers
    found: dict[int, list[Sweep]] = {}
    for views, budgets in BUDGETS.items():
        axes = SweepAxes(
            taus=(),
            selectors=(),
            layers=("all",),
            shares=(),
            anchors=budgets,
            anchor_shares=(),
            anchor_seeds=SEEDS,
            own_frame=tuple(RULES),
            schedules=(),
        )
        points = settings(axes, Sparsity(), depth, views=views)
        for kind in kinds:
            job = Job(
                bundle=pipeline.bundle.path,
                dataset=made(kind, views, pipeline),
                sparsity=Sparsity(),
                score=ScoreOptions(metrics=("pose",)),
                views=views,
                sampling="even",
            )
            folder = work / f"{kind.replace('/', '-')}-{views}"
            found.setdefault(views, []).append(Sweep(folder, {"": pipeline}, job, points))
    return found


def rows(wholes: Sequence[Sweep], scenes: int) -> Iterator[dict[str, Any]]:
    """Yield the results of each setting over the first scenes of all kinds, which are pooled."""
    for setting in wholes[0].settings:
        records = [
            record
            for whole in wholes
            for record in whole.records(setting, whole.job.dataset.scenes()[:scenes])
        ]
        yield {**_described(setting), **_measured(records)}


def _described(setting: Setting) -> dict[str, Any]:
    if setting.choice is None:
        return {"choice": "dense"}
    sparsity = setting.sparsity
    return {
        "choice": setting.choice,
        "anchors": sparsity.anchors,
        "own_frame": sparsity.own_frame,
        "seed": sparsity.anchor_seed,
    }


def _measured(records: Sequence[Record]) -> dict[str, Any]:
    """Return the pooled AUC, the work, and the AUC of each scene, by threshold."""
    summary = aggregate(records)
    names = [f"auc{threshold}" for threshold in THRESHOLDS]
    return {
        "attention_work": round(summary["attention_work"], 4),
        "scenes": len(records),
        **{name: round(summary[name], 4) for name in names},
        "by_scene": [[round(record[name], 4) for name in names] for record in records],
    }


def table(found: Sequence[dict[str, Any]], views: int) -> str:
    """Return the AUC at all thresholds by rule, number of anchors and choice."""
    marks = " / ".join(map(str, THRESHOLDS))
    head = f"| anchors of {views} | attention computed | {' | '.join(ANCHOR_SOURCES)} |"
    lines = [f"AUC@{marks}, dense: {_aucs([r for r in found if r['choice'] == 'dense'])}", ""]
    for own, rule in RULES.items():
        lines += [f"**{views} views, {rule}**", "", head, "|" + "---|" * 7]
        for number in BUDGETS[views]:
            same = [r for r in found if (r.get("anchors"), r.get("own_frame")) == (number, own)]
            by = {choice: [r for r in same if r["choice"] == choice] for choice in ANCHOR_SOURCES}
            cells = [_aucs(by[choice]) for choice in ANCHOR_SOURCES]
            work = by["kcenter"][0]["attention_work"]
            lines.append(f"| {number} | {work:.1%} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _aucs(found: Sequence[dict[str, Any]]) -> str:
    """Return the AUC at all thresholds in percent, the mean over the seeds."""
    means = (np.mean([row[f"auc{threshold}"] for row in found]) for threshold in THRESHOLDS)
    return " / ".join(f"{100 * mean:.1f}" for mean in means)


def differences(found: Sequence[dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Return each choice's AUC minus that of k-center: mean and standard error, by threshold.

    Differences are paired by scene, rule and number of anchors, then averaged in each scene, so the
    scenes alone are the sample.
    """
    center = {
        (r["own_frame"], r["anchors"]): np.array(r["by_scene"])
        for r in found
        if r["choice"] == "kcenter"
    }
    apart = defaultdict(list)
    for r in found:
        if r["choice"] not in ("dense", "kcenter"):
            key = (r["own_frame"], r["anchors"])
            apart[r["choice"]].append(np.array(r["by_scene"]) - center[key])
    out = {}
    for choice, each in apart.items():
        by_scene = np.mean(each, axis=0)  # (scenes, thresholds)
        error = by_scene.std(axis=0, ddof=1) / np.sqrt(len(by_scene))
        out[choice] = (by_scene.mean(axis=0), error)
    return out


def section(record: dict[str, Any]) -> str:
    """Return the section of docs/explanation/accuracy.md: how it was measured, and all tables."""
    groups = list(record["rows"].values())
    scenes = groups[0][0]["scenes"] // len(record["kinds"])
    marks = " / ".join(map(str, THRESHOLDS))
    return "\n".join(
        [
            "## Anchors by choice\n",
            f"`python benchmarks/anchors_accuracy.py`: {scenes} scenes of each of"
            f" {', '.join(record['kinds'])} and each number of views, in the order of the camera"
            f" path. The schedule is the default one of {record['depth']} global layers,"
            f" `{record['schedule']}` for 25 anchors and in proportion for other numbers. The"
            f" similarity is that of the model's own encoder. Each cell has AUC@{marks} in"
            f" percent. `random` is the mean of {len(SEEDS)}"
            " seeds. `similar` has no common anchors: each view keeps as many of its most similar"
            " views, and the reference view. `oracle` takes the anchors that see the most of what"
            " all views see, from the true depth.\n",
            markdown(record),
            _READING,
        ]
    )


_READING = """\
What this shows: every choice, rule and number of anchors runs through one bundle, at the work \
that the tables name. What it does not show is which choice is best, because this covis-mini \
places a view largely from that view alone (see the top of this page) and hardly uses the views \
that a choice brings in or leaves out. Models that compare views must be measured themselves, \
with `covis sweep`.
"""


def markdown(record: dict[str, Any]) -> str:
    """Return all tables in Markdown."""
    groups = record["rows"]
    parts = [table(found, int(views)) for views, found in groups.items()]
    return "\n".join([*parts, comparison(groups)])


def comparison(groups: dict[str, list[dict[str, Any]]]) -> str:
    """Return the table of differences from k-center, and what to make of them."""
    columns = " | ".join(f"AUC@{threshold}" for threshold in THRESHOLDS)
    lines = [f"| views | choice minus k-center | {columns} |", "|" + "---|" * 6]
    apart: list[tuple[float, float]] = []
    for views, found in groups.items():
        for choice, (mean, error) in differences(found).items():
            points = list(zip(100 * mean, 100 * error, strict=True))
            cells = " | ".join(f"{m:+.2f} ± {e:.2f}" for m, e in points)
            lines.append(f"| {views} | {choice} | {cells} |")
            apart += points
    beyond = sum(abs(mean) > 2 * error for mean, error in apart)
    every = [(row, found[0]) for found in groups.values() for row in found]
    lost = max(100 * abs(row["auc30"] - dense["auc30"]) for row, dense in every)
    note = (
        f"Mean and standard error of the paired difference over {every[0][0]['scenes']} scenes for"
        " each number of views, in points of AUC, over all numbers of anchors and both rules."
        f" The largest is {max(abs(mean) for mean, _ in apart):.2f} points. {beyond} of the"
        f" {len(apart)} differences are larger than two standard errors; {len(apart) / 20:.1f}"
        " would be by chance alone, if all were independent, which the thresholds of one choice are"
        f" not. No setting, down to {min(row['attention_work'] for row, _ in every):.1%} of dense"
        f" attention, differs from dense by more than {lost:.1f} points of AUC@30.\n"
    )
    return "\n".join([*lines, "", note])


def parser() -> argparse.ArgumentParser:
    """Return the command line parser."""
    out = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    out.add_argument("--bundle", type=Path, default=ROOT / "covis" / "assets" / "demo")
    out.add_argument("--kinds", nargs="+", default=list(KINDS))
    out.add_argument("--scenes", type=int, default=4, help="of each kind and number of views")
    out.add_argument("--threads", type=int, default=1)
    out.add_argument("--work", type=Path, default=ROOT / "build" / "anchors_accuracy")
    results = ROOT / "benchmarks" / "results"
    out.add_argument("--out", type=Path, default=results / "anchors_accuracy.json")
    return out


def main(words: Sequence[str] | None = None) -> None:
    """Measure scene by scene, write the JSON after each, and print the tables."""
    arguments = parser().parse_args(words)
    options = RunOptions(chunk=24, threads=arguments.threads)
    pipeline = CamerasAlone(open_bundle(arguments.bundle), options)
    depth = pipeline.bundle.manifest.model.global_layers
    wholes = sweeps(pipeline, arguments.kinds, arguments.work)
    record: dict[str, Any] = {}
    for scene in range(arguments.scenes):
        for whole in (whole for group in wholes.values() for whole in group):
            failed = whole.run([whole.job.dataset.scenes()[scene]])
            for error in failed.values():
                raise error
        record = {
            "kinds": arguments.kinds,
            "onnxruntime": onnxruntime.__version__,
            "bundle": pipeline.bundle.digest(),
            "depth": depth,
            "schedule": format_schedule(default_schedule(depth, Sparsity().anchors)),
            "rows": {str(views): list(rows(group, scene + 1)) for views, group in wholes.items()},
        }
        arguments.out.write_text(_compact(record))
    print(markdown(record))


def _compact(record: dict[str, Any]) -> str:
    """Return JSON with a line for each setting."""
    head = {key: value for key, value in record.items() if key != "rows"}
    groups = (
        f'  "{views}": [\n   ' + ",\n   ".join(map(json.dumps, found)) + "\n  ]"
        for views, found in record["rows"].items()
    )
    return json.dumps(head)[:-1] + ',\n "rows": {\n' + ",\n".join(groups) + "\n }\n}\n"


if __name__ == "__main__":
    main()

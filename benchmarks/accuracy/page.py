"""Text of docs/explanation/accuracy.md, from the record alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from accuracy import findings, pictures, tables
from accuracy.findings import chosen_by_views
from accuracy.settings import LOWEST, SEEDS
from accuracy.statistics import Results

COMMAND = "python benchmarks/accuracy_mini.py"


def write(record: Mapping[str, Any], path: Path) -> None:
    """Write the page, and its pictures in the folder of the same name beside it."""
    parts = {name: Results(part["settings"]) for name, part in record["parts"].items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(_sections(record, parts, path.with_suffix(""))))


def _sections(
    record: Mapping[str, Any], parts: Mapping[str, Results], folder: Path
) -> Iterator[str]:
    attended = record.get("attention", {})
    yield from _head(record)
    yield "## What the numbers say\n"
    for paragraph in findings.findings(parts, record["depth"], attended.get("layers", ())):
        yield paragraph + "\n"
    if "estimators" in parts:
        yield from _estimators(record, parts["estimators"])
    chosen = chosen_by_views(parts)
    if chosen:
        yield from _choices(chosen, folder)
    for views, results in chosen_by_views(parts, "options-").items():
        yield from _options(views, results)
    if "layers" in parts:
        yield from _layers(record, parts["layers"], folder)
    if "precision" in parts:
        yield from _precision(parts["precision"], record["parts"]["precision"]["views"])
    if attended:
        yield from _attention(attended, folder)


def _head(record: Mapping[str, Any]) -> Iterator[str]:
    training = record["training"]
    yield "# Accuracy of covis-mini\n"
    text = (
        f"Measured by `{COMMAND}`, which writes this page (raw numbers:"
        f" `benchmarks/results/accuracy_mini.json`; {record['cpu_seconds']:,} CPU-seconds)."
    )
    if training["parameters"]:
        text += (
            f" The model has {training['parameters'] / 1e6:.2f} M parameters and was trained for"
            f" {training['steps_done']:,} steps ({training['images_seen']:,} images) in"
            f" {training['hours']:.1f} h."
        )
    yield text + "\n"
    size = record["size"]
    yield (
        "All scenes are rendered from seeds that were never trained on, nor looked at during"
        f" training, at {size} x {size} pixels with four rays a pixel. The error of a pair of views"
        " is the larger of its rotation and translation angles, and the translation counts up to"
        " its sign, as for CO3D in VGGT's evaluation; see"
        " [datasets and metrics](../reference/datasets-and-metrics.md). AUC is in percent, over"
        " all pairs of a scene. A number after ± is one standard error of the mean over scenes;"
        " differences are paired by scene. Numbers over several kinds of scenes are the mean of"
        " the kinds.\n"
    )


def _estimators(record: Mapping[str, Any], results: Results) -> Iterator[str]:
    yield "## Dense, against baselines\n"
    yield (
        f"Scenes of each kind: {results.scenes}, with"
        f" {record['parts']['estimators']['views']} random views of twelve along the camera path."
        " Kinds that the model was not trained on are marked. `self only`: in every global layer,"
        " patches attend to their own view alone (the schedule `all:self`); camera and register"
        " tokens are dense in every sparse setting, so they still connect the views. `each view"
        " alone`: a sequence for each view, so nothing connects them. `mean pose`: the mean pose of"
        " another view in training scenes of that kind. `identity`: all cameras in one place."
        " `AUC@30, signed` counts a translation in the opposite direction as 180°.\n"
    )
    yield tables.estimators(results, record["training"]["kinds"])


def _choices(every: Mapping[int, Results], folder: Path) -> Iterator[str]:
    yield "## Which pairs, at equal counts\n"
    yield (
        "Views in the order of the camera path, every global layer alike. The numbers of pairs are"
        " those that anchors allow at no more than 50, 25 and 12.5 % of all ordered pairs (at least"
        " one anchor). `anchors`: every view attends to the same few views, of which view 0 is one."
        " `pairs`: the pairs of highest score. Every view attends to itself in all of them;"
        " `and view 0` adds all pairs of view 0, as the selector saliency does by default, within"
        " the same count; where these alone exceed it, the row is empty. `saliency`: similarity of"
        f" the encoder's tokens. `random`: mean of {len(SEEDS)} draws for each scene. `oracle`:"
        " true co-visibility. Differences in brackets are to dense.\n"
    )
    for views, results in every.items():
        dense, own = (
            tables.percent(results.estimate(name, "auc30")) for name in (tables.DENSE, tables.SELF)
        )
        strict = ", ".join(
            f"AUC@{t} {100 * results.estimate(tables.DENSE, f'auc{t}').mean:.1f}"
            for t in (15, 5, 3)
        )
        yield f"### {views} views\n"
        yield (
            f"{tables.count(results)}. Dense: AUC@30 {dense}, {strict}. Self only: AUC@30 {own}.\n"
        )
        yield tables.choices(results)
    yield _picture(pictures.draw_choices(every, folder / "choices.svg"), "AUC@30 by share of pairs")
    yield "### By kind of scenes\n"
    yield f"AUC@30 at the lowest count, which is {LOWEST:.1%} of the pairs or what anchors allow.\n"
    yield tables.by_kind(every)


def _options(views: int, results: Results) -> Iterator[str]:
    yield f"## Thresholds, pooled blocks and schedules, {views} views\n"
    yield (
        f"{tables.count(results)}; the options of"
        " [choosing sparsity](../how-to/choose-sparsity.md). Thresholds and pooled blocks in every"
        f" layer; `light` and `anchors` with their schedules and {views // 4} anchors."
        " `attention computed`: share of the blocks of patches, over all layers. `moved`: median"
        " angle between the cameras of a pair and those of dense attention.\n"
    )
    yield tables.options(results)


def _layers(record: Mapping[str, Any], results: Results, folder: Path) -> Iterator[str]:
    views = record["parts"]["layers"]["views"]
    yield "## Which layers need other views\n"
    yield (
        f"AUC@30 minus dense, {tables.count(results)},"
        f" {views} views. Some layers see their own view alone, or {LOWEST:.1%} of the pairs by"
        " similarity, and the others are dense: layer l alone, layers 0 to l, or layers l to the"
        " last.\n"
    )
    yield tables.layers(results, record["depth"])
    path = pictures.draw_layers(results, record["depth"], folder / "layers.svg")
    yield _picture(path, "AUC@30 by the layers that leave out pairs")


def _precision(results: Results, views: int) -> Iterator[str]:
    yield "## Low precision against skipping\n"
    yield (
        f"{tables.count(results)}, {views} views, every"
        " global layer. FP8 is emulated in torch (e4m3 with the scales of the Hopper kernels;"
        " special tokens stay exact), not run on hardware. `fp16`: the whole model. `fp8`: all"
        " pairs. `regime 2`: the most similar pairs, as many as the share says, in full, and the"
        " others in FP8. `skip`: the others left out.\n"
    )
    yield tables.precision(results)


def _attention(found: Mapping[str, Any], folder: Path) -> Iterator[str]:
    layers = found["layers"]
    yield "## Where attention goes\n"
    yield (
        f"Dense attention, {found['scenes']} of the scenes of each of"
        f" {', '.join(found['kinds'])}, {found['views']} views. Weights between kinds of tokens,"
        " and the share of the mass between patches in the strongest blocks of 128 x 64 patch"
        f" tokens ({layers[0]['blocks']} blocks for each layer and head):\n"
    )
    yield tables.kinds_of_tokens(layers)
    yield (
        "Attention of the patches, the heads of a layer side by side. Entropy is over all keys; its"
        " ratio to the log of their number is 1 for uniform attention. `own view`, `view 0` (of the"
        " other views' patches), `special tokens` and `true matches` are shares of the mass; a true"
        " match is the patch of another view that shows the point at a patch's centre, from the"
        " true depth and with occlusion. `times chance`: that mass relative to uniform attention."
        " `matches found`: share of the matches that are the strongest patch of their view.\n"
    )
    yield tables.heads(layers)
    path = pictures.draw_attention(layers, folder / "attention.svg")
    yield _picture(path, "Entropy, true matches and concentration of attention by layer")


def _picture(path: Path, title: str) -> str:
    return f"![{title}]({path.parent.name}/{path.name})\n"

"""Sentences that state what the numbers of the accuracy benchmark show, and what they do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from accuracy.settings import LAYER_CURVES, LOWEST, SHARES
from accuracy.statistics import Estimate, Results
from accuracy.tables import DENSE, SELF, kept, names_at, percent, points

ALONE = "each view alone"
NEEDED = 0.1
"""Loss of AUC@30 without the other views from which the model counts as one that needs them."""
_SMALL = 0.02  # loss of AUC@30 that the layer-drop sentences call small


def verdict(difference: Estimate) -> str:
    """Return how sure a difference is."""
    if not difference.judged:
        return "too few scenes to judge"
    return "more than two standard errors" if difference.clear else "within two standard errors"


def needs_neighbours(results: Results) -> bool:
    """Return whether the model loses much where patches see their own view alone."""
    gap = results.difference(DENSE, SELF, "auc30")
    return gap.mean > NEEDED and (gap.clear or not gap.judged)


def neighbours(results: Results) -> str:
    """Return the paragraph on whether the model needs its neighbours."""
    dense, own, alone = (results.estimate(name, "auc30") for name in (DENSE, SELF, ALONE))
    gap, whole = (results.difference(DENSE, name, "auc30") for name in (SELF, ALONE))
    needed = needs_neighbours(results)
    head = "It needs its neighbours." if needed else "It hardly needs its neighbours."
    lines = [
        f"**{head}** Over all scenes of the first table, AUC@30 is"
        f" {percent(dense)} with dense attention, {percent(own)} where patches attend to their own"
        f" view alone (`{SELF}`), and {percent(alone)} where each view is a sequence of its own:"
        f" {points(gap)} and {points(whole)} points."
    ]
    by_kind = {k: results.difference(DENSE, SELF, "auc30", k) for k in results.kinds}
    most, least = (f(by_kind, key=lambda k: by_kind[k].mean) for f in (max, min))
    lines.append(
        f"The difference to `{SELF}` is largest in {most} ({points(by_kind[most])}) and smallest in"
        f" {least} ({points(by_kind[least])})."
    )
    if not needed:
        lines.append(
            "Which pairs are computed can therefore matter little, and the tables of choices below"
            " test the method end to end without saying which choice is best."
        )
    return " ".join(lines)


def strict(results: Results) -> str:
    """Return the paragraph on the strict thresholds."""
    by_kind = {k: results.estimate(DENSE, "auc3", k).mean for k in results.kinds}
    best = max(by_kind, key=lambda k: by_kind[k])
    text = (
        f"**Strict thresholds.** Dense AUC@3 is {100 * by_kind[best]:.1f} at best ({best}), and"
        f" AUC@5 is {percent(results.estimate(DENSE, 'auc5'))} over all kinds."
    )
    if by_kind[best] < 0.1:
        text += (
            " A model of this size is seldom right within three degrees, so what a setting costs at"
            " AUC@3 cannot be read from it; the official weights must show that."
        )
    return text


def pairs(every: Mapping[int, Results]) -> str:
    """Return the paragraph and list on which pairs to compute, at the lowest share."""
    saliency, random, oracle = (f"pairs, {word}" for word in ("saliency", "random", "oracle"))
    center, drawn = "anchors, k-center", "anchors, random"
    lines = []
    below = {"saliency": 0, "k-center": 0}
    for views, results in every.items():

        def minus(one: str, other: str, results: Results = results) -> Estimate:
            second = (other,) if other == DENSE else names_at(other, LOWEST)
            return results.difference(names_at(one, LOWEST), second, "auc30")

        to_saliency, to_center = minus(random, saliency), minus(random, center)
        below["saliency"] += to_saliency.mean < 0 and to_saliency.clear
        below["k-center"] += to_center.mean < 0 and to_center.clear
        lines.append(
            f"- {views} views, {kept(results, LOWEST):.1%} of the pairs: against dense, saliency"
            f" {points(minus(saliency, DENSE))}, k-center anchors {points(minus(center, DENSE))},"
            f" random pairs {points(minus(random, DENSE))}, true pairs"
            f" {points(minus(oracle, DENSE))}. Random pairs against saliency:"
            f" {points(to_saliency)} ({verdict(to_saliency)}); against k-center anchors:"
            f" {points(to_center)} ({verdict(to_center)}). Random anchors against k-center:"
            f" {points(minus(drawn, center))}."
        )
    head = (
        f"**Which pairs.** At the lowest count, random pairs are worse than saliency by more than"
        f" two standard errors with {below['saliency']} of {len(every)} numbers of views, and worse"
        f" than k-center anchors with {below['k-center']}. Points of AUC@30, at equal counts:"
    )
    return "\n".join([head, "", *lines])


USABLE = ("anchors, k-center", "anchors, uniform", "pairs, saliency", "pairs and view 0, saliency")
"""Choices that a user has; the others are controls."""


def no_loss(every: Mapping[int, Results]) -> str:
    """Return the paragraph on the smallest share without a clear loss, by number of views."""
    lines = []
    for views, results in every.items():
        found: list[tuple[float, str, Estimate]] = []
        for choice in USABLE:
            for share in SHARES:
                names = names_at(choice, share)
                if names in results:
                    lost = results.difference(names, DENSE, "auc30")
                    if lost.mean > -_SMALL and not (lost.clear and lost.mean < 0):
                        found.append((kept(results, share), choice, lost))
        if found:
            share, choice, lost = min(found, key=lambda row: (row[0], -row[2].mean))
            lines.append(f"{views} views: {share:.1%} ({choice}, {points(lost)})")
        else:
            lines.append(f"{views} views: none of the shares")
    return (
        "**How few are enough.** The smallest share of the pairs, in all layers, at which AUC@30 is"
        f" less than {100 * _SMALL:.0f} points below dense, and not by more than two standard"
        f" errors: {'; '.join(lines)}."
    )


def layers(results: Results, depth: int) -> str:
    """Return the paragraph on the layers that need other views."""
    alone, first, last = (
        [results.difference(f"self {curve} {i}", DENSE, "auc30") for i in range(depth)]
        for curve in LAYER_CURVES
    )
    worst = min(range(depth), key=lambda i: alone[i].mean)
    front = sum(1 for i in range(depth) if all(x.mean > -_SMALL for x in first[: i + 1]))
    back = sum(1 for i in range(depth) if all(x.mean > -_SMALL for x in last[i:]))
    return (
        f"**Which layers.** Alone, layer {worst} loses most where its patches see their own view"
        f" alone: {points(alone[worst])} points of AUC@30 ({verdict(alone[worst])}). Of {depth}"
        f" layers, the first {front} together, or the last {back} together, do without the other"
        f" views for less than {100 * _SMALL:.0f} points."
    )


def precision(results: Results) -> str:
    """Return the paragraph on low precision."""
    fp8 = results.difference("fp8", "fp32", "auc30")
    moved = results.estimate("fp8", "moved").mean
    low, skip = (f"{way}, {LOWEST:.1%}" for way in ("regime 2", "skip"))
    lost = [results.difference(name, "fp32", "auc30") for name in (low, skip)]
    gain = results.difference(low, skip, "auc30")
    return (
        f"**Low precision.** FP8 in every pair changes AUC@30 by {points(fp8)} and moves the"
        f" cameras by {moved:.2f}°. With {LOWEST:.1%} of the pairs in full, the others in FP8"
        f" (Regime 2) cost {points(lost[0])} and left out {points(lost[1])}: Regime 2 is"
        f" {points(gain)} points better ({verdict(gain)})."
    )


def attention(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the paragraph on entropy and matches."""
    heads = [
        (value, layer["layer"], head)
        for layer in found
        for head, value in enumerate(layer["found"])
    ]
    best, layer, head = max(heads)
    relative = [(value, layer["layer"]) for layer in found for value in layer["relative"]]
    text = (
        f"**Where attention goes.** In head {head} of layer {layer} the strongest patch of another"
        f" view is the true match in {best:.0%} of the cases where there is one; that is the best"
        f" head. Relative entropy is {min(relative)[0]:.2f} (layer {min(relative)[1]}) to"
        f" {max(relative)[0]:.2f} (layer {max(relative)[1]}); 1 is uniform attention."
    )
    if best < 0.2:
        text += " No head finds true matches: the model does not compare views by correspondences."
    return text


def findings(
    parts: Mapping[str, Results], depth: int, attended: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Yield the paragraphs of the parts that were measured."""
    chosen = chosen_by_views(parts)
    if "estimators" in parts:
        yield neighbours(parts["estimators"])
    if chosen:
        yield pairs(chosen)
        yield no_loss(chosen)
    if "layers" in parts:
        yield layers(parts["layers"], depth)
    if "precision" in parts:
        yield precision(parts["precision"])
    if attended:
        yield attention(attended)
    if "estimators" in parts:
        yield strict(parts["estimators"])


def chosen_by_views(parts: Mapping[str, Results], start: str = "choices-") -> dict[int, Results]:
    """Return the parts of one kind by their number of views."""
    found = {int(n.removeprefix(start)): r for n, r in parts.items() if n.startswith(start)}
    return dict(sorted(found.items()))

"""What became of a collection: a record for `scene.json`, and lines for the user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from covis.runtime.collection.joined import Joined
from covis.runtime.photos.names import enumerated

_DIGITS = 6


def collection_record(joined: Joined, members: NDArray[np.int64], photos: int) -> dict[str, Any]:
    """Return parts and links of one scene, as JSON values.

    Numbers of parts are those of the whole collection, from 0. Lengths are relative to the distance
    of the shared points, and angles are in degrees.

    Args:
        joined: Parts of the collection and how they lie.
        members: Indices of the scene's parts among the finished ones.
        photos: Number of photos of the collection.
    """
    inside = set(members.tolist())
    return {
        "photos": photos,
        "parts": [_part(joined, member) for member in members.tolist()],
        "links": [
            _link(joined, index)
            for index, link in enumerate(joined.cut.links)
            if {link.first, link.second} <= inside
        ],
        "failed": {str(number): reason for number, reason in joined.failed.items()},
        "sigma_factor": _number(joined.placement.factor),
    }


def _part(joined: Joined, member: int) -> dict[str, Any]:
    part, stored = joined.cut.parts[member], joined.parts[member]
    return {
        "part": joined.numbers[member],
        "views": len(part),
        "core": int(part.core.sum()),
        "scale": _number(joined.placement.similarities[member].scale),
        "seconds": _number(stored.facts["seconds"]),
        "sparsity": stored.facts["sparsity"],
    }


def _link(joined: Joined, index: int) -> dict[str, Any]:
    link, junction = joined.cut.links[index], joined.junctions[index]
    record: dict[str, Any] = {
        "parts": [joined.numbers[link.first], joined.numbers[link.second]],
        "kind": link.kind,
        "shared_views": len(link.views),
        "points": junction.points,
        "inliers": _number(junction.inliers),
        "residual": _number(junction.residual),
        "rotation": _number(junction.rotation_deg),
        "unsound": junction.reason,
        "state": "unused",
    }
    if not joined.used[index]:
        return record
    edge = int(joined.used[:index].sum())
    placement = joined.placement
    record["state"] = (
        "dropped"
        if placement.dropped[edge]
        else "unconfirmed"
        if placement.bridges[edge]
        else "confirmed"
    )
    for name, errors in (("before", placement.start), ("after", placement.residuals)):
        record[f"error_{name}"] = {
            "translation": _number(errors.translation[edge]),
            "rotation": _number(errors.rotation_deg[edge]),
            "log_scale": _number(errors.log_scale[edge]),
        }
    return record


def collection_notes(
    joined: Joined, sizes: Sequence[int], left_out: Sequence[str]
) -> tuple[str, ...]:
    """Return lines about a collection: its links, loops, scenes, and what is missing.

    Args:
        joined: Parts of the collection and how they lie.
        sizes: Number of views of each scene.
        left_out: Names of the photos that are in no scene.
    """
    placement = joined.placement
    lines = [_links(joined)] if joined.cut.links else []
    loops = [
        edge
        for edge, link in enumerate(_used_links(joined))
        if link.kind == "loop" and not placement.dropped[edge]
    ]
    if loops:
        before, after = (
            max(float(errors.translation[edge]) for edge in loops)
            for errors in (placement.start, placement.residuals)
        )
        lines.append(
            f"{_count(len(loops), 'loop')} closed: the largest gap was {before:.1%} of the "
            f"distance of its points, and is {after:.1%} now"
        )
    if len(sizes) > 1:
        listed = ", ".join(str(size) for size in sizes)
        lines.append(f"{len(sizes)} scenes that nothing connects, of {listed} views")
    for number, reason in joined.failed.items():
        lines.append(f"part {number + 1} has no result: {reason}")
    if left_out:
        lines.append(f"in no scene: {enumerated(left_out)}")
    return tuple(lines)


def _links(joined: Joined) -> str:
    placement, total = joined.placement, len(joined.cut.links)
    lone = int((placement.bridges & ~placement.dropped).sum())
    unsound = sum(not junction.sound for junction in joined.junctions)
    dropped = int(placement.dropped.sum()) + int((~joined.used).sum())
    text = f"{_count(len(joined.parts), 'part')} joined by {_count(total - dropped, 'link')}"
    if lone:
        text += f", {lone} of which nothing else confirms"
    if unsound:
        text += f"; {_count(unsound, 'junction')} not sound"
    if dropped:
        text += f"; {_count(dropped, 'link')} left out"
    return text


def _used_links(joined: Joined) -> list[Any]:
    return [link for link, used in zip(joined.cut.links, joined.used, strict=True) if used]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _number(value: float) -> float | None:
    """Round a number for JSON, which has no infinity: None for that."""
    return round(float(value), _DIGITS) if np.isfinite(value) else None

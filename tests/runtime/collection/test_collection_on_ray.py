"""A collection on a Ray cluster of three workers, one of which is killed during its part."""

from __future__ import annotations

import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from covis.runtime.collection.run_part import PartTask
from covis.runtime.pipeline import load
from covis.runtime.workers.crew import Event
from covis.runtime.workers.options import WorkerOptions
from tests.places import DEMO
from tests.runtime.collection.test_collection import collected, same
from tests.runtime.workers.test_cluster import cluster, needs_ray

__all__ = ["cluster"]


def busy_actors() -> list[int]:
    """Return the processes of actors that are at work, which Ray names after what they do."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if name.startswith(b"ray::_Actor"):
            found.append(int(process.name))
    return found


@pytest.mark.slow
@needs_ray
def test_a_killed_worker_changes_nothing(
    cluster: Any, collection_photos: Path, tmp_path: Path
) -> None:
    pipeline = load(DEMO)
    alone = load(DEMO, dataclasses.replace(pipeline.options, threads=1))
    events: list[Event[PartTask]] = []

    def kill_one(stage: str, done: int, total: int) -> None:
        # When the first part has arrived, the other actors are at work on theirs.
        if stage == "parts" and done == 1:
            os.kill(busy_actors()[0], signal.SIGKILL)

    crew = WorkerOptions(workers=0, ray=cluster.address)
    with (
        collected(alone, collection_photos, tmp_path / "alone") as one,
        collected(
            pipeline,
            collection_photos,
            tmp_path / "ray",
            workers=crew,
            progress=kill_one,
            on_event=events.append,
        ) as other,
    ):
        same(one.scenes[0], other.scenes[0])
        parts = len(one.scenes[0].provenance["collection"]["parts"])
    lost = [event for event in events if event.kind == "lost"]
    assert [event.again for event in lost] == [True]
    done = sorted(event.task.number for event in events if event.kind == "done")
    assert done == list(range(parts))

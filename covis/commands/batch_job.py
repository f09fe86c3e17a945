"""Job of `covis batch`: reconstruct scene after scene, and recognise those that are done.

What makes a scene of a batch is written into its `scene.json`, below `provenance.batch`: the
options, a digest of the photos' names, sizes and times, and what the run took.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from covis.commands.batch_scenes import BatchScene, photo_digest
from covis.engines.errors import CovisError, environment_error, user_error
from covis.engines.options import RunOptions, Sparsity
from covis.runtime.photos.options import PhotoOptions
from covis.runtime.pipeline import Pipeline, load
from covis.runtime.scene.options import SceneOptions
from covis.runtime.scene.writers import SUMMARY
from covis.runtime.scene.writers.options import OutputOptions

Row = dict[str, Any]
"""Entries of a scene in the table; see `row`."""
_AGAIN = "pass --force to replace it, or choose another --out"


@dataclass(frozen=True)
class BatchJob:
    """Everything that determines the scenes of a batch but their photos; picklable, for workers.

    Attributes:
        bundle: Folder of the bundle, at the same path on all nodes of a cluster.
        digest: Digest that the bundle must have when a worker opens it.
        out: Folder of the scenes' folders.
        sparsity: Selector options.
        choice: Choice of the photos.
        scene: Cameras, frame of the world and masks.
        output: Contents of a scene's folder.
        run: Options of the run.
        force: Replace folders that covis wrote.
    """

    bundle: Path
    digest: str
    out: Path
    sparsity: Sparsity
    choice: PhotoOptions
    scene: SceneOptions
    output: OutputOptions
    run: RunOptions
    force: bool = False

    def options(self) -> dict[str, Any]:
        """Return the options that two equal scenes share, as JSON values."""
        found = {
            "bundle": self.digest,
            "backend": self.run.backend.backend,
            "probes": self.run.probes,
            "sparsity": asdict(self.sparsity),
            "choice": asdict(self.choice),
            "scene": asdict(self.scene),
            "output": asdict(self.output),
        }
        values: dict[str, Any] = json.loads(json.dumps(found, default=str))
        return values

    def with_threads(self, threads: int) -> BatchJob:
        """Return the job of a worker that has this number of threads."""
        return replace(self, run=replace(self.run, threads=threads))


class Reconstructor:
    """Reconstructor of a batch in one process: loads the bundle once, then takes scene after scene.

    Args:
        job: Options of the batch.
        pipeline: Loaded bundle; opened at the first scene if it is not given.
    """

    def __init__(self, job: BatchJob, pipeline: Pipeline | None = None) -> None:
        self.job = job
        self.pipeline = pipeline

    def __call__(self, scene: BatchScene) -> Row:
        """Reconstruct one scene, write its folder, and return its row of the table.

        Raises:
            CovisError: The scene fails; the message starts with its name.
        """
        try:
            return self._reconstruct(scene)
        except MemoryError:
            raise environment_error(
                "out of memory", where=scene.name, hint="use --max-views or fewer --workers"
            ) from None
        except OSError as error:
            raise environment_error(
                error.strerror or str(error), where=scene.name, hint="check free space and rights"
            ) from error
        except CovisError as error:
            where = f"{scene.name}, {error.where}" if error.where else scene.name
            raise error.replaced(where=where) from error

    def _reconstruct(self, scene: BatchScene) -> Row:
        from covis.evaluation.bench.measure import peak_bytes, reset_peak
        from covis.runtime.scene.writers import check_inputs, check_output, write
        from covis.runtime.scene.writers.space import check_space

        job, folder = self.job, self.job.out / scene.name
        if found := done_row(job, scene):  # by a worker that died before it answered
            return {**found, "status": "done"}
        check_output(folder, job.output, force=job.force)
        if self.pipeline is None:
            self.pipeline = self._opened()
        pipeline = self.pipeline
        pipeline.notes.clear()
        photos = photo_digest(scene.source, job.choice)
        memory = pipeline.backend.memory
        reset_peak(memory)
        begun = time.perf_counter()
        images = pipeline.load_photos(scene.source, job.choice)
        check_inputs(folder, images.paths)
        check_space(folder, len(images), images.uint8.shape[2:], job.output)
        result = pipeline(images, sparsity=job.sparsity, scene_options=job.scene)
        took = {"seconds": time.perf_counter() - begun, "peak_bytes": peak_bytes(memory)}
        facts = {"options": job.options(), "photos": photos, **took}
        result = replace(result, provenance={**result.provenance, "batch": facts})
        written = write(result, folder, job.output, force=job.force)
        notes = list(dict.fromkeys([*pipeline.notes, *written.notes]))
        return {**row(scene, _summary(folder), facts), "status": "done", "notes": notes}

    def _opened(self) -> Pipeline:
        pipeline = load(self.job.bundle, self.job.run)
        if pipeline.bundle.digest() != self.job.digest:
            raise user_error(
                "was replaced by another bundle since the batch began",
                where=self.job.bundle,
                hint="start again, and change no bundle while it is in use",
            )
        return pipeline


def make_reconstructor(job: BatchJob, threads: int) -> partial[Reconstructor]:
    """Return the factory of a worker's reconstructor, which can be pickled."""
    return partial(Reconstructor, job.with_threads(threads))


def done_row(job: BatchJob, scene: BatchScene) -> Row | None:
    """Return the row of a scene that an earlier call of the same batch wrote; None if it has none.

    Raises:
        CovisError: Its folder is of another run: of other options, another bundle or other photos,
            and is not to be replaced.
    """
    folder = job.out / scene.name
    summary = _summary(folder)
    facts = summary.get("provenance", {}).get("batch")
    try:
        same = facts["options"] == job.options()
        current = facts["photos"] == photo_digest(scene.source, job.choice)
        found = row(scene, summary, facts)
    except (TypeError, KeyError):
        return None  # writing it is refused, as any other folder is
    if same and current:
        return found
    if job.force:
        return None
    changes = ", ".join(_changes(facts["options"], job.options())) or "its photos have changed"
    raise user_error(f"holds a scene of another run ({changes})", where=folder, hint=_AGAIN)


def row(scene: BatchScene, summary: dict[str, Any], facts: dict[str, Any]) -> Row:
    """Return the row of a finished scene.

    Its entries are `scene`, `views`, `selector`, `attention_work` (share of dense global
    attention), `seconds` (from the first photo to the scene, without writing), `peak_bytes` (of
    resident memory, or of the GPU's; 0 where the system does not tell), `status`, `error` and
    `notes`.
    """
    return {
        "scene": scene.name,
        "views": len(summary["views"]),
        "selector": str(summary["sparsity"]["selector"]),
        "attention_work": float(summary["sparsity"]["attention_work"]),
        "seconds": float(facts["seconds"]),
        "peak_bytes": int(facts["peak_bytes"]),
        "status": "done before",
        "error": None,
        "notes": list(summary["notes"]),
    }


def waiting_row(scene: BatchScene, status: str = "not done", error: str | None = None) -> Row:
    """Return the row of a scene without a result."""
    empty = dict.fromkeys(("views", "selector", "attention_work", "seconds", "peak_bytes"))
    return {"scene": scene.name, **empty, "status": status, "error": error, "notes": []}


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / SUMMARY
    if path.is_file() and not path.is_symlink():
        with contextlib.suppress(OSError, ValueError, RecursionError):
            found = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(found, dict) and isinstance(found.get("provenance"), dict):
                return found
    return {}


def _changes(old: Any, new: dict[str, Any]) -> Iterable[str]:
    """Name the options that differ, at most three."""
    if not isinstance(old, dict):
        return ["another format"]
    names = [
        f"{group}.{name}" if name else group
        for group, value in new.items()
        for name in (value if isinstance(value, dict) else ("",))
        if _entry(old, group, name) != _entry(new, group, name)
    ]
    return [*names[:3], "..."] if len(names) > 3 else names


def _entry(options: dict[str, Any], group: str, name: str) -> Any:
    value = options.get(group)
    return value.get(name) if name and isinstance(value, dict) else value

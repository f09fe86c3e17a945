"""Measurement of all cells, a cell being a setting on a scene; finished cells are kept on disk."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch

import covis.synthetic
from accuracy.estimate import Estimator, Model
from accuracy.parts import Part, tasks
from accuracy.requests import SceneRequest
from accuracy.scenes import load
from accuracy.settings import Setting
from covis.engines.bundle.bundle import open_bundle
from covis.engines.system.atomic import write_file

PROTOCOL = 1
"""Version of the cells: raised when a number of an unchanged scene and model may change."""

Cell = dict[str, Any]
Task = tuple[SceneRequest, list[Setting], bool]


@dataclass(frozen=True)
class Store:
    """Folder with one file for each scene, of the cells of its settings.

    Attributes:
        folder: Folder of the cells of one model.
    """

    folder: Path

    @staticmethod
    def of(work: Path, bundle: Path) -> Store:
        """Return the folder for a bundle and the present renderer."""
        weights = open_bundle(bundle).digest()
        return Store(work / f"cells-{PROTOCOL}-{weights[:12]}-{_renderer()}")

    def path(self, request: SceneRequest) -> Path:
        """Return the file of a scene."""
        return self.folder / f"{quote(request.name, safe='')}.json"

    def read(self, request: SceneRequest) -> dict[str, Cell]:
        """Return the cells of a scene by key of the setting; none from a file that is damaged."""
        try:
            return dict(json.loads(self.path(request).read_text()))
        except (OSError, ValueError):
            return {}

    def write(self, request: SceneRequest, cells: dict[str, Cell]) -> None:
        """Write the cells of a scene in place of the earlier ones, whole or not at all."""
        self.path(request).parent.mkdir(parents=True, exist_ok=True)
        write_file(self.path(request), json.dumps(cells))

    def missing(self, task: Task) -> bool:
        """Return whether a cell of a scene is not measured yet."""
        request, settings, depth = task
        cells = self.read(request)
        return not all(_complete(cells.get(setting.key), setting, depth) for setting in settings)


def _renderer() -> str:
    """Return a digest of the source of the renderer, because new scenes need new cells."""
    digest = hashlib.sha256()
    for path in sorted(Path(covis.synthetic.__file__).resolve().parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _complete(cell: Cell | None, setting: Setting, depth: bool) -> bool:
    if cell is None:
        return False
    return not depth or setting.model not in ("whole", "alone") or "abs_rel" in cell


def measure(
    work: Path,
    bundle: Path,
    every: Sequence[Part],
    workers: int,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Measure what is missing, and return all cells.

    Args:
        work: Folder of finished cells.
        bundle: Bundle to measure.
        every: Parts to measure.
        workers: Number of processes with one thread each; 1 measures in this process.
        advance: Called with the number of scenes done and that of all scenes with missing cells.

    Returns:
        Name of part -> name of setting -> kind -> cells by scene. The errors of a cell are those of
        `Estimator.record`; `cpu_seconds` is its time, without rendering and encoding.
    """
    store = Store.of(work, bundle)
    todo = [task for task in tasks(every) if store.missing(task)]
    for done, _ in enumerate(_finished(store, bundle, todo, workers), start=1):
        advance(done, len(todo))
    return {part.name: collected(store, part) for part in every}


def collected(store: Store, part: Part) -> dict[str, dict[str, list[Cell]]]:
    """Return the cells of a part: name of setting -> kind -> cells by scene."""
    out: dict[str, dict[str, list[Cell]]] = {s.name: {} for s in part.settings}
    for request in sorted(part.requests(), key=lambda r: (part.kinds.index(r.kind), r.number)):
        cells = store.read(request)
        for setting in part.settings:
            out[setting.name].setdefault(request.kind, []).append(cells[setting.key])
    return out


def _finished(store: Store, bundle: Path, todo: Sequence[Task], workers: int) -> Iterator[str]:
    """Yield the name of each scene as it is finished."""
    if workers <= 1 or len(todo) <= 1:
        worker = _Worker(store, bundle)
        for task in todo:
            yield worker(task)
        return
    # A forked copy of a process with torch threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(store, bundle, sys.path)
    ) as pool:
        futures = [pool.submit(_run, task) for task in todo]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_WRITE_SECONDS = 20.0  # time between writes of a scene's cells; an interruption loses at most that


@dataclass
class _Worker:
    store: Store
    bundle: Path
    model: Model = field(init=False)

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        self.model = Model(open_bundle(self.bundle))

    def __call__(self, task: Task) -> str:
        """Measure the missing cells of a scene, and return its name."""
        written = time.monotonic()
        request, settings, depth = task
        cells = self.store.read(request)
        estimator = Estimator(self.model, load(request))
        for setting in settings:
            if not _complete(cells.get(setting.key), setting, depth):
                begun = time.process_time()
                cell = estimator.record(setting, depth)
                cells[setting.key] = {**cell, "cpu_seconds": time.process_time() - begun}
                if time.monotonic() - written > _WRITE_SECONDS:
                    self.store.write(request, cells)
                    written = time.monotonic()
        self.store.write(request, cells)
        return request.name


_workers: list[_Worker] = []


def _begin(store: Store, bundle: Path, paths: list[str]) -> None:
    sys.path[:] = paths
    _workers[:] = [_Worker(store, bundle)]


def _run(task: Task) -> str:
    return _workers[0](task)

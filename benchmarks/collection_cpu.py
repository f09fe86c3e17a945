"""Compare a collection in parts with one run, and measure memory by the number of photos.

    python benchmarks/collection_cpu.py accuracy [--views 400] [--part-views 50]
    python benchmarks/collection_cpu.py memory [--photos 100 400 1600]
    python benchmarks/collection_cpu.py workers [--views 100] [--part-views 12]

Photos are rendered from held-out synthetic scenes, and covis-mini runs in processes of their own,
whose peak memory the system reports. CPU seconds are those of the process and its threads. Results
go to `benchmarks/results/collection_cpu_*.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from covis.engines.options import RunOptions
from covis.evaluation.metrics.pose import auc, pair_errors
from covis.evaluation.metrics.trajectory import absolute_error
from covis.runtime.collection.collection import reconstruct_collection
from covis.runtime.photos.selection import select_photos
from covis.runtime.pipeline import load
from covis.runtime.workers.options import WorkerOptions
from covis.synthetic import HELD_OUT_SEEDS, SceneSpec, build, camera_path, render
from covis.synthetic.photos import write_photos

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "covis" / "assets" / "demo"
SIZE = 112
# Runs the command, and prints its peak memory and CPU seconds. VmHWM begins anew with a program;
# ru_maxrss would begin with the peak of the parent.
_MEASURED = """
import json, re, resource, sys
from pathlib import Path
from covis.cli import run_command
code = run_command(sys.argv[1:])
own = resource.getrusage(resource.RUSAGE_SELF)
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(json.dumps({"code": code, "cpu_seconds": own.ru_utime + own.ru_stime,
                  "peak_mib": peak / 1024}))
"""


def photos(kind: str, seed: int, views: int, folder: Path) -> np.ndarray:
    """Render the photos of a scene into a folder, and return their true extrinsics (M, 3, 4)."""
    family, path = kind.split("/")
    world = build(SceneSpec(seed, family))  # type: ignore[arg-type]
    scene = render(world, camera_path(world, views, path), SIZE, SIZE, supersample=1)  # type: ignore[arg-type]
    write_photos(folder, scene, image_format="png")
    return np.asarray(scene.extrinsics)


def run(folder: Path, out: Path, options: Sequence[str]) -> dict[str, Any]:
    """Run `covis run` in a process, and return its peak memory and CPU seconds."""
    command = ["run", str(DEMO), str(folder), "--out", str(out), *options]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, *command],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if record["code"]:
        raise RuntimeError(done.stderr)
    return record


def errors(out: Path, true: np.ndarray) -> dict[str, float]:
    """Return AUC at 5 and 30 degrees over all pairs, in percent, and ATE in metres."""
    with np.load(out / "scene.npz") as scene:
        predicted = scene["extrinsics"]
    largest = np.maximum(*pair_errors(predicted, true))
    return {
        **{f"auc@{t}": 100 * float(auc(largest, t)) for t in (5, 30)},
        "ate": absolute_error(predicted, true),
    }


def accuracy(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure one run and parts, with and without the order of the path, on scenes of each kind."""
    part = ("--part-views", str(arguments.part_views))
    ways = {
        "one run": (),
        "one run, dense": ("--selector", "dense"),
        "parts in order": (*part, "--ordered"),
        "parts by similarity": part,
    }
    rows = []
    for kind in arguments.kinds:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "photos"
            true = photos(kind, HELD_OUT_SEEDS[0], arguments.views, folder)
            for name, options in ways.items():
                out = Path(place) / name.replace(" ", "-")
                cost = run(folder, out, ("--formats", "npz", "--threads", "1", *options))
                summary = json.loads((out / "scene.json").read_text())
                links = summary["provenance"].get("collection", {}).get("links", [])
                row = {
                    "scenes": kind,
                    "way": name,
                    "views": arguments.views,
                    "placed": len(summary["views"]),
                    **(errors(out, true) if len(summary["views"]) == arguments.views else {}),
                    **cost,
                    "loops": sum(k["kind"] == "loop" and k["state"] != "dropped" for k in links),
                    "links": len(links),
                    "dropped": sum(k["state"] in ("dropped", "unused") for k in links),
                }
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows


def memory(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure the peak memory by the number of photos of one room: one run, and parts."""
    formats = ("--threads", "1", "--formats", "ply", "colmap", "glb", "npz")
    ways = {"one run": (), "parts": ("--part-views", str(arguments.part_views))}
    rows = []
    for count in arguments.photos:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "photos"
            photos("room/orbit", HELD_OUT_SEEDS[0], count, folder)
            for name, options in ways.items():
                if name == "one run" and count > arguments.views:
                    continue
                cost = run(folder, Path(place) / name.replace(" ", "-"), (*options, *formats))
                rows.append({"photos": count, "way": name, **cost})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def workers(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure what crews add to the time of the parts themselves: sending, storing, waiting.

    All in lengths of a part, the mean of those that were run. `start`: until each worker has done
    its first part, without that part: processes, libraries, bundle. `overhead`: of each part that
    comes after.
    """
    crews = {"this process": WorkerOptions()}
    crews |= {f"{n} local": WorkerOptions(workers=n) for n in (2, 3)}
    most = os.cpu_count() or 1 if arguments.ray == "local" else 3  # a worker takes a core of Ray
    crews |= {
        f"{n} on Ray": WorkerOptions(workers=n, ray=arguments.ray) for n in range(1, most + 1)
    }
    pipeline = load(DEMO, RunOptions(threads=1))
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "photos"
        photos("room/orbit", HELD_OUT_SEEDS[0], arguments.views, folder)
        selection = select_photos(folder)
        for name, crew in crews.items():
            clock: dict[int, float] = {}
            with reconstruct_collection(
                pipeline,
                selection,
                Path(place) / "parts",
                arguments.part_views,
                workers=crew,
                progress=partial(_note_time, clock),
            ) as found:
                parts = found.scenes[0].provenance["collection"]["parts"]
            part = float(np.mean([part["seconds"] for part in parts]))
            last, size = max(clock), max(1, crew.workers)
            rows.append(
                {
                    "way": name,
                    "parts": last,
                    "start": (clock[size] - clock[0]) / part - 1,
                    "overhead": (clock[last] - clock[size]) * size / (last - size) / part - 1,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def _note_time(clock: dict[int, float], stage: str, done: int, total: int) -> None:
    if stage == "parts":
        clock[done] = time.monotonic()


def main() -> None:
    """Measure, print each row, and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("accuracy", "memory", "workers"))
    parser.add_argument("--kinds", nargs="+", default=["room/orbit", "objects/orbit", "studio/arc"])
    parser.add_argument("--views", type=int, default=400)
    parser.add_argument("--part-views", type=int, default=50)
    parser.add_argument(
        "--ray", default="local", help="address of a cluster of three cores or more"
    )
    parser.add_argument("--photos", type=int, nargs="+", default=[100, 400, 1600])
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    measure = {"accuracy": accuracy, "memory": memory, "workers": workers}[arguments.what]
    rows = measure(arguments)
    record = {"part_views": arguments.part_views, "rows": rows}
    path = arguments.results / f"collection_cpu_{arguments.what}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""TensorRT engines on a GPU: build, run, compare, and everything that can go wrong.

    python -m tests.gpu.engines --out DIR [--plugin LIBRARY] [--full]

Needs tensorrt, cuda-python and torch (for the export); `tests/gpu/run.py` calls it too. Each check
stands alone: one that fails is recorded with its reason, and the others go on. `--full` adds a
bundle of VGGT-1B's size with random weights, 5 GB on the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

VIEWS, CHUNK = 12, 4


@dataclass
class Place:
    """What the checks share."""

    folder: Path
    plugin: Path | None
    wide: Path  # tiny, float32: no GPU kernel attends in it, so it has no plans
    bundle: Path  # the same model computing in float16, with plans

    def options(self, **changes: Any) -> Any:
        """Run options of the TensorRT backend."""
        from covis.engines.backend_options import BackendOptions
        from covis.runtime.pipeline import RunOptions

        where = BackendOptions(backend="tensorrt", plugin=self.plugin, **changes)
        return RunOptions(chunk=CHUNK, backend=where)


def command(*words: str | Path) -> tuple[int, str, str]:
    """A `covis` command: exit code, standard output and error."""
    from covis.cli import run_command

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


def build(bundle: Path, plugin: Path | None, views: str, *more: str) -> None:
    """Plans of every stage."""
    library = ["--dynamicPlugins", str(plugin)] if plugin else []
    code, _, err = command(
        "build", bundle, "--views", views, "--chunk", f"1:{CHUNK}:{CHUNK}", *library, *more
    )
    assert code == 0, err[-2000:]


def pictures(bundle: Path, views: int = VIEWS) -> Any:
    """Made photos of the bundle's size."""
    from covis.engines.bundle import open_bundle
    from covis.runtime.bench import made_images

    return made_images(views, open_bundle(bundle).manifest.pixel_rule)


def close(a: Any, b: Any, degrees: float, depth: float) -> dict[str, Any]:
    """Two scenes within tolerances; the errors are the check's detail."""
    from covis.runtime.scene_errors import scene_errors

    errors = scene_errors(a, b)
    assert errors.over(degrees, depth) <= 1.0, errors
    return errors.as_dict()


def check_inspect(place: Place) -> Any:
    """`covis inspect` proves what was built."""
    code, out, err = command("inspect", place.bundle)
    assert code == 0, err
    return out[-2000:]


def check_scene(place: Place) -> Any:
    """The scene of TensorRT is that of ONNX Runtime, for every selector."""
    from covis.engines.options import Sparsity
    from covis.runtime.pipeline import RunOptions, load

    images, found = pictures(place.bundle), {}
    ours, theirs = load(place.bundle, place.options()), load(place.bundle, RunOptions(CHUNK))
    for selector in ("dense", "saliency", "pooled", "both"):
        chosen = Sparsity(selector=selector, tau=0.95, layers="all", keep_ratio=0.5)  # type: ignore[arg-type]
        a, b = ours(images, sparsity=chosen), theirs(images, sparsity=chosen)
        found[selector] = close(a, b, 0.05, 1e-3)
        assert a.provenance["backend"] == "tensorrt"
    return found


def check_compare(place: Place) -> Any:
    """`covis compare` of float16 engines against float32 in ONNX Runtime."""
    from PIL import Image

    folder, out = place.folder / "photos", place.folder / "compare.json"
    folder.mkdir(exist_ok=True)
    for index, pixels in enumerate(pictures(place.bundle, 6).uint8):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / f"{index}.png")
    plugin = ["--plugin", str(place.plugin)] if place.plugin else []
    code, told, err = command(
        "compare", place.wide, folder, "--candidate", place.bundle, "--backend", "tensorrt",
        "--out", out, "--chunk", str(CHUNK), *plugin,
    )  # fmt: skip
    assert code in (0, 4), err
    record = json.loads(out.read_text())
    worst = max(e["rel_l2"] for s in record["stages"] for e in s["end_to_end"])
    assert worst < 0.1, told
    return {"passed": record["passed"], "worst_rel_l2": worst, "scene": record["scene"]}


def check_graphs(place: Place) -> Any:
    """CUDA graphs are captured, replayed, and change nothing; other shapes capture anew."""
    from covis.runtime.pipeline import load
    from covis.runtime.tensorrt import Session

    images = pictures(place.bundle)
    with_graphs = load(place.bundle, place.options())
    without = load(place.bundle, place.options(cuda_graphs=False))
    captured = []
    for views in (VIEWS, VIEWS, VIEWS - 1, VIEWS):
        some = cut(images, views)
        a, b = with_graphs(some), without(some)
        assert np.array_equal(a.depth, b.depth) and np.array_equal(a.extrinsics, b.extrinsics)
        sessions = with_graphs.backend.sessions.values()  # type: ignore[attr-defined]
        captured.append(sum(s.captured for s in sessions if isinstance(s, Session)))
    others = without.backend.sessions.values()  # type: ignore[attr-defined]
    assert captured[1] > 0 and sum(s.captured for s in others if isinstance(s, Session)) == 0
    return captured


def check_threads(place: Place) -> Any:
    """Two threads share engines, each with contexts and a stream of its own."""
    from covis.runtime.pipeline import load

    pipeline = load(place.bundle, place.options())
    images = [cut(pictures(place.bundle), n) for n in (VIEWS, VIEWS - 3)]
    alone = [pipeline(some) for some in images]
    made: dict[int, list[Any]] = {0: [], 1: []}
    errors: list[BaseException] = []

    def work(index: int) -> None:
        try:
            for _ in range(4):
                made[index].append(pipeline(images[index]))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    for index, scenes in made.items():
        assert all(np.array_equal(s.depth, alone[index].depth) for s in scenes)
    return sum(map(len, made.values()))


def check_zero_copy(place: Place) -> Any:
    """Torch tensors in and out of a session through DLPack, read and written where they are."""
    import torch

    from covis.runtime.pipeline import load

    pipeline = load(place.bundle, place.options())
    stage = pipeline.bundle.manifest.stage("encoder")
    session = pipeline.backend.session(stage, CHUNK)
    pixels = pictures(place.bundle, CHUNK).pixels
    shape = [CHUNK if isinstance(n, str) else n for n in stage.outputs[0].shape]
    expected = np.empty(shape, np.float32)
    session.run({"images": pixels}, {"patch_tokens": expected})
    for _ in range(4):  # through warm-up, capture and replay
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):  # the session must wait for this stream's work
            given = torch.zeros(pixels.shape, device="cuda")
            torch.cuda._sleep(50_000_000)
            given.copy_(torch.from_numpy(pixels).cuda())
            target = torch.full(shape, float("nan"), device="cuda")
            session.run({"images": given}, {"patch_tokens": target})
            del given
        assert np.array_equal(target.cpu().numpy(), expected)
    memory = pipeline.backend.memory
    back = torch.from_dlpack(memory.put(expected))  # type: ignore[arg-type]
    assert back.is_cuda and np.array_equal(back.cpu().numpy(), expected)
    face = memory.put(expected).__cuda_array_interface__  # type: ignore[union-attr]
    assert face["shape"] == tuple(shape) and face["typestr"] == "<f4"
    with refusal(2, "not C-contiguous"):
        turned = torch.from_numpy(pixels).cuda().transpose(2, 3)
        session.run({"images": turned}, {"patch_tokens": target})
    return "torch"


def check_memory(place: Place) -> Any:
    """A full GPU: the largest number of views that fits is named, is right, and can be run then."""
    import re

    from cuda.bindings import driver

    from covis.runtime.pipeline import load

    pipeline = load(place.bundle, place.options())
    images = pictures(place.bundle)
    expected = pipeline(images)
    pipeline.backend.release()
    memory = pipeline.backend.memory
    held: list[Any] = []
    size, said = memory.free() - (128 << 20), ""  # type: ignore[operator]
    while not said:
        status, pointer = driver.cuMemAlloc(size)
        assert int(status) == 0, "the GPU was filled, and the run still went on"
        held.append(pointer)
        size = 2 << 20
        try:
            pipeline(images)
        except Exception as error:
            said = str(error)
    assert "out of memory" in said, said
    found = re.search(r"use at most (\d+) views", said)
    if found:
        most = int(found.group(1))
        assert 0 < most < VIEWS
        pipeline(cut(images, most))
        with refusal(3, "out of memory"):
            pipeline(cut(images, most + 1))
    for pointer in held:
        driver.cuMemFree(pointer)
    again = pipeline(images)
    assert np.array_equal(again.depth, expected.depth)
    return said


def check_profiles(place: Place) -> Any:
    """Views outside the profile are refused with the nearest; chunks are fitted to theirs."""
    from covis.runtime.pipeline import load

    pipeline = load(place.bundle, replace(place.options(), chunk=64))
    expected = load(place.bundle, place.options())(pictures(place.bundle))
    assert np.array_equal(pipeline(pictures(place.bundle)).depth, expected.depth)
    assert any(f"takes {CHUNK} frames at once" in note for note in pipeline.notes)
    with refusal(2, "outside the profile"):
        pipeline(pictures(place.bundle, VIEWS + 20))
    return "refused"


def check_tampering(place: Place) -> Any:
    """A plan with one bit turned over, and one of nobody known, are never deserialised."""
    from covis.runtime.pipeline import load

    copy = Path(shutil.copytree(place.bundle, place.folder / "tampered"))
    plan = sorted((copy / "plans").glob("*.plan"), key=lambda p: p.stat().st_size)[0]
    whole = plan.read_bytes()
    data = bytearray(whole)
    data[len(data) // 2] ^= 1
    plan.write_bytes(data)
    with refusal(2, "is not what was built"):
        load(copy, place.options())(pictures(copy))
    plan.write_bytes(whole[:-1])
    with refusal(2, "bytes where its record says"):
        load(copy, place.options())(pictures(copy))
    plan.write_bytes(whole)
    with ledger_of_nobody(place.folder), refusal(2, "was not built by this user"):
        load(copy, place.options())(pictures(copy))
    return plan.name


def check_plugin(place: Place) -> Any:
    """Plans of another plugin library are refused; so is a library that is none."""
    from covis.engines.trt import find_plugin
    from covis.runtime.pipeline import load

    library = find_plugin(place.plugin)
    assert library is not None
    other = place.folder / library.name
    other.write_bytes(library.read_bytes() + b"\0")
    with refusal(2, "another version of the plugin"):
        load(place.bundle, replace_plugin(place, other))(pictures(place.bundle))
    with refusal(2, "no such plugin library|was built|plugin"):
        load(place.bundle, replace_plugin(place, place.folder / "none.so"))(pictures(place.bundle))
    return library.name


def check_bench(place: Place) -> Any:
    """`covis bench` on the engines."""
    out = place.folder / "bench.json"
    plugin = ["--plugin", str(place.plugin)] if place.plugin else []
    code, told, err = command(
        "bench", place.bundle, "--views", str(VIEWS), "--chunk", str(CHUNK),
        "--backend", "tensorrt", "--iterations", "5", "--duration", "0",
        "--exportTimes", out, *plugin,
    )  # fmt: skip
    assert code == 0, err
    record = json.loads(out.read_text())
    assert record["absolute_times"] == "of this GPU" and record["gpu"]
    stages = record["settings"]["dense"]["stages"]
    assert all(s["latency_ms"]["min"] > 0 and s["memory_bytes"] > 0 for s in stages.values())
    return told


def check_onnxruntime(place: Place) -> Any:
    """ONNX Runtime's GPU providers, where onnxruntime-gpu is installed."""
    from covis.engines.backend_options import BackendOptions
    from covis.engines.ort_settings import import_onnxruntime
    from covis.runtime.pipeline import RunOptions, load

    providers = import_onnxruntime().get_available_providers()
    found: dict[str, Any] = {}
    for name, bundle, where in (
        ("CUDAExecutionProvider", place.wide, BackendOptions(provider="cuda")),
        ("TensorrtExecutionProvider", place.bundle,
         BackendOptions(backend="onnxruntime-tensorrt", plugin=place.plugin)),
    ):  # fmt: skip
        if name not in providers:
            found[name] = "not installed"
            continue
        expected = load(bundle, RunOptions(CHUNK))(pictures(bundle))
        scene = load(bundle, RunOptions(CHUNK, backend=where))(pictures(bundle))
        found[name] = close(scene, expected, 0.05, 1e-3)
    return found


CHECKS: tuple[Callable[[Place], Any], ...] = (
    check_inspect, check_scene, check_compare, check_graphs, check_threads, check_zero_copy,
    check_memory, check_profiles, check_tampering, check_plugin, check_bench, check_onnxruntime,
)  # fmt: skip


def cut(images: Any, views: int) -> Any:
    """The first views."""
    return replace(
        images,
        uint8=images.uint8[:views],
        names=images.names[:views],
        transforms=images.transforms[:views],
        original_sizes=images.original_sizes[:views],
        paths=images.paths[:views],
    )


def replace_plugin(place: Place, library: Path) -> Any:
    """Run options with another plugin library."""
    return replace(place, plugin=library).options()


@contextlib.contextmanager
def refusal(code: int, words: str) -> Iterator[None]:
    """The block ends in a `CovisError` of that exit code whose line holds the words (a pattern)."""
    import re

    from covis.engines.errors import CovisError

    try:
        yield
    except CovisError as error:
        assert error.code == code and re.search(words, str(error)), str(error)
        return
    raise AssertionError(f"nothing was refused ({words})")


@contextlib.contextmanager
def ledger_of_nobody(folder: Path) -> Iterator[None]:
    """As if this user had built nothing."""
    from unittest import mock

    with mock.patch("covis.engines.trust.ledger", lambda: folder / "no-such-ledger.txt"):
        yield


def prepare(folder: Path, plugin: Path | None) -> Place:
    """Export the tiny bundles, and build the one that a GPU can run."""
    from covis.export.exporter import export_bundle
    from covis.export.options import ExportOptions
    from tests.tiny_vggt import HEIGHT, WIDTH, weights_and_config

    weights, config = weights_and_config(folder)
    bundles = {}
    for name, changes in {"wide": {}, "half": {"precision": "fp16"}}.items():
        options = ExportOptions(
            "vggt", folder / name, str(weights), config, HEIGHT, WIDTH, verify=False, **changes
        )  # type: ignore[arg-type]
        export_bundle(options)
        bundles[name] = folder / name
    code, _, err = command("build", bundles["wide"])
    assert code == 2 and "has no kernel on a GPU" in err, err
    build(bundles["half"], plugin, f"1:{VIEWS}:{VIEWS + 4}")
    return Place(folder, plugin, bundles["wide"], bundles["half"])


def full_size(folder: Path, plugin: Path | None) -> dict[str, Any]:
    """VGGT-1B's size with random weights, 518 x 518: export, build for 500 views, and measure."""
    import subprocess

    from benchmarks import vggt_gpu

    weights, bundle, out = folder / "w.safetensors", folder / "full", folder / "vggt.json"
    script = ROOT / "benchmarks" / "random_weights.py"
    subprocess.run([sys.executable, str(script), "vggt", str(weights)], check=True, cwd=ROOT)
    code, _, err = command(
        "export", "vggt", "--out", bundle, "--weights", weights, "--height", "518", "--width",
        "518", "--precision", "fp16", "--no-verify",
    )  # fmt: skip
    assert code == 0, err[-2000:]
    weights.unlink()
    library = ["--dynamicPlugins", str(plugin)] if plugin else []
    code, _, err = command("build", bundle, "--views", "1:100:500", "--chunk", "16", *library)
    assert code == 0, err[-2000:]
    arguments = [str(bundle), "--weights", "random", "--iterations", "3", "--out", str(out)]
    vggt_gpu.main([*arguments, *(["--plugin", str(plugin)] if plugin else [])])
    record: dict[str, Any] = json.loads(out.read_text())
    return record


def run_engines(
    out: Path, plugin: Path | None = None, *, full: bool = False
) -> list[dict[str, Any]]:
    """Every check; writes engines.json to `out` and returns its records."""
    from covis.engines.bench_record import machine
    from covis.engines.gpu import find_gpu
    from covis.engines.trt import import_tensorrt

    records: list[dict[str, Any]] = []
    about = {**machine(), "gpu": find_gpu().name, "driver": find_gpu().driver,
             "tensorrt": import_tensorrt().__version__}  # fmt: skip

    def attempt(name: str, work: Callable[[], Any]) -> Any:
        started = time.monotonic()
        record: dict[str, Any] = {"check": name, "ok": False}
        result = None
        try:
            result = work()
            record["ok"] = True
            record["detail"] = None if isinstance(result, Place) else result
        except BaseException:
            record["detail"] = traceback.format_exc()[-3000:]
        record["seconds"] = time.monotonic() - started
        records.append(record)
        print(
            "ok    " if record["ok"] else "FAILED", name, f"{record['seconds']:.1f} s", flush=True
        )
        (out / "engines.json").write_text(json.dumps({**about, "checks": records}, indent=1))
        return result

    with tempfile.TemporaryDirectory(prefix="covis-engines-") as scratch:
        place = attempt("prepare", lambda: prepare(Path(scratch), plugin))
        if place is not None:
            for check in CHECKS:
                attempt(check.__name__, lambda check=check: check(place))  # type: ignore[misc]
        if full:
            attempt("full_size", lambda: full_size(Path(scratch), plugin))
    return records


def failures(out: Path) -> list[dict[str, Any]]:
    """For `run.py`: the failed checks, or none where TensorRT is not installed, which is told."""
    import importlib.util

    if importlib.util.find_spec("tensorrt") is None:
        print("engines: skipped, TensorRT is not installed")
        return []
    return [record for record in run_engines(out) if not record["ok"]]


def main() -> int:
    """Run everything; returns the number of failures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--plugin", type=Path)
    parser.add_argument("--full", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    records = run_engines(options.out, options.plugin, full=options.full)
    failed = sum(not record["ok"] for record in records)
    print(f"engines: {len(records) - failed} of {len(records)} passed")
    return min(failed, 100)


if __name__ == "__main__":
    sys.exit(main())

"""How sessions run engines: CUDA graphs, threads, arrays that are on the GPU already."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from covis.runtime.backends.trt_session import Session
from covis.runtime.pipeline import load
from tests.gpu.engine_checks.place import CHUNK, VIEWS, Place, cut, pictures, refusal


def check_graphs(place: Place) -> Any:
    """CUDA graphs are captured, replayed, and change nothing; other shapes capture anew."""
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

"""The selectors on a GPU, by the suite and by their definition in torch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from covis.export.ops.attributes import SelectAttributes
from covis.export.ops.cuda import farthest, saliency, select
from covis.export.selection.pair_rules import pair_levels
from covis.export.selection.similarity import descriptor_similarity
from tests.vectors.case import Array, AttentionCase, SelectCase
from tests.vectors.farthest_case import FarthestCase, standard_farthest_cases
from tests.vectors.pair_case import pair_case
from tests.vectors.standard import standard_select_cases
from tests.vectors.suite import Case, check_farthest, check_farthest_rules, check_select

Record = dict[str, Any]


class GpuSelectors:
    """The kernels of BlockSelect and FarthestFirst as an implementation for the suite."""

    name = "CUDA selectors"
    low_precision = "exact"
    dtypes = ("float32",)

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def supports(self, case: Case) -> str | None:
        return "attention is checked apart" if isinstance(case, AttentionCase) else None

    def attention(self, case: AttentionCase) -> Array:
        raise NotImplementedError

    def select(self, case: SelectCase) -> Array:
        level = select.block_select(
            torch.from_numpy(case.q).cuda(),
            torch.from_numpy(case.k).cuda(),
            torch.from_numpy(case.pair).cuda(),
            torch.tensor(case.keep_ratio).cuda(),
            torch.tensor(case.cdf).cuda(),
            SelectAttributes.from_flat(*case.attributes.values()),
            library=self.library,
        )
        return level.cpu().numpy()

    def farthest(self, case: FarthestCase) -> Array:
        rank = farthest.farthest_first(
            torch.from_numpy(case.similarity).cuda(),
            torch.from_numpy(case.given).cuda(),
            torch.tensor(case.count).cuda(),
            library=self.library,
        )
        return rank.cpu().numpy()


def check_selectors(library: ctypes.CDLL) -> list[Record]:
    """BlockSelect and FarthestFirst by the suite; other kernels against their definition."""
    adapter = GpuSelectors(library)
    checks = [
        ("traversals", partial(check_farthest_rules, adapter)),
        *(
            (f"select {case.name}", partial(check_select, adapter, case))
            for case in standard_select_cases()
        ),
        *(
            (f"farthest {case.name}", partial(check_farthest, adapter, case))
            for case in standard_farthest_cases()
        ),
    ]
    records = [passes(name, check) for name, check in checks]
    records += [check_similarity(library, *sizes) for sizes in SIZES]
    records += [
        check_pair_levels(library, views, maps) for views, maps in ((1, 2), (23, 5), (500, 3))
    ]
    return [*records, check_replay(library)]


def passes(name: str, check: Callable[[], object]) -> Record:
    """Run a check of the suite."""
    try:
        check()
    except AssertionError as failure:
        return {"case": name, "message": str(failure), "ok": False}
    return {"case": name, "ok": True}


SIZES = ((1, 7, 32), (23, 200, 384), (100, 1369, 1024))


def check_similarity(library: ctypes.CDLL, views: int, patches: int, channels: int) -> Record:
    """Similarity of random views, every third of them alike, against float64."""
    tokens = torch.randn(views, patches, channels, device="cuda")
    tokens += torch.randn(views // 3 + 1, 1, channels, device="cuda").repeat(3, 1, 1)[:views]
    similarity = saliency.similarity(tokens, library=library)
    error = float((similarity - descriptor_similarity(tokens.double()).float()).abs().max())
    return {"case": f"similarity {views}", "error": error, "ok": error < 1e-5}


def check_pair_levels(library: ctypes.CDLL, views: int, maps: int) -> Record:
    """Levels of view pairs, with many equal similarities in a row."""
    case = pair_case(views, views, maps)
    rules = {name: x.cuda() for name, x in case.rules._asdict().items()}
    level = saliency.pair_levels(
        case.similarity.cuda(), case.anchor_rank.cuda(), rules, library=library
    )
    return {"case": f"pair levels {views}", "ok": torch.equal(level.cpu(), pair_levels(*case))}


def check_replay(library: ctypes.CDLL) -> Record:
    """A captured traversal replays on another matrix and count: both are read on the device."""
    similarity = torch.rand(300, 300, device="cuda")
    given = torch.full((300,), -1, device="cuda")
    count = torch.tensor(7, device="cuda")
    farthest.farthest_first(similarity, given, count, library=library)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        rank = farthest.farthest_first(similarity, given, count, library=library)
    similarity.copy_(torch.rand_like(similarity))
    count.fill_(40)
    graph.replay()
    torch.cuda.synchronize()
    again = farthest.farthest_first(similarity, given, count, library=library)
    return {"case": "farthest graph", "ok": torch.equal(rank, again)}

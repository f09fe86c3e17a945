"""The selectors on a GPU, by the suite and by their definition in torch."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from covis.export.ops.attributes import SelectAttributes
from covis.export.ops.cuda import saliency, select
from covis.export.selection.pair_rules import pair_levels
from covis.export.selection.similarity import descriptor_similarity
from tests.vectors.case import Array, AttentionCase, SelectCase
from tests.vectors.pair_case import pair_case
from tests.vectors.standard import standard_select_cases
from tests.vectors.suite import check_select

Record = dict[str, Any]


class GpuSelect:
    """BlockSelect's kernels as an implementation for the suite of tests/vectors."""

    name = "CUDA BlockSelect"
    low_precision = "exact"
    dtypes = ("float32",)

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library

    def supports(self, case: AttentionCase | SelectCase) -> str | None:
        return None if isinstance(case, SelectCase) else "attention is checked apart"

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


def check_selectors(library: ctypes.CDLL) -> list[Record]:
    """BlockSelect by the suite; the saliency stage against its torch definition."""
    records: list[Record] = []
    adapter = GpuSelect(library)
    for case in standard_select_cases():
        try:
            check_select(adapter, case)
            records.append({"case": f"select {case.name}", "ok": True})
        except AssertionError as failure:
            records.append({"case": f"select {case.name}", "message": str(failure), "ok": False})
    records += [check_similarity(library, *sizes) for sizes in SIZES]
    records += [
        check_pair_levels(library, views, maps) for views, maps in ((1, 2), (23, 5), (500, 3))
    ]
    return records


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

"""BlockSelect and saliency on a GPU, by the suite and by their definition in torch."""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from covis.export.ops.attributes import SelectAttributes
from covis.export.ops.cuda import saliency, select
from covis.export.selection.saliency import descriptor_similarity, pair_levels
from tests.vectors.case import Array, AttentionCase, SelectCase
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
    """BlockSelect by the suite; saliency against its torch definition."""
    records: list[Record] = []
    adapter = GpuSelect(library)
    for case in standard_select_cases():
        try:
            check_select(adapter, case)
            records.append({"case": f"select {case.name}", "ok": True})
        except AssertionError as failure:
            records.append({"case": f"select {case.name}", "message": str(failure), "ok": False})
    for views, patches, channels in ((1, 7, 32), (23, 200, 384), (100, 1369, 1024)):
        tokens = torch.randn(views, patches, channels, device="cuda")
        tokens += torch.randn(views // 3 + 1, 1, channels, device="cuda").repeat(3, 1, 1)[:views]
        scalars = [torch.tensor(x).cuda() for x in (0.4, 0.2, 3, 0)]
        similarity, level = saliency.saliency(tokens, *scalars, library=library)
        expected = descriptor_similarity(tokens.double()).float()
        error = float((similarity - expected).abs().max())
        same = torch.equal(level, pair_levels(similarity, *scalars))
        records.append(
            {"case": f"saliency {views}", "error": error, "ok": bool(error < 1e-5 and same)}
        )
    return records

"""The selectors by the emulated kernels: the suites' cases, and torch's definitions.

All of it by default.
"""

from __future__ import annotations

import pytest
import torch

from covis.export.ops.attributes import SelectAttributes
from covis.export.ops.layout import TokenLayout
from covis.export.selection.pair_rules import pair_levels
from covis.export.selection.similarity import descriptor_similarity
from tests.emulator.emulator import Emulator
from tests.emulator.judge import SUMMARY
from tests.vectors.case import Array, AttentionCase, SelectCase
from tests.vectors.farthest_case import FarthestCase, standard_farthest_cases
from tests.vectors.pair_case import pair_case
from tests.vectors.standard import standard_select_cases
from tests.vectors.suite import Case, check_farthest, check_farthest_rules, check_select

CASES = {case.name: case for case in standard_select_cases()}
TRAVERSALS = {case.name: case for case in standard_farthest_cases()}


class EmulatedSelectors:
    """The kernels of BlockSelect and FarthestFirst as an implementation for the suite."""

    name = "emulated selectors"
    low_precision = "exact"
    dtypes: tuple[str, ...] = ("float32",)

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = emulator

    def supports(self, case: Case) -> str | None:
        return "attention is checked apart" if isinstance(case, AttentionCase) else None

    def attention(self, case: AttentionCase) -> Array:
        raise NotImplementedError

    def select(self, case: SelectCase) -> Array:
        return self.emulator.block_select(
            torch.from_numpy(case.q),
            torch.from_numpy(case.k),
            torch.from_numpy(case.pair),
            torch.tensor(case.keep_ratio),
            torch.tensor(case.cdf),
            **vars(SelectAttributes.from_flat(*case.attributes.values())),
        ).numpy()

    def farthest(self, case: FarthestCase) -> Array:
        return self.emulator.farthest_first(
            torch.from_numpy(case.similarity),
            torch.from_numpy(case.given),
            torch.tensor(case.count),
        ).numpy()


@pytest.mark.parametrize("name", CASES)
def test_select(emulator: Emulator, name: str) -> None:
    with emulator.options(races=1):
        check_select(EmulatedSelectors(emulator), CASES[name])
    assert not emulator.take_findings()
    SUMMARY.other["BlockSelect"] += 1


@pytest.mark.parametrize("name", TRAVERSALS)
def test_farthest(emulator: Emulator, name: str) -> None:
    with emulator.options(races=1):
        check_farthest(EmulatedSelectors(emulator), TRAVERSALS[name])
    assert not emulator.take_findings()
    SUMMARY.other["FarthestFirst"] += 1


def test_farthest_rules(emulator: Emulator) -> None:
    with emulator.options(races=1, chaos=1):
        check_farthest_rules(EmulatedSelectors(emulator))
    assert not emulator.take_findings()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_select_of_strided_16_bits(emulator: Emulator, dtype: torch.dtype) -> None:
    """The choice is that of the same values in float32."""
    torch.manual_seed(4)
    q, k, _ = torch.randn(1, 609, 3, 2, 64).to(dtype).permute(2, 0, 3, 1, 4)
    given = (torch.full((1, 1, 1, 1), 2, dtype=torch.int8), torch.tensor(0.3), torch.tensor(0.5))
    layout = TokenLayout(203, 5)
    strided = emulator.block_select(q, k, *given, layout=layout)
    q, k = q.float().contiguous(), k.float().contiguous()
    wide = emulator.block_select(q, k, *given, layout=layout)
    assert torch.equal(strided, wide)
    assert not emulator.take_findings()
    SUMMARY.other["BlockSelect"] += 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("views", "patches", "channels"), [(1, 7, 32), (23, 50, 384), (40, 30, 128), (70, 9, 64)]
)
def test_similarity(
    emulator: Emulator, views: int, patches: int, channels: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(5)
    tokens = torch.randn(views, patches, channels)
    tokens += torch.randn(views // 3 + 1, 1, channels).repeat(3, 1, 1)[:views]
    with emulator.options(races=1):
        similarity = emulator.similarity(tokens.to(dtype))
    expected = descriptor_similarity(tokens.to(dtype).double()).float()
    assert float((similarity - expected).abs().max()) < 1e-5
    assert not emulator.take_findings()
    SUMMARY.other["similarity"] += 1


@pytest.mark.parametrize(("views", "maps"), [(1, 2), (2, 5), (23, 3), (300, 2)])
@pytest.mark.parametrize("values", [1, 8, 1 << 20])
def test_pair_levels(emulator: Emulator, views: int, maps: int, values: int) -> None:
    """Few values: many equal neighbours, of which those of the lowest index are kept."""
    case = pair_case(views + values, views, maps, values=values)
    with emulator.options(races=1):
        level = emulator.pair_levels(case.similarity, case.anchor_rank, case.rules._asdict())
    assert torch.equal(level, pair_levels(*case))
    assert not emulator.take_findings()
    SUMMARY.other["pair levels"] += 1

"""A test of the selectors' tests: each fault planted in their PTX must be seen by some run.

Barriers are counted in the order of the kernel: those of `find_last` stand there twice, once a
search.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from covis.export.selection.pair_rules import pair_levels
from tests.emulator.emulator import Emulator, StoppedError, load_ptx, ptx_of
from tests.emulator.judge import SUMMARY
from tests.emulator.mutations import BLOCK_SYNC, Edit, replaced, without
from tests.emulator.test_selectors import EmulatedSelectors
from tests.vectors.farthest_case import farthest_case
from tests.vectors.pair_case import pair_case
from tests.vectors.suite import ContractError, check_farthest

MODES: dict[str, dict[str, int]] = {
    "races": {"races": 1},
    **{f"chaos {seed}": {"races": 1, "chaos": 1, "seed": seed} for seed in (5, 6, 7)},
}


def judge_farthest(emulator: Emulator) -> str:
    """Judge the first view by the means, then a reference; more views than a CTA has threads."""
    adapter = EmulatedSelectors(emulator)
    try:
        check_farthest(adapter, farthest_case("all", views=70, kind="clusters"))
        check_farthest(adapter, farthest_case("ties", views=70, kind="quantised"))
        check_farthest(adapter, farthest_case("many", views=1030, given=[1029, 1028], count=4))
    except ContractError as wrong:
        return str(wrong)
    return ""


def judge_pair_levels(emulator: Emulator) -> str:
    """Judge ties at the last neighbour, and more views than a CTA has threads."""
    for seed, views, maps in ((40, 40, 2), (13, 258, 1)):
        case = pair_case(seed, views, maps)
        level = emulator.pair_levels(case.similarity, case.anchor_rank, case.rules._asdict())
        if not torch.equal(level, pair_levels(*case)):
            return f"{views} views: other levels"
    return ""


JUDGES: dict[str, Callable[[Emulator], str]] = {
    "traverse_views": judge_farthest,
    "level_pairs": judge_pair_levels,
}


@dataclass(frozen=True)
class Fault:
    """A fault in the kernel whose mangled name holds `kernel`."""

    title: str
    kernel: str
    edit: Edit


FAULTS = [
    Fault("means read before all columns are there", "traverse_views", without(BLOCK_SYNC, 0)),
    Fault("scores read before all means are there", "traverse_views", without(BLOCK_SYNC, 1)),
    Fault("keys read before all warps have theirs", "traverse_views", without(BLOCK_SYNC, 2)),
    Fault("keys of two steps in one place", "traverse_views",
          replaced(r"and\.b32(\s+\S+ \S+) 1;", r"and.b32\1 0;", 0)),
    Fault("smaller key of two lanes", "traverse_views", replaced(r"max\.u64", "min.u64", -1)),
    Fault("smaller key of a thread's views", "traverse_views",
          replaced(r"max\.u64", "min.u64", 4)),
    Fault("least distance begins at 0", "traverse_views",
          replaced(r"(selp\.f32\s+\S+) 0f7F800000", r"\1 0f00000000")),
    Fault("nearest views first", "traverse_views", replaced("0fBF000000", "0f3F000000")),
    *(
        Fault(f"barrier {n} left out", "level_pairs", without(BLOCK_SYNC, n))
        for n in range(7)
    ),
    Fault("neighbours counted twice", "level_pairs",
          replaced(r"(atom\.shared\.add\.u32.*) 1;", r"\1 2;")),
]  # fmt: skip


def objection(emulator: Emulator, kernel: str) -> str:
    """Return what the first mode that objects has seen of the loaded kernel, or an empty string."""
    for mode, options in MODES.items():
        with emulator.options(max_instructions=50_000_000, **options):
            emulator.take_findings()
            try:
                seen = JUDGES[kernel](emulator)
            except StoppedError as stopped:
                seen = str(stopped)
            seen = seen or "".join(emulator.take_findings()[:1])
        if seen:
            return f"{mode}: {seen}"
    return ""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kernel}: {fault.title}")
def test_fault_is_seen(emulator: Emulator, fault: Fault, tmp_path: Path) -> None:
    original = ptx_of(fault.kernel)
    lines = original.read_text().split("\n")
    mutated = fault.edit(lines)
    assert mutated != lines
    (tmp_path / "mutated.ptx").write_text("\n".join(mutated))
    try:
        load_ptx(emulator.library, tmp_path / "mutated.ptx")
        seen = objection(emulator, fault.kernel)
    finally:
        load_ptx(emulator.library, original)
    SUMMARY.mutations[f"{fault.kernel}: {fault.title}"] = seen
    assert seen


@pytest.mark.parametrize("kernel", JUDGES)
def test_kernel_without_a_fault_is_clean(emulator: Emulator, kernel: str) -> None:
    assert objection(emulator, kernel) == ""

"""A test of the test: faults planted in the kernels' PTX, each of which some run must object to.

Run by default: all of `mutations.MUTATIONS`, each by the modes in turn until one objects: late
products and copies with the checkers, then the race detector, then random schedules. The one
harmless mutation, of a redundant fence, must stay unseen in all of them, like the kernels without a
fault. `slow`: the left-out __syncwarp, of which it is only recorded whether they are seen.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from covis.export.ops.cuda.attention import Kernel, Precision
from tests.emulator.emulator import Emulator, StoppedError, load_ptx, ptx_of
from tests.emulator.judge import SUMMARY, Question, question
from tests.emulator.mutations import MUTATIONS, WARP_SYNCS, Mutation
from tests.gpu import cases
from tests.gpu.checks import Subject
from tests.vectors.case import Layout, attention_case

# Part of a kernel's mangled name (element, D, polynomial, FP8), and who launches it.
KERNELS: dict[str, tuple[str, Kernel, Precision]] = {
    "16 bits": ("hopper_attentionIN7cutlass6half_tELi64ELb0ELb0E", "hopper", "full"),
    "FP8": ("hopper_attentionIN7cutlass6half_tELi64ELb0ELb1E", "hopper", "fp8"),
    "quantize": ("quantize_cellI6__halfLi64E", "hopper", "fp8"),
    "portable": ("portable_attentionI6__halfLi64E", "portable", "full"),
}
MODES = {
    "late": {},
    "races": {"races": 1},
    **{f"chaos {seed}": {"races": 1, "chaos": 1, "seed": seed} for seed in (5, 6, 7)},
}
# Two CTAs for all tiles, so that each walks several; a launch that runs on for ever is stopped.
SHORT = {"multiprocessors": 2, "max_instructions": 2_000_000}


@cache
def questions(precision: Precision) -> tuple[Question, ...]:
    """Short and whole chunks, specials and a trailing token; then tiles of a pooled map."""
    layout = Layout(205, 3, 2, 1)
    frames = attention_case(
        "frames", frames=3, layout=layout, q_block=200, k_block=200, pattern="full"
    )
    cells = attention_case(
        "cells", frames=640, q_block=192, k_block=64, heads=1, pattern="mixed", seed=3
    )
    fp8 = precision == "fp8"
    given = (cases.all_low(frames) if fp8 else frames, cells)
    return tuple(question(case, torch.float16, fp8=fp8) for case in given)


def objection(emulator: Emulator, kernel: str) -> str:
    """What the first mode that objects has seen of the loaded kernel; empty where none does."""
    subject = Subject(emulator.library, *KERNELS[kernel][1:])
    for mode, options in MODES.items():
        with emulator.options(**SHORT, **options):
            for asked in questions(subject.precision):
                verdict, _ = asked.judge(emulator, subject)
                if not verdict.ok:
                    reason = verdict.complaints or (f"error {verdict.error:.3g}",)
                    return f"{mode}: {reason[0]}"
    return ""


def plant(emulator: Emulator, mutation: Mutation, folder: Path) -> str:
    """What is seen of the mutation; the kernel itself is loaded again behind it."""
    original = ptx_of(KERNELS[mutation.kernel][0])
    mutated = folder / "mutated.ptx"
    mutated.write_text(mutation.apply(original.read_text()))
    try:
        load_ptx(emulator.library, mutated)
        return objection(emulator, mutation.kernel)
    except StoppedError as unknown:
        return f"not loaded: {unknown}"
    finally:
        load_ptx(emulator.library, original)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.kernel}: {m.title}")
def test_mutation_is_seen(emulator: Emulator, mutation: Mutation, tmp_path: Path) -> None:
    seen = plant(emulator, mutation, tmp_path)
    SUMMARY.mutations[f"{mutation.kernel}: {mutation.title}"] = seen
    assert not seen.startswith("not loaded"), seen
    assert bool(seen) != mutation.harmless, seen or "nothing objected"


@pytest.mark.parametrize("kernel", ["16 bits", "FP8", "portable"])
def test_kernel_without_a_fault_is_clean(emulator: Emulator, kernel: str) -> None:
    assert objection(emulator, kernel) == ""


@pytest.mark.slow
@pytest.mark.parametrize("mutation", WARP_SYNCS, ids=lambda m: m.title)
def test_left_out_warp_sync(emulator: Emulator, mutation: Mutation, tmp_path: Path) -> None:
    SUMMARY.mutations[mutation.title] = plant(emulator, mutation, tmp_path)


def test_a_mutation_that_changes_nothing_is_refused() -> None:
    with pytest.raises(AssertionError, match="nothing was changed"):
        replace(MUTATIONS[0], edit=lambda lines: lines).apply("ret;")

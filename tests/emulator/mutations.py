"""Faults that are planted in the PTX of a kernel, one at a time: would the emulator see them?

Places are counted among the lines that hold an instruction, never named by a register, so that they
outlive a new compilation; a changed kernel may still move one, which then fails as unseen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Lines = list[str]
Edit = Callable[[Lines], Lines]

WAIT = r"wgmma\.wait_group\.sync\.aligned \d;"
FENCE = r"wgmma\.fence\.sync\.aligned;"
NAMED_SYNC = r"bar\.sync \S+, \S+;"
BLOCK_SYNC = r"bar\.sync\s+0;"
WARP_SYNC = r"bar\.warp\.sync \S+;"
BULK_WAIT = r"cp\.async\.bulk\.wait_group\.read 0;"
BULK_LOAD = r"cp\.async\.bulk\.tensor\.5d\.shared::cluster"
TRY_AGAIN = r"@!done bra again;"
STAGE_WIDE = r"add\.s32\s+(%r\d+), (%r\d+), 2;"  # 32 bytes on in a descriptor: the next 16 columns
STAGE_LOW = r"add\.s32\s+(%r\d+), (%r\d+), 256;"  # 4 KiB on: the next 64 rows of 64 bytes


def matching(lines: Lines, pattern: str) -> list[int]:
    """The numbers of the lines that match.

    Raises:
        LookupError: none does.
    """
    found = [i for i, line in enumerate(lines) if re.search(pattern, line)]
    if not found:
        raise LookupError(f"no line matches {pattern}")
    return found


def replaced(pattern: str, to: str, nth: int | None = None) -> Edit:
    """Replace in the `nth` line that matches, counted from the end where negative, or in all."""

    def edit(lines: Lines) -> Lines:
        found = matching(lines, pattern)
        out = list(lines)
        for i in found if nth is None else [found[nth]]:
            out[i] = re.sub(pattern, to, lines[i])
        return out

    return edit


def without(pattern: str, nth: int | None = None) -> Edit:
    """Leave out the instruction of the `nth` line that matches, or of all."""
    return replaced(pattern, ";", nth)


def recounted(arrivals: int, wrong: int) -> Edit:
    """Initialise the barriers that wait for `arrivals` with another count."""

    def edit(lines: Lines) -> Lines:
        out = list(lines)
        constants: dict[str, int] = {}
        for i, line in enumerate(lines):
            if constant := re.match(r"\s*mov\.u32\s+(%r\d+), (\d+);", line):
                constants[constant[1]] = int(constant[2])
            init = re.match(r"(\s*mbarrier\.init\S+ \S+) (%r\d+);", line)
            if init and constants.get(init[2]) == arrivals:
                out[i] = f"{init[1]} {wrong};"
        return out

    return edit


def unwaited(load: int) -> Edit:
    """Leave out the retry of the barrier wait that stands before the `load`-th bulk load."""

    def edit(lines: Lines) -> Lines:
        place = matching(lines, BULK_LOAD)[load]
        wait = max(i for i in matching(lines, TRY_AGAIN) if i < place)
        return [";" if i == wait else line for i, line in enumerate(lines)]

    return edit


def to_the_place_of(other: int, load: int) -> Edit:
    """Let the `load`-th bulk load write where the `other` one does."""

    def edit(lines: Lines) -> Lines:
        first, second = (matching(lines, BULK_LOAD)[n] for n in (other, load))
        target = re.search(r"\[%r\d+\]", lines[first])
        assert target is not None
        out = list(lines)
        out[second] = re.sub(r"\[%r\d+\]", target[0], lines[second], count=1)
        return out

    return edit


def flipped(bits: int, change: int) -> Edit:
    """Change bits of a descriptor's constant, wherever it is used."""

    def signed(value: int) -> str:
        value &= (1 << 64) - 1
        return str(value - (1 << 64) if value >> 63 else value)

    return replaced(rf"{signed(bits)};", f"{signed(bits ^ change)};")


SWIZZLE_128, SWIZZLE_64, SWIZZLE_32 = (mode << 62 for mode in (1, 2, 3))
WIDE_TILE = SWIZZLE_128 | (1024 >> 4) << 32 | 1 << 16  # the descriptor of a tile in 16 bits
LOW_TILE = SWIZZLE_64 | (512 >> 4) << 32 | 1 << 16  # and of one in 8


def within(kernel: str, edit: Edit) -> Edit:
    """Edit one kernel of a file that holds several: that whose mangled name holds `kernel`."""

    def inside(lines: Lines) -> Lines:
        entries = [*matching(lines, r"\.entry "), len(lines)]
        first = next(i for i, at in enumerate(entries) if kernel in lines[at])
        begin, end = entries[first], entries[first + 1]
        return lines[:begin] + edit(lines[begin:end]) + lines[end:]

    return inside


@dataclass(frozen=True)
class Mutation:
    """One fault in a kernel for float16 and D = 64, as `test_mutations.KERNELS` names them."""

    title: str
    kernel: Literal["16 bits", "FP8", "portable", "quantize"]
    edit: Edit
    harmless: bool = False  # what it leaves out is redundant: no run can show it

    def apply(self, text: str) -> str:
        """PTX text with the fault."""
        lines = text.split("\n")
        mutated = self.edit(lines)
        assert mutated != lines, f"{self.title}: nothing was changed"
        return "\n".join(mutated)


def _wait(left: int) -> str:
    return f"wgmma.wait_group.sync.aligned {left};"


WIDE = {
    "main loop: wait<1> for the scores left out": replaced(WAIT, _wait(2), 1),
    "main loop: wait<0> for the outputs left out": replaced(WAIT, _wait(1), 2),
    "last wait<0> left out": replaced(WAIT, _wait(7), 3),
    "first wgmma.fence left out": without(FENCE, 0),
    "a commit_group left out": without(r"wgmma\.commit_group\.sync\.aligned;", 1),
    "epilogue: fence.proxy.async left out": without(r"fence\.proxy\.async\.shared::cta;"),
    "epilogue: bulk wait_group.read left out": without(BULK_WAIT, 0),
    "end: bulk wait_group.read left out": without(BULK_WAIT, -1),
    "bulk commit left out": without(r"cp\.async\.bulk\.commit_group;"),
    "a take_turn left out": without(NAMED_SYNC, 0),
    "epilogue: first bar.sync left out": without(NAMED_SYNC, 1),
    "epilogue: second bar.sync left out": without(NAMED_SYNC, 2),
    "open_turns left out": without(r"bar\.arrive \S+, \S+;", 0),
    "a pass_turn left out": without(r"bar\.arrive \S+, \S+;", 4),
    "barriers initialised, and nobody waits for it": without(BLOCK_SYNC),
    "second slice of K 64 bytes on": replaced(STAGE_WIDE, r"add.s32 \1, \2, 4;", 0),
    "descriptors with 64-byte swizzle": flipped(WIDE_TILE, SWIZZLE_128 ^ SWIZZLE_64),
    "descriptors with stride 512": flipped(WIDE_TILE, (1024 ^ 512) >> 4 << 32),
    "V not transposed": replaced(r"p,\s*1,\s*1,\s*1;", "p, 1, 1, 0;"),
    "stmatrix without swizzle": replaced(r"and\.b64(\s+\S+, \S+), 896;", r"and.b64\1, 0;"),
    "k_empty counts 11 arrivals": recounted(12, 11),
    "k_empty counts 13 arrivals": recounted(12, 13),
    "work_empty counts 13 arrivals": recounted(14, 13),
    "list_empty counts 1 arrival": recounted(2, 1),
    "setmaxnreg 168": replaced(r"setmaxnreg\.inc(\S+) 160", r"setmaxnreg.inc\1 168"),
    "the key loader does not wait for an empty slot": unwaited(1),
    "the value loader does not wait for an empty slot": unwaited(3),
    "half of the keys loaded to the other half's place": to_the_place_of(1, 2),
}
LOW = {
    "e4m3 pairs exchanged": replaced(
        r"cvt\.rn\.satfinite\.e4m3x2\.f32 (\S+), (\S+), (\S+);",
        r"cvt.rn.satfinite.e4m3x2.f32 \1, \3, \2;",
    ),
    "wait before the first softmax left out": replaced(WAIT, _wait(7), 0),
    "loop: wait<1> for products with V left out": replaced(WAIT, _wait(2), 1),
    "loop: wait<0> for scores left out": replaced(WAIT, _wait(1), 2),
    "last products with V not waited for": replaced(WAIT, _wait(1), 3),
    "descriptors with 128-byte swizzle": flipped(LOW_TILE, SWIZZLE_64 ^ SWIZZLE_128),
    "descriptors with 32-byte swizzle": flipped(LOW_TILE, SWIZZLE_64 ^ SWIZZLE_32),
    "descriptors with stride 1024": flipped(LOW_TILE, (512 ^ 1024) >> 4 << 32),
    "second half of K where the first is": replaced(STAGE_LOW, r"add.s32 \1, \2, 0;", 0),
    "second slice of V's keys 64 bytes on": replaced(
        STAGE_LOW.replace("256", "2"), r"add.s32 \1, \2, 4;", 1
    ),
    "Q's scale not stored": without(r"st\.shared\.v2\.f32 .*;", 0),
}
PORTABLE = {
    "bar.sync behind the wait for copies left out": without(BLOCK_SYNC, 0),
    "bar.sync behind a chunk left out": without(BLOCK_SYNC, 1),
    "copies of a chunk not waited for": without(r"cp\.async\.wait_group 1;", 0),
    "copies of the last chunk not waited for": without(r"cp\.async\.wait_group 0;", 0),
    "commit of a chunk's copies left out": without(r"cp\.async\.commit_group;", 1),
    "V not transposed": replaced(r"x4\.trans\.", "x4."),
    "the walk's __syncwarp left out": without(WARP_SYNC, 1),
}
CELL, MEASURE = "quantize_cellI6__halfLi64E", "measure_patchesI6__halfLi64E"
QUANTIZE = {
    "measuring: bar.sync left out": within(MEASURE, without(BLOCK_SYNC)),
    "Q's peak read before it is there": within(CELL, without(BLOCK_SYNC, 1)),
    "K's peak written before Q's is read": within(CELL, without(BLOCK_SYNC, 2)),
    "K's peak read before it is there": within(CELL, without(BLOCK_SYNC, 3)),
}
MUTATIONS = [
    *(Mutation(title, "16 bits", edit) for title, edit in WIDE.items()),
    *(Mutation(title, "FP8", edit) for title, edit in LOW.items()),
    *(Mutation(title, "portable", edit) for title, edit in PORTABLE.items()),
    *(Mutation(title, "quantize", edit) for title, edit in QUANTIZE.items()),
    # P and O are last written before the scores' fence of the same turn, which orders them already.
    Mutation("main loop: second wgmma.fence left out", "16 bits", without(FENCE, 2), harmless=True),
]
# Ballots and the order of a warp's lanes hide most of these from the emulator: a known gap.
WARP_SYNCS = [
    Mutation(f"__syncwarp {n} left out", "16 bits", without(WARP_SYNC, n)) for n in range(13)
]

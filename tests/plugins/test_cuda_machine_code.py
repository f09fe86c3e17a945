"""The built kernel library, read by cuobjdump: the instructions that each kernel must hold."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from tests.places import ROOT
from tests.plugins.cuda_host import library

HELPERS = (
    *("measure_rows", "sort_rows", "gather_specials", "pool_tokens", "choose_blocks"),
    *("sum_tokens", "finish_descriptors", "compare_views", "level_pairs"),
    "traverse_views",
    *("measure_patches", "finish_scales", "quantize_cell"),
)
HOPPER = [
    (element, dim, polynomial, fp8)
    for element in ("half_t", "bfloat16_t")
    for dim, polynomial in ((64, "false"), (64, "true"), (128, "false"))
    for fp8 in ("false", "true")
]
LIBRARY = ROOT / "build" / "cuda" / "libcovis_kernels.so"


def tool(name: str) -> str:
    """The CUDA binary utility on the path or of an installed wheel; skips where there is none."""
    folders = [str(Path(sys.prefix) / "cuda"), *sys.path]  # the first is that of `make plugins`
    wheels = [Path(p) / "nvidia" / "cu13" / "bin" / name for p in folders]
    found = shutil.which(name) or next((str(p) for p in wheels if p.is_file()), None)
    if found is None:
        pytest.skip(f"{name} is not installed (make plugins)")
    return found


def cuobjdump(*options: str) -> str:
    """What cuobjdump says of the library; skips where it is not built."""
    if not LIBRARY.is_file():
        pytest.skip("build/cuda/libcovis_kernels.so is not built (make plugins)")
    command = [tool("cuobjdump"), *options, str(LIBRARY)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    return done.stdout


def readable(mangled: str) -> str:
    """`hopper_attention<half_t, 64, false, true>` of a mangled name, for limits and messages."""
    base = next((n for n in ("hopper_attention", "portable_attention") if n in mangled), None)
    if base is None:
        return next((n for n in HELPERS if n in mangled), mangled)
    types = ("bfloat16_t", "half_t", "__nv_bfloat16", "__half")
    element = next(t for t in types if t in mangled)
    dim = re.search(r"Li(\d+)E", mangled)
    flags = re.findall(r"Lb([01])E", mangled)
    rest = "".join(", true" if flag == "1" else ", false" for flag in flags)
    return f"{base}<{element}, {dim.group(1) if dim else '?'}{rest}>"


@cache
def instructions() -> dict[tuple[str, str], Counter[str]]:
    """Instruction counts by (architecture, kernel)."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    pattern = r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)(\.NAN)?"
    architecture = kernel = ""
    for line in cuobjdump("--dump-sass").splitlines():
        if match := re.match(r"\s*arch = (\w+)", line):
            architecture = match.group(1)
        elif match := re.match(r"\s*Function : (\S+)", line):
            kernel = readable(match.group(1))
            counts[architecture, kernel] = Counter()
        elif match := re.match(pattern, line):
            operation, nan = match.groups()
            counts[architecture, kernel][operation] += 1
            if nan:
                counts[architecture, kernel][operation + nan] += 1
    return counts


def kernels(prefix: str) -> dict[tuple[str, str], Counter[str]]:
    """Those whose name starts so; at least one."""
    chosen = {key: count for key, count in instructions().items() if key[1].startswith(prefix)}
    assert chosen, f"no kernel {prefix} in the library"
    return chosen


def test_hopper_kernels_use_hopper() -> None:
    found = kernels("hopper_attention")
    assert {key[0] for key in found} == {"sm_90a"}
    names = [f"hopper_attention<{', '.join(map(str, each))}>" for each in HOPPER]
    assert {key[1] for key in found} == set(names)
    for key, count in found.items():
        assert count["HGMMA"] >= 16, key
        if key[1].endswith("true>"):  # level 1 in FP8: both products, and P rounded to e4m3
            assert count["QGMMA"] >= 16, key
            assert count["F2FP"] >= 64, key
        else:
            assert count["QGMMA"] == 0, key
        assert count["HMMA"] == 0, key
        assert count["UTMALDG"] >= 5, key
        assert count["UTMASTG"] >= 1, key
        assert count["USETMAXREG"] == 2, f"{key}: register reallocation was ignored"


def test_polynomial_kernels_spare_the_special_function_unit() -> None:
    found = {key[1]: count for key, count in kernels("hopper_attention").items()}
    for element in ("half_t", "bfloat16_t"):
        for fp8 in ("false", "true"):
            plain = found[f"hopper_attention<{element}, 64, false, {fp8}>"]
            poly = found[f"hopper_attention<{element}, 64, true, {fp8}>"]
            assert poly["MUFU"] < 0.85 * plain["MUFU"]
            # A NaN's own exponential may be the polynomial's, which loses it: the maximum keeps it.
            assert poly["FMNMX.NAN"] >= 64


def test_quantizing_kernels_round_in_hardware() -> None:
    found = kernels("quantize_cell")
    assert {key[0] for key in found} == {"sm_90a"}
    for key, count in found.items():
        assert count["F2FP"] >= 8, key
        assert count["LDG"] >= 3, key


def test_portable_kernels_use_tensor_cores() -> None:
    found = kernels("portable_attention")
    assert {key[0] for key in found} == {"sm_80", "sm_90"}
    for key, count in found.items():
        assert count["HMMA"] >= 32, key
        assert count["LDGSTS"] >= 1, key


def test_no_spills() -> None:
    """Nothing is kept in local memory: a spill in a main loop would cost more than its bytes."""
    for (architecture, kernel), count in sorted(instructions().items()):
        local = count["LDL"] + count["STL"]
        assert local == 0, f"{kernel} ({architecture}): {local} local-memory instructions"


def test_resources(capsys: pytest.CaptureFixture[str]) -> None:
    """Prints registers and shared memory; the caps are those of the launch bounds.

    The Hopper kernels' shared memory is dynamic; the tile table has its upper bound.
    """
    text = cuobjdump("--dump-resource-usage")
    rows = re.findall(r"Function (\S+):\s*REG:(\d+) STACK:(\d+) SHARED:(\d+)", text)
    assert rows
    with capsys.disabled():
        for mangled, registers, stack, shared in rows:
            name = readable(mangled)
            kibibytes = f"{int(shared) / 1024:.1f} KiB"
            if name.startswith("hopper_attention"):
                dim = 128 if "128" in name else 64
                assert int(registers) <= (168 if dim == 128 else 128)
                bytes_ = library().covis_host_shared_bytes(dim, int(name.endswith("true>")))
                kibibytes = f"{bytes_ / 1024:.1f} KiB dynamic"
            print(f"\n{name}: {registers} registers, stack {stack}, shared {kibibytes}", end="")
        print()

"""Accuracy of covis-mini on held-out synthetic scenes: one command for the whole page.

    python benchmarks/accuracy_mini.py --quick      # a first page, from few scenes
    python benchmarks/accuracy_mini.py              # all scenes; continues where it stopped

Dense attention against baselines and against the same model without its neighbours; choices of
pairs and anchors at equal counts; thresholds, pooled blocks and schedules; layer-drop curves; low
precision; entropy of attention and true matches. Writes `benchmarks/results/accuracy_mini.json`,
`docs/explanation/accuracy.md` and the pictures beside it. Every finished cell, a setting on a
scene, is kept in `--work`, so that a longer run continues a shorter one; another model or another
renderer begins anew. `--page-only` writes the page of the record that exists.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from accuracy import page
from accuracy.parts import QUICK, WIDE_KINDS, Amount, parts

from covis.engines.bundle.bundle import open_bundle
from covis.export.training.config import SCORED_KINDS

ROOT = Path(__file__).resolve().parent.parent


def parser() -> argparse.ArgumentParser:
    """Return the command line parser."""
    out = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    out.add_argument("--bundle", type=Path, default=ROOT / "covis" / "assets" / "demo")
    out.add_argument(
        "--kinds", nargs="+", default=list(SCORED_KINDS), help="of the scenes of 8 views"
    )
    out.add_argument("--wide-kinds", nargs="+", default=list(WIDE_KINDS), help="of many views")
    out.add_argument("--quick", action="store_true", help="few scenes, and at most 24 views")
    out.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    out.add_argument("--page-only", action="store_true", help="write the page of the record")
    out.add_argument("--work", type=Path, default=ROOT / "build" / "accuracy_mini")
    results = ROOT / "benchmarks" / "results"
    out.add_argument("--out", type=Path, default=results / "accuracy_mini.json")
    out.add_argument("--page", type=Path, default=ROOT / "docs" / "explanation" / "accuracy.md")
    return out


def main(words: Sequence[str] | None = None, amount: Amount | None = None) -> None:
    """Measure what is missing, and write the record, the page and its pictures.

    Args:
        words: Arguments of the command line.
        amount: Number of scenes; by default that of the command line.
    """
    arguments = parser().parse_args(words)
    if not arguments.page_only:
        # These import torch, which the page does without.
        from accuracy.measure import measure
        from accuracy.record import record, write

        manifest = open_bundle(arguments.bundle).manifest
        every = parts(
            amount or (QUICK if arguments.quick else Amount()),
            arguments.kinds,
            arguments.wide_kinds,
            manifest.model.global_layers,
            manifest.pixel_rule.height,
        )
        cells = measure(
            arguments.work,
            arguments.bundle,
            every,
            arguments.workers,
            lambda done, total: print(f"\r{done} of {total} scenes ", end="", flush=True),
        )
        print()
        write(arguments.out, record(arguments.bundle, every, cells))
    page.write(json.loads(arguments.out.read_text()), arguments.page)
    print(arguments.page.read_text())


if __name__ == "__main__":
    main()

"""`covis demo`: the whole line on a made scene, offline, with the bundle that ships."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WEIGHTS_NOTE = (
    "The weights of this bundle are random: its cameras and points mean nothing. "
    "The demo shows what runs and what is written."
)


@dataclass(frozen=True)
class DemoCommand:
    """Render a small scene and run the bundle that ships with covis on its photos.

    Attributes:
        out: folder to write; holds `photos` and `scene` afterwards.
        views: photos to render around the scene.
        force: replace an existing output folder.
    """

    out: Path = Path("out/demo")
    views: int = 12
    force: bool = False


def demo_bundle() -> Path:
    """The bundle that ships with the package."""
    return Path(__file__).resolve().parent.parent / "assets" / "demo"


def check_replaceable(out: Path) -> None:
    """Raise unless everything in `out` was written by an earlier demo."""
    from covis.engines.errors import user_error
    from covis.runtime.writers import FORMATS, check_output

    if not out.is_dir():
        return
    photos = out / "photos"
    strange = [p for p in out.iterdir() if p.name not in ("photos", "scene") or not p.is_dir()]
    if photos.is_dir():
        strange += [p for p in photos.iterdir() if not p.match("view_*.jpg")]
    if strange:
        raise user_error(
            "was not written by the demo, so its folder is not replaced",
            where=sorted(strange)[0],
            hint="choose another --out",
        )
    check_output(out / "scene", FORMATS, force=True)


def demo(command: DemoCommand) -> None:
    """Render, reconstruct, write, and compare the kept pairs with what truly sees what."""
    from rich.console import Console

    from covis.commands.run import progress_bar
    from covis.engines.atomic import atomic_folder
    from covis.engines.errors import user_error
    from covis.runtime.pipeline import load
    from covis.runtime.writers import write
    from covis.synthetic.photos import demo_scene, write_photos

    if command.views < 1:
        raise user_error(f"{command.views} is below 1", where="--views", hint="use 1 or more")
    console = Console(stderr=True)
    if command.force:
        check_replaceable(command.out)
    pipeline = load(demo_bundle())
    with atomic_folder(command.out, force=command.force) as scratch, progress_bar(console) as tell:
        tell("rendering", 0, 1)
        truth = demo_scene(command.views)
        photos = [path.name for path in write_photos(scratch / "photos", truth)]
        tell("rendering", 1, 1)
        scene = pipeline([scratch / "photos" / name for name in photos], progress=tell)
        tell("writing", 0, 1)
        write(scene, scratch / "scene", ("ply", "colmap", "saliency", "nerfstudio", "npz"))
        tell("writing", 1, 1)
    assert scene.pair_level is not None
    kept = scene.pair_level > 0
    sees = truth.covisibility > 0.05
    console.print(WEIGHTS_NOTE, highlight=False)
    console.print(
        f"{len(scene)} views, {kept.size} ordered pairs: {int(kept.sum())} kept by saliency, "
        f"{int(sees.sum())} truly share over 5 % of the surface, {int((kept & sees).sum())} both",
        highlight=False,
    )
    for path in sorted(p for p in command.out.rglob("*") if p.is_file()):
        if path.parent.name != "photos":
            print(path)
    print(command.out / "photos")

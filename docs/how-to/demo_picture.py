"""Take docs/demo.png: the page that `covis demo` wrote, in a browser without a window.

    covis demo --out out/demo
    python docs/how-to/demo_picture.py out/demo

Chromium must be installed (Debian: apt-get install chromium). The picture shows what a reader sees
who opens the page, at the run that the page opens with.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from covis.engines.errors import environment_error, user_error  # noqa: E402
from tests.chromium import chromium_page, find_chromium  # noqa: E402

LARGEST = 250_000  # bytes of the file
COLOURS = (256, 192, 128, 96, 64)


def take(page: Path, width: int, height: int) -> Image.Image:
    """Return the page's window of `width` x `height` pixels in RGB.

    Raises:
        CovisError: The page or the browser is missing, or the page could not be drawn.
    """
    if not page.is_file():
        raise user_error("is missing", where=page, hint="run `covis demo` first")
    if find_chromium() is None:
        raise environment_error("no Chromium here", hint="Debian: apt-get install chromium")
    with chromium_page() as browser, tempfile.TemporaryDirectory() as folder:
        browser.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        browser.call("Emulation.setScrollbarsHidden", hidden=True)
        browser.open(page)
        browser.painted()
        failed = browser.evaluate("document.getElementById('error')?.textContent")
        if failed:
            raise user_error(failed, where=page)
        browser.evaluate("document.querySelector('#tabs button:nth-child(2)')?.click()")
        browser.painted()
        shot = Path(folder) / "page.png"
        browser.screenshot(shot)
        with Image.open(shot) as image:
            return image.convert("RGB")


def small_png(image: Image.Image, limit: int = LARGEST) -> bytes:
    """Return a PNG below `limit` bytes, with as many colours as that allows.

    Raises:
        CovisError: Even the fewest colours take more.
    """
    for colours in COLOURS:
        stream = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(stream, "PNG", optimize=True)
        if stream.tell() <= limit:
            return stream.getvalue()
    raise user_error(f"the picture takes over {limit:,} bytes", hint="make it smaller")


def main() -> None:
    """Take the picture of the demo in the folder that is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("demo", nargs="?", type=Path, default=Path("out/demo"))
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "demo.png")
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=820)
    arguments = parser.parse_args()
    image = take(arguments.demo / "scene" / "scene.html", arguments.width, arguments.height)
    arguments.out.write_bytes(small_png(image))
    print(arguments.out, f"{arguments.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()

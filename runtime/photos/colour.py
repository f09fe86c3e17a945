"""Colours of a decoded image of 8 bits a channel: RGB, and alpha apart from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image as PilImage

_WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
_STRIP = 256  # rows that are laid on white at a time, which bounds the memory


def rgb_and_alpha(
    image: PilImage.Image, drop_alpha: bool
) -> tuple[PilImage.Image, PilImage.Image | None]:
    """Return the RGB image, and its alpha of 8 bits; None where the mode has no alpha.

    Args:
        image: Decoded image of 8 bits a channel, of any mode.
        drop_alpha: Keep the colours of transparent pixels; else they are laid on white.
    """
    if image.mode not in _WITH_ALPHA and "transparency" not in image.info:
        return _rgb(image), None
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    alpha = rgba.getchannel("A")
    return (rgba.convert("RGB") if drop_alpha else _on_white(rgba)), alpha


def _rgb(image: PilImage.Image) -> PilImage.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(lab, srgb, "LAB", "RGB").apply(image)
    return image.convert("RGB")


def _on_white(rgba: PilImage.Image) -> PilImage.Image:
    from PIL import Image

    out = Image.new("RGB", rgba.size)
    for top in range(0, rgba.height, _STRIP):
        strip = rgba.crop((0, top, rgba.width, min(top + _STRIP, rgba.height)))
        white = Image.new("RGBA", strip.size, "white")
        out.paste(Image.alpha_composite(white, strip).convert("RGB"), (0, top))
    return out

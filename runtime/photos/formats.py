"""File formats of photos: the allow-list of Pillow's decoders, and the errors of all others.

Pillow tries every decoder it has on a file of any name, and some of them start programs (EPS starts
Ghostscript). Only the decoders of this list are ever tried. Each of them is a library that runs in
this process and reads nothing but the file.
"""

from __future__ import annotations

import threading
from pathlib import Path

from covis.engines.errors import CovisError, environment_error, user_error

# Pillow's name of each format, and its suffixes. JPEG includes MPO, of which the first image is
# read.
_SUFFIXES: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "AVIF": (".avif",),  # before HEIF, which accepts any content under their common brand, mif1
    "HEIF": (".heic", ".heif", ".hif"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "QOI": (".qoi",),
    "TGA": (".tga",),
}
SUFFIXES = frozenset(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
LOOKS_FOR = "jpg, png, heic, webp, avif, tif or bmp"

# Formats whose pixels are approximate, so that the black of a mask is not exactly 0.
LOSSY = frozenset({"JPEG", "MPO", "WEBP", "HEIF", "AVIF", "JPEG2000"})

# Formats that an installed Pillow may lack: Pillow's name of the feature, and what brings it.
_OPTIONAL = {
    "HEIF": ("", "pip install 'covis[heic]'"),
    "AVIF": ("avif", "pip install --upgrade pillow"),
    "WEBP": ("webp", "pip install --upgrade pillow"),
    "JPEG2000": ("jpg_2000", "pip install --upgrade pillow"),
}
# Brands of HEIF files (ISO/IEC 23008-12); those of AVIF begin with avi.
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

_MAGIC = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "GIF": (b"GIF8",),
    "JPEG2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
}

_lock = threading.Lock()
_decoders: tuple[str, ...] = ()


def decoders(path: Path) -> tuple[str, ...]:
    """Return Pillow's names of the decoders that may be tried on a file.

    TGA files begin with no signature, so that random bytes may look like one: it is tried only for
    files of that name.
    """
    global _decoders  # noqa: PLW0603 - Pillow's own registry is one for each process, too
    with _lock:
        if not _decoders:
            _decoders = _registered()
    tga = path.suffix.lower() in _SUFFIXES["TGA"]
    return tuple(name for name in _decoders if tga or name != "TGA")


def _registered() -> tuple[str, ...]:
    """Register HEIC, where pillow-heif is installed, and list the decoders that are there."""
    from PIL import Image, features

    try:
        from pillow_heif import register_heif_opener
    except ImportError:  # an extra
        pass
    else:
        register_heif_opener()
    Image.init()
    features_there = set(features.get_supported())
    lacking = {name for name, (need, _) in _OPTIONAL.items() if need and need not in features_there}
    return tuple(name for name in _SUFFIXES if name in Image.OPEN and name not in lacking)


def missing_decoder(path: Path) -> str | None:
    """Return the command that installs the decoder of a photo's suffix; None if it is there."""
    suffix = path.suffix.lower()
    for name, suffixes in _SUFFIXES.items():
        if suffix in suffixes and name not in decoders(path):
            return _OPTIONAL[name][1] if name in _OPTIONAL else "pip install --upgrade pillow"
    return None


def unidentified(path: Path) -> CovisError:
    """Return the error for a file that no decoder knows: what to install, or what to give."""
    with path.open("rb") as file:
        head = file.read(16)
    name = _signature(head)
    if name in _OPTIONAL and name not in decoders(path):
        return environment_error(
            f"is a photo in {name}, for which no decoder is installed",
            where=path,
            hint=_OPTIONAL[name][1],
        )
    if name:
        return user_error(
            f"is a {name} file that is damaged, or of a kind that cannot be read",
            where=path,
            hint="replace it, or save it with 8 or 16 bits a channel, as grey or RGB",
        )
    return user_error(
        "is no image that can be read", where=path, hint=f"use {LOOKS_FOR}, or remove it"
    )


def _signature(head: bytes) -> str:
    """Return Pillow's name of the format that the first 16 bytes of a file announce, or ""."""
    if head[4:8] == b"ftyp":
        return "HEIF" if head[8:12] in _HEIF_BRANDS else "AVIF" if head[8:11] == b"avi" else ""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for name, magic in _MAGIC.items() if head.startswith(magic)), "")

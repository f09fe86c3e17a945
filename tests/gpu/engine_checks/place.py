"""What the engine checks share: bundles, their plans, photos, and the words for a refusal."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from covis.cli import run_command
from covis.engines.bundle.bundle import open_bundle
from covis.engines.bundle.folder import PLANS
from covis.engines.errors import CovisError
from covis.engines.options import BackendOptions, RunOptions
from covis.evaluation.bench.measure import random_images
from covis.runtime.photos.images import Images

VIEWS, CHUNK = 12, 4
BUILD = ("--views", f"1:{VIEWS}:{VIEWS + 4}", "--chunk", f"1:{CHUNK}:{CHUNK}")


@dataclass(frozen=True)
class Place:
    """Where the checks work.

    Attributes:
        folder: scratch space, with the two bundles in it.
        plugin: the plugin library; None takes the package's own.
    """

    folder: Path
    plugin: Path | None

    @property
    def wide(self) -> Path:
        """The tiny bundle in float32: no GPU kernel attends in it, so it has no plans."""
        return self.folder / "wide"

    @property
    def bundle(self) -> Path:
        """The same model computing in float16, with plans."""
        return self.folder / "half"

    @property
    def plans(self) -> Path:
        """The plans of `bundle`."""
        return self.bundle / PLANS

    @property
    def stripped(self) -> Path:
        """Plans of some stages of `bundle`, built without their weights."""
        return self.folder / "stripped"

    def options(self, **changes: Any) -> RunOptions:
        """Run options of the TensorRT backend, with some of the backend's fields changed."""
        where = {"backend": "tensorrt", "plugin": self.plugin, **changes}
        return RunOptions(chunk=CHUNK, backend=BackendOptions(**where))

    def plugin_words(self, option: str) -> list[str]:
        """The plugin library for a command that takes it by this option."""
        return [option, str(self.plugin)] if self.plugin else []


def command(*words: str | Path) -> tuple[int, str, str]:
    """A `covis` command in this process: exit code, standard output and error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command([str(word) for word in words])
    return code, out.getvalue(), err.getvalue()


def pictures(bundle: Path, views: int = VIEWS) -> Images:
    """Made photos of the bundle's size."""
    return random_images(views, open_bundle(bundle).manifest.pixel_rule)


def cut(images: Images, views: int) -> Images:
    """The first views."""
    return replace(
        images,
        uint8=images.uint8[:views],
        names=images.names[:views],
        transforms=images.transforms[:views],
        original_sizes=images.original_sizes[:views],
        paths=images.paths[:views],
    )


@contextlib.contextmanager
def refusal(code: int, words: str) -> Iterator[None]:
    """The block ends in a `CovisError` of that exit code whose line holds the words (a pattern)."""
    try:
        yield
    except CovisError as error:
        assert error.code == code and re.search(words, str(error)), str(error)
        return
    raise AssertionError(f"nothing was refused ({words})")

"""Files that change after a bundle was opened: what was checked is what is used, or nothing is."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covis.engines.bundle.bundle import Bundle, open_bundle, rewrite_manifest
from covis.engines.bundle.verified import VerifiedFile, verified_onnx
from covis.engines.errors import CovisError, ExitCode
from covis.engines.tensorrt.build.engine import parse_graph
from covis.engines.tensorrt.triton import TritonOptions, write_repository
from covis.runtime.backends.ort_session import Session, SessionOptions
from covis.runtime.pipeline import load
from tests.engines.mini_bundle import H, W, edit_graph
from tests.places import DEMO

WEIGHTS = "model.safetensors"
Change = Callable[[Path], None]


def in_place(path: Path) -> None:
    """Write zeros over the last half of a file, and set its former times."""
    facts = path.stat()
    with path.open("r+b") as stream:
        stream.seek(facts.st_size // 2)
        stream.write(bytes(facts.st_size - facts.st_size // 2))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def by_rename(path: Path) -> None:
    """Put a file of the same size and times in its place, with zeros in the last half."""
    other = path.with_name(f".{path.name}")
    shutil.copy2(path, other)
    in_place(other)
    other.rename(path)


def removed(path: Path) -> None:
    path.unlink()


def linked(path: Path) -> None:
    target = path.parent.parent / path.name
    path.rename(target)
    path.symlink_to(target)


CHANGES = [in_place, by_rename, removed]


def loaded(bundle: Bundle, stage: str = "encoder") -> Session:
    listed = bundle.manifest.stage(stage)
    return Session(bundle.graph(listed), listed, SessionOptions(threads=1))


def refused(call: Callable[[], Any], path: Path) -> None:
    with pytest.raises(CovisError, match=r"while it was in use") as caught:
        call()
    assert caught.value.code == ExitCode.USER and caught.value.where == str(path)
    assert "\n" not in str(caught.value) and caught.value.hint


def colours(session: Session) -> Any:
    images = np.ones((1, 3, H, W), np.float32)
    result = np.empty((1, 4), np.float32)
    session.run({"images": images}, {"patch_tokens": result})
    return result


@pytest.mark.parametrize("name", ["encoder.onnx", WEIGHTS])
@pytest.mark.parametrize("change", [*CHANGES, linked])
def test_changed_between_opening_and_loading(mini_bundle: Path, name: str, change: Change) -> None:
    bundle = open_bundle(mini_bundle)
    change(mini_bundle / name)
    refused(lambda: loaded(bundle), mini_bundle / name)


def test_a_graph_that_fits_the_manifest_is_not_swapped_in(mini_bundle: Path) -> None:
    bundle = open_bundle(mini_bundle)
    edit_graph(mini_bundle, "encoder", lambda m: m.graph.node[0].__setattr__("name", "other"))
    open_bundle(mini_bundle)  # a bundle in its own right, signed anew
    refused(lambda: loaded(bundle), mini_bundle / "encoder.onnx")


def test_weights_that_change_under_a_loaded_stage(mini_bundle: Path) -> None:
    """They are mapped into memory, so the change has reached the results."""
    session = loaded(open_bundle(mini_bundle))
    before = colours(session)
    assert before.any()
    in_place(mini_bundle / WEIGHTS)
    refused(lambda: colours(session), mini_bundle / WEIGHTS)


def test_a_loaded_stage_keeps_the_weights_it_was_checked_with(mini_bundle: Path) -> None:
    session = loaded(open_bundle(mini_bundle))
    before = colours(session)
    by_rename(mini_bundle / WEIGHTS)
    np.testing.assert_array_equal(colours(session), before)


def test_folder_replaced_between_two_stages(mini_bundle: Path, tmp_path: Path) -> None:
    """As `covis export --force` does."""
    bundle = open_bundle(mini_bundle)
    loaded(bundle, "encoder")
    mini_bundle.rename(tmp_path / "was")
    shutil.copytree(tmp_path / "was", mini_bundle)
    refused(lambda: loaded(bundle, "saliency"), mini_bundle / "saliency.onnx")
    shutil.rmtree(mini_bundle)
    refused(lambda: loaded(bundle, "saliency"), mini_bundle / "saliency.onnx")


def test_a_link_to_the_bundle_may_point_elsewhere_meanwhile(
    mini_bundle: Path, tmp_path: Path
) -> None:
    """As where `latest` is switched over while a server runs."""
    (tmp_path / "latest").symlink_to(mini_bundle)
    bundle = open_bundle(tmp_path / "latest")
    shutil.copytree(mini_bundle, tmp_path / "new")
    in_place(tmp_path / "new" / WEIGHTS)
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to(tmp_path / "new")
    assert colours(loaded(bundle)).any()


def test_renamed_and_put_back_while_it_is_opened(mini_bundle: Path, tmp_path: Path) -> None:
    weights = open_bundle(mini_bundle).weights

    def opened() -> None:
        with weights.by_name() as path:
            path.rename(tmp_path / "first")
            shutil.copy(tmp_path / "first", path)
            path.unlink()  # at this moment another library would have opened the copy
            (tmp_path / "first").rename(path)

    refused(opened, mini_bundle / WEIGHTS)
    with weights.by_name():
        pass


def test_new_times_alone_are_no_change(mini_bundle: Path) -> None:
    bundle = open_bundle(mini_bundle)
    for name in ("encoder.onnx", WEIGHTS):
        os.utime(mini_bundle / name)
        (mini_bundle / name).chmod(0o600)
    assert colours(loaded(bundle)).any()


def test_the_whole_pipeline_refuses(tmp_path: Path, photos: Path) -> None:
    folder = Path(shutil.copytree(DEMO, tmp_path / "demo"))
    pipeline = load(folder)
    in_place(folder / WEIGHTS)
    refused(lambda: pipeline(photos), folder / WEIGHTS)


def test_other_manifest(mini_bundle: Path) -> None:
    """The digest is that of the manifest in use, and a newer manifest is not overwritten."""
    bundle = open_bundle(mini_bundle)
    digest = bundle.digest()
    path = mini_bundle / "manifest.json"
    path.write_text(path.read_text() + " ")
    assert bundle.digest() == digest != open_bundle(mini_bundle).digest()
    sparsity = replace(bundle.manifest.sparsity, tau=0.1)
    changed = bundle.manifest.model_copy(update={"sparsity": sparsity})
    newer = path.read_bytes()
    refused(lambda: rewrite_manifest(bundle, changed), path)
    assert path.read_bytes() == newer


@pytest.mark.parametrize("name", ["encoder.onnx", WEIGHTS])
@pytest.mark.parametrize("change", CHANGES)
def test_the_repository_for_triton(
    mini_bundle: Path, tmp_path: Path, name: str, change: Change
) -> None:
    bundle = open_bundle(mini_bundle)
    change(mini_bundle / name)
    options = TritonOptions(
        stages=bundle.manifest.stages, backend="onnxruntime", plans=tmp_path, views=2
    )
    refused(
        lambda: write_repository(bundle, options, tmp_path / "out", force=False), mini_bundle / name
    )
    assert not (tmp_path / "out").exists()


class Parser:
    """Records what TensorRT's parser is given, with the methods of 10.13 and later."""

    def __init__(self) -> None:
        self.weights: dict[str, tuple[int, int]] = {}

    def load_model_proto(self, data: bytes, path: str) -> bool:
        return True

    def load_initializer(self, name: str, address: int, size: int) -> bool:
        self.weights[name] = (address, size)
        return True

    def parse_model_proto(self) -> bool:
        return True


@pytest.fixture
def mappings() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("name", ["encoder.onnx", WEIGHTS])
@pytest.mark.parametrize("change", CHANGES)
def test_the_build_of_an_engine(
    mini_bundle: Path, mappings: ExitStack, name: str, change: Change
) -> None:
    graph = open_bundle(mini_bundle).graph(open_bundle(mini_bundle).manifest.stage("encoder"))
    parser = Parser()
    parse_graph(parser, graph, mappings)
    assert parser.weights["w"][1] == 48
    change(mini_bundle / name)
    refused(lambda: parse_graph(parser, graph, mappings), mini_bundle / name)


def test_the_build_of_a_single_file(mini_bundle: Path) -> None:
    graph = verified_onnx(mini_bundle / "encoder.onnx")
    assert list(graph.data) == [WEIGHTS]
    in_place(mini_bundle / WEIGHTS)
    refused(graph.check_data, mini_bundle / WEIGHTS)


def test_a_file_that_changes_while_it_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(3 << 20))
    read = os.pread

    def slow(descriptor: int, size: int, offset: int) -> bytes:
        if offset == 1 << 20:
            with path.open("r+b") as stream:
                stream.write(b"changed")
        return read(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", slow)
    refused(lambda: VerifiedFile(path), path)


def test_an_opened_bundle_is_not_copied(mini_bundle: Path) -> None:
    bundle = open_bundle(mini_bundle)
    for call in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(CovisError, match="cannot be copied or sent to another process; pass"):
            call(bundle.weights)
    with pytest.raises(CovisError, match="cannot be copied"):
        pickle.dumps(bundle)


def open_files(folder: Path) -> int:
    """Count the descriptors of this process that are open in a folder."""
    return sum(folder in Path(os.path.realpath(d)).parents for d in Path("/proc/self/fd").iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's list of descriptors")
def test_files_are_closed_with_their_bundle(mini_bundle: Path) -> None:
    folder = mini_bundle.resolve()
    for _ in range(3):
        bundle = open_bundle(mini_bundle)
    assert open_files(folder) == 4
    del bundle
    assert open_files(folder) == 0

"""Incomplete, damaged or foreign datasets: one line names the file, and the rest goes on."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from covis.cli import run_command
from covis.commands.demo import demo_bundle
from covis.engines.errors import CovisError
from covis.evaluation.datasets import NAMES, open_dataset
from covis.evaluation.datasets.co3d import Co3d, frame_annotations
from covis.evaluation.datasets.files import read_cloud
from covis.evaluation.datasets.truth import GroundTruth, sample_views

pytest.importorskip("scipy", reason="readers need the extra `eval`")
pytest.importorskip("pycolmap", reason="readers need the extra `eval`")
pytest.importorskip("av", reason="videos are written with PyAV")
from tests.evaluation.datasets import layouts, rigs
from tests.evaluation.datasets.layouts import H, Known, W, known


@pytest.fixture(scope="module")
def scene() -> Known:
    return known()


# Of each dataset: how to write it, the scene's name, a file without which it cannot be loaded.
Writer = Callable[[Path, Known], None]
SCAN = np.random.default_rng(0).normal(size=(50, 3))
WRITERS: dict[str, tuple[Writer, str]] = {
    "realestate10k": (layouts.write_realestate10k, "test/0a1b2c.txt"),
    "7scenes": (layouts.write_seven_scenes, "chess/seq-03/frame-000001.pose.txt"),
    "nrgbd": (layouts.write_nrgbd, "whiteroom/poses.txt"),
    "scannet": (layouts.write_scannet, "scans_test/scene0707_00/intrinsic/intrinsic_color.txt"),
    "eth3d": (
        lambda root, scene: layouts.write_eth3d(root, scene, lambda i, r: r[:, 2]),
        "pipes/dslr_calibration_jpg/cameras.txt",
    ),
    "tanks_temples": (
        lambda root, scene: layouts.write_tanks_temples(
            root, scene, model=False, scan=SCAN, motion=np.eye(4)
        ),
        "Barn/Barn.json",
    ),
    "dtu": (
        lambda root, scene: layouts.write_dtu(root, scene, mvsnet=False, scan=SCAN),
        "Calibration/cal18/pos_002.txt",
    ),
    "co3d": (layouts.write_co3d, "apple/frame_annotations.jgz"),
    "stereodemo": (
        lambda root, scene: rigs.write_pair(root / "oak-d", "desk_left", "desk_right", scene),
        "oak-d/stereodemo_calibration.json",
    ),
    "pose2sim": (
        lambda root, scene: rigs.write_pose2sim(root, rigs.two_views(scene)),
        "Demo_Batch/calibration/Calib.qca.txt",
    ),
}


def first_truth(name: str, root: Path) -> GroundTruth:
    dataset = (
        Co3d((str(root),), min_frames=2) if name == "co3d" else open_dataset(name, [str(root)])
    )
    return dataset.load(dataset.scenes()[0])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sequence", [{"sequence": 1}]),
        ("sequence", {"a": 1}),
        ("frame", {"a": 1}),
        ("frame", [{"sequence_name": "110_1_2", "frame_number": n} for n in (1, 2, 3, 4)]),
        ("frame", [{"frame_number": 1}]),
        ("frame", []),
    ],
)
def test_co3d_annotations_of_another_form(
    tmp_path: Path, scene: Known, name: str, content: Any
) -> None:
    layouts.write_co3d(tmp_path, scene)
    with gzip.open(tmp_path / "apple" / f"{name}_annotations.jgz", "wt") as file:
        json.dump(content, file)
    frame_annotations.cache_clear()
    with pytest.raises(CovisError, match=r"apple.* is damaged \("):
        first_truth("co3d", tmp_path)


def test_all_datasets_are_here() -> None:
    assert set(WRITERS) | {"synthetic"} == set(NAMES)


@pytest.mark.parametrize("name", WRITERS)
def test_half_a_dataset_is_reported_in_one_line(tmp_path: Path, scene: Known, name: str) -> None:
    """A missing folder, an empty one, one without a file, one with that file cut short."""
    write, file = WRITERS[name]
    with pytest.raises(CovisError, match="nowhere: no such folder"):
        open_dataset(name, [str(tmp_path / "nowhere")]).scenes()
    (tmp_path / "empty").mkdir()
    with pytest.raises(CovisError, match="is missing: "):
        open_dataset(name, [str(tmp_path / "empty")]).scenes()
    write(tmp_path / "whole", scene)
    assert len(first_truth(name, tmp_path / "whole")) >= 2
    path = tmp_path / "whole" / file
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2 - 3])
    errors = []
    for change in (lambda: None, path.unlink):
        change()
        frame_annotations.cache_clear()
        with pytest.raises(CovisError) as caught:
            first_truth(name, tmp_path / "whole")
        errors.append(str(caught.value))
    assert all("\n" not in error and " is " in error for error in errors), errors
    assert "is damaged" in errors[0] and "is missing" in errors[1], errors


@pytest.mark.parametrize("name", ["7scenes", "nrgbd", "scannet", "eth3d", "co3d"])
def test_missing_depth_is_reported_when_it_is_sampled(
    tmp_path: Path, scene: Known, name: str
) -> None:
    WRITERS[name][0](tmp_path, scene)
    truth = first_truth(name, tmp_path)
    assert truth.depth is not None
    pixels = np.array([[W / 2, H / 2]])
    truth.depth[1](pixels)
    hidden = [p for p in tmp_path.rglob("*") if p.is_file() and "depth" in p.as_posix()
              and "mask" not in p.as_posix()]  # fmt: skip
    for path in hidden:
        path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CovisError, match="is damaged"):
        truth.depth[1](pixels)
    for path in hidden:
        path.unlink()
    with pytest.raises(CovisError, match="is missing: no such file"):
        truth.depth[1](pixels)


def damage(path: Path, rng: random.Random) -> None:
    """Remove, cut, empty, change, replace, double a file, or exchange a word of it."""
    data, kind = bytearray(path.read_bytes()), rng.randrange(7)
    if kind == 0:
        path.unlink()
        return
    if kind == 1:
        data = data[: rng.randrange(len(data) + 1)]
    elif kind == 2:
        data.clear()
    elif kind == 3:
        for _ in range(rng.choice([1, 5, 50])):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 4:
        data = bytearray(rng.randbytes(rng.randrange(200)))
    elif kind == 5:
        data = data + data
    elif words := data.split():
        words[rng.randrange(len(words))] = bytearray(
            rng.choice([b"nan", b"inf", b"-1", b"99999999999", b"x", b"0"])
        )
        data = bytearray(b" ".join(words))
    path.write_bytes(data)


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_files_never_end_in_a_traceback(tmp_path: Path, scene: Known, name: str) -> None:
    """Seeded; `COVIS_FUZZ_ROUNDS` makes it longer."""
    WRITERS[name][0](tmp_path / "whole", scene)
    for seed in range(int(os.environ.get("COVIS_FUZZ_ROUNDS", "5"))):
        rng = random.Random(f"{name} {seed}")
        root = tmp_path / f"{seed}"
        shutil.copytree(tmp_path / "whole", root)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        for path in rng.sample(files, rng.choice([1, 2])):
            damage(path, rng)
        frame_annotations.cache_clear()
        try:
            truth = sample_views(first_truth(name, root), 3)
            for sampler in truth.depth or ():
                sampler(np.array([[3.0, 3.0], [1e3, -5.0]]))
            for mask in (truth.judged, truth.demanded):
                if mask is not None and truth.points is not None:
                    mask(truth.points)
        except CovisError as error:
            assert "\n" not in str(error)


def test_a_real_layout_through_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """NRGBD with a whole scene, one of NaN poses and one without a photo."""
    scene = known(3)
    root = tmp_path / "nrgbd"
    layouts.write_nrgbd(root, scene)
    shutil.copytree(root / "whiteroom", root / "kitchen")
    shutil.copytree(root / "whiteroom", root / "staircase")
    (root / "kitchen" / "poses.txt").write_text("nan nan nan nan\n" * 12)
    (root / "staircase" / "images" / "img1.png").write_bytes(b"")
    out = tmp_path / "out"
    command = ["eval", str(demo_bundle()), "nrgbd", str(root), "--out", str(out), "--views", "2",
               "--max-points", "500", "--threads", "1"]  # fmt: skip
    assert run_command(command) == 2
    errors = capsys.readouterr().err
    assert "kitchen: has 0 usable views (3 without a usable camera), and a pair needs two" in errors
    assert f"staircase, {root}/staircase/images/img1.png: is empty (0 bytes)" in errors
    assert errors.splitlines()[-1].startswith("covis: 2 of 3 scenes could not be evaluated; ")
    report = json.loads((out / "results.json").read_text())
    assert set(report["failed"]) == {"kitchen", "staircase"}
    (record,) = report["scenes"]
    assert record["scene"] == "whiteroom" and record["dropped_views"] == 1
    assert record["abs_rel"] is not None and record["chamfer"] is not None


def test_texture_that_a_ply_names_is_not_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It could be of any format, and of any place."""
    path = tmp_path / "a.ply"
    rows = "0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
    path.write_text(
        "ply\nformat ascii 1.0\ncomment TextureFile ../secret.jpg\nelement vertex 3\n"
        "property float x\nproperty float y\nproperty float z\n"
        f"element face 1\nproperty list uchar int vertex_indices\nend_header\n{rows}"
    )
    np.testing.assert_array_equal(read_cloud(path), [[0, 0, 0], [1, 0, 0], [0, 1, 0]])
    assert not caplog.records  # trimesh logs a texture that it cannot open

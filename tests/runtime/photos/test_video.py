"""Videos as photos: every frame is the one that its name says, upright, at the right time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from covis.engines.bundle.pixel_rule import PixelRule
from covis.engines.errors import CovisError, ExitCode
from covis.runtime.photos import video_reader
from covis.runtime.photos.batch import FRAMES_AT_ONCE
from covis.runtime.photos.images import load_images
from covis.runtime.photos.options import PhotoOptions
from covis.runtime.photos.selection import load_photos, select_photos
from covis.runtime.photos.video import Video, VideoFrame, scan
from tests.peak_memory import PEAK
from tests.places import ROOT
from tests.runtime.photos.videos import HEIGHT, WIDTH, frame, write_video

av = pytest.importorskip("av")
RULE = PixelRule("vggt_crop", 28, 42)
QUARTER = 1 << 16


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    return write_video(folder / "clip.mp4", [frame(i) for i in range(60)])


def decoded(path: Path) -> list[NDArray[np.uint8]]:
    """Return all frames as PyAV gives them from the beginning to the end."""
    with av.open(str(path)) as container:
        return [np.asarray(picture.to_image()) for picture in container.decode(video=0)]


def pixels(picture: VideoFrame) -> NDArray[np.uint8]:
    return np.asarray(picture.decode())


def indices(photos: object) -> list[int]:
    assert isinstance(photos, tuple)
    return [photo.index for photo in photos]


# Frames


def test_frames_are_listed_without_decoding(clip: Path) -> None:
    video = scan(clip)
    assert len(video) == 60 and video.size == (HEIGHT, WIDTH) and not video.notes
    np.testing.assert_allclose(video.seconds, np.arange(60) / 30, atol=1e-9)
    assert len(set(video.keyframes)) > 4
    assert video.frame(7).name == "clip_000007.jpg"


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("mp4", "mpeg4"), ("mov", "mpeg4"), ("avi", "mpeg4"), ("mkv", "mpeg4"),
        ("webm", "libvpx"), ("m2ts", "mpeg2video"), ("mp4", "libx264"),
    ],
)  # fmt: skip
def test_every_frame_is_found_in_any_order(tmp_path: Path, suffix: str, codec: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    path = write_video(tmp_path / f"a.{suffix}", [frame(i) for i in range(40)], codec=codec)
    expected, video = decoded(path), scan(path)
    assert len(video) == len(expected) == 40
    for index in [*range(40), 39, 0, 17, 16, 35, 3, 38]:
        np.testing.assert_array_equal(pixels(video.frame(index)), expected[index])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_frames_are_decoded_in_a_forked_process(clip: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from covis.runtime.photos.video import scan\n"
        "video = scan(Path(sys.argv[1]))\n"
        "expected = [np.asarray(video.frame(i).decode()) for i in range(20)]\n"
        "child = os.fork()\n"
        "signal.alarm(60)\n"
        "for i in range(20):\n"
        "    np.testing.assert_array_equal(video.frame(i).decode(), expected[i])\n"
        "child and sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, clip], cwd=ROOT, check=True)


def test_frames_in_order_are_decoded_once(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = scan(clip)
    count = 0
    frames = video_reader.VideoReader.frames

    def counted(self: video_reader.VideoReader, keyframe: int | None = None) -> object:
        nonlocal count
        for picture in frames(self, keyframe):
            count += 1
            yield picture

    monkeypatch.setattr(video_reader.VideoReader, "frames", counted)
    for index in range(60):
        video.frame(index).decode()
    assert count == 60
    count = 0
    for index in (0, 59):  # seeks past the groups between them
        video.frame(index).decode()
    assert count < 12


def test_frames_are_right_from_several_threads(clip: Path) -> None:
    expected, video = decoded(clip), scan(clip)
    photos = [video.frame(i) for i in range(60)]
    images = load_images(photos, RULE, threads=4)
    assert len(photos) > 3 * FRAMES_AT_ONCE
    np.testing.assert_array_equal(images.uint8, load_images(expected, RULE).uint8)
    assert images.names[59] == "clip_000059.jpg" and images.paths == (None,) * 60
    assert images.sources[59] == photos[59]
    assert images.original_sizes.tolist() == [[HEIGHT, WIDTH]] * 60
    assert threading.active_count() < 20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_long_video_does_not_grow(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [np.zeros((720, 1280, 3), np.uint8)] * 120)
    code = PEAK + (
        "import sys\n"
        "from covis.engines.bundle.pixel_rule import PixelRule\n"
        "from covis.runtime.photos.images import load_images\n"
        "from covis.runtime.photos.video import scan\n"
        "video, peaks = scan(Path(sys.argv[1])), []\n"
        "for count in (20, 120):\n"
        "    frames = [video.frame(i) for i in range(count)]\n"
        "    load_images(frames, PixelRule('vggt_crop', 28, 42), threads=1)\n"
        "    peaks.append(peak())\n"
        "print((peaks[1] - peaks[0]) / 1024)"
    )
    command = [sys.executable, "-c", code, path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 100  # MiB; 100 more frames would be 264


# Turned, stretched, coloured


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),  # a phone held upright
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((1, 0, 0, 1), lambda image: image),
    ],
)
def test_frames_are_upright(tmp_path: Path, matrix: tuple[int, ...], turn: object) -> None:
    a, b, c, d = (value * QUARTER for value in matrix)
    path = write_video(tmp_path / "a.mp4", [frame(0)] * 3, matrix=(a, b, 0, c, d, 0, 0, 0, 1 << 30))
    video = scan(path)
    expected = turn(decoded(path)[1])  # type: ignore[operator]
    np.testing.assert_array_equal(pixels(video.frame(1)), expected)
    assert video.size == expected.shape[:2]


def test_pixels_that_are_not_square_are_stretched(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [frame(0)] * 3, aspect=Fraction(3, 2))
    video = scan(path)
    assert video.size == pixels(video.frame(1)).shape[:2] == (HEIGHT, WIDTH * 3 // 2)


def test_colours_are_those_of_the_picture(clip: Path) -> None:
    shown = pixels(scan(clip).frame(30)).astype(int)
    assert np.abs(shown[4, 4] - (230, 20, 20)).max() < 12
    assert np.abs(shown[-4, -4] - 120).max() < 6


def test_hdr_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265" if "libx265" in av.codecs_available else "mpeg4")
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.color_trc = 18
        for _ in range(3):
            picture = av.VideoFrame.from_ndarray(frame(0), format="rgb24")
            picture.color_trc = 18
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    (note,) = scan(path).notes
    assert note == "a.mp4 is HDR video (HLG), used without tone mapping: its colours are pale"


# Which frames


def test_two_frames_a_second_by_default(clip: Path) -> None:
    selection = select_photos(clip)
    assert indices(selection.photos) == [0, 15, 30, 45]
    assert selection.notes == (
        "clip.mp4: 4 of 60 frames are taken, at most 2 a second (--fps changes it)",
    )
    assert selection.names[1] == "clip_000015.jpg"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (PhotoOptions(fps=1), [0, 30]),
        (PhotoOptions(fps=3), [0, 10, 20, 30, 40, 50]),
        (PhotoOptions(fps=0.1), [0]),
        (PhotoOptions(fps=1000), list(range(60))),
        (PhotoOptions(every=25), [0, 25, 50]),
        (PhotoOptions(fps=3, every=2), [0, 20, 40]),
        (PhotoOptions(max_views=3), [0, 30, 59]),
        (PhotoOptions(max_views=1), [0]),
        (PhotoOptions(fps=3, max_views=2), [0, 50]),
    ],
)
def test_options_choose_frames(clip: Path, options: PhotoOptions, expected: list[int]) -> None:
    selection = select_photos(clip, options)
    assert indices(selection.photos) == expected
    assert selection.notes == (f"clip.mp4: {len(expected)} of 60 frames are taken",)


def test_uneven_frames_are_taken_by_their_times(tmp_path: Path) -> None:
    times = [0, 100, 480, 520, 530, 540, 550, 1900, 2010, 2500]
    path = write_video(tmp_path / "a.mkv", [frame(i) for i in range(10)], times=times)
    selection = select_photos(path)
    # Nearest to 0, 0.5, (1: none), (1.5: none), 2 and 2.5 seconds.
    assert indices(selection.photos) == [0, 2, 8, 9]


def test_too_many_views_are_refused_with_the_cure(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from covis.runtime.photos import selection

    monkeypatch.setattr(selection, "MOST_VIEWS_AT_ONCE", 10)
    with pytest.raises(CovisError, match=r"photos: 60 views are more than the 10 .*--max-views"):
        select_photos(clip, PhotoOptions(fps=30))


def test_views_that_look_different_are_chosen(tmp_path: Path) -> None:
    """A camera that stands still, then moves: the stretch at rest gives one view."""
    rest = [picture(0)] * 40
    moving = [picture(i) for i in range(1, 11)]
    path = write_video(tmp_path / "a.mp4", [*rest, *moving])
    options = PhotoOptions(fps=30, max_views=8, choose="kcenter")
    chosen = indices(select_photos(path, options).photos)
    assert len(chosen) == 8 and chosen == sorted(chosen) and chosen[0] == 0
    assert sum(index < 40 for index in chosen) == 1
    assert chosen == indices(select_photos(path, options).photos)


def picture(seed: int) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)


def test_videos_beside_photos_are_taken_in_name_order(tmp_path: Path, clip: Path) -> None:
    from PIL import Image

    for name in ("a.png", "z.png"):
        Image.fromarray(frame(0)).save(tmp_path / name)
    shutil.copy(clip, tmp_path / "m.mp4")
    images = load_photos(tmp_path, RULE, PhotoOptions(fps=1))
    assert images.names == ("a.png", "m_000000.jpg", "m_000030.jpg", "z.png")
    assert images.notes == ("m.mp4: 2 of 60 frames are taken",)


def test_notes_of_odd_names_are_one_line(tmp_path: Path, clip: Path) -> None:
    for name in ("a\nb.mp4", "c:d.mp4", "%03d.mp4", "-x.mp4"):
        shutil.copy(clip, tmp_path / name)
    images = load_photos(tmp_path, RULE, PhotoOptions(fps=0.1))
    assert images.names == ("%03d_000000.jpg", "-x_000000.jpg", "a\nb_000000.jpg", "c:d_000000.jpg")
    assert len(images.notes) == 4 and not any("\n" in note for note in images.notes)


def test_two_videos_of_one_stem_keep_different_names(tmp_path: Path, clip: Path) -> None:
    for suffix in ("mp4", "m4v"):
        shutil.copy(clip, tmp_path / f"a.{suffix}")
    assert select_photos(tmp_path, PhotoOptions(fps=0.1)).names == (
        "a_000000.jpg", "a_000000 (2).jpg",
    )  # fmt: skip


# Broken and hostile files


def test_a_video_that_breaks_off_gives_its_frames_so_far(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", [picture(i) for i in range(60)])
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    images = load_photos(path, RULE, PhotoOptions(fps=30))
    assert 20 < len(images) < 50
    assert any("a.mkv breaks off" in note for note in images.notes)
    assert images.names[0] == "a_000000.jpg"


def test_frames_that_cannot_be_decoded_are_counted(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", [picture(i) for i in range(60)])
    data = bytearray(path.read_bytes())
    start, end = len(data) // 2, len(data) - 4000
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    images = load_photos(path, RULE, PhotoOptions(fps=30))
    assert 10 < len(images) < 50
    assert len(images.notes) == 2
    assert f"passed over {60 - len(images)} frames of {path}: frame " in images.notes[1]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a.mp4: is no video that can be read .*; replace or remove it"),
        (b"not a video at all" * 100, "a.mp4: is no video that can be read"),
        # FFmpeg would read the files that such lists name.
        (b"ffconcat version 1.0\nfile clip.mp4\n", "a.mp4: is no video that can be read"),
        (
            b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
            "a.mp4: is no video that can be read",
        ),
    ],
)
def test_files_that_are_no_video(tmp_path: Path, clip: Path, data: bytes, message: str) -> None:
    shutil.copy(clip, tmp_path / "clip.mp4")
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(CovisError, match=message) as caught:
        select_photos(tmp_path / "a.mp4")
    assert caught.value.code == ExitCode.USER and "\n" not in str(caught.value)
    with pytest.raises(CovisError, match="or pass over it with --skip-bad"):
        select_photos(tmp_path)
    selection = select_photos(tmp_path, PhotoOptions(skip_bad=True))
    assert len(selection.photos) == 4
    assert any(note.startswith(f"passed over {tmp_path / 'a.mp4'}") for note in selection.notes)


def test_sound_without_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(CovisError, match=r"a\.mp4: has no video stream; give a video"):
        scan(path)


def test_a_size_that_memory_does_not_allow(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_reader, "MAX_PIXELS", 1000)
    with pytest.raises(CovisError, match="claims 64 x 48 pixels, more than"):
        scan(clip)


def test_random_damage_never_escapes_as_another_error(clip: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    path = tmp_path / "a.mp4"
    whole = clip.read_bytes()
    refused = 0
    for _ in range(40):
        data = bytearray(whole)
        for position in rng.integers(0, len(data), 12):
            data[position] = rng.integers(256)
        path.write_bytes(bytes(data[: int(rng.integers(len(data) // 2, len(data) + 1))]))
        try:
            load_photos(path, RULE, PhotoOptions(fps=8))
        except CovisError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 5


def test_nothing_is_printed_by_the_decoders(
    clip: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(clip.read_bytes()[:-3000])
    with pytest.raises(CovisError):
        scan(path)
    captured = capfd.readouterr()
    assert not captured.out and not captured.err


def test_without_pyav_the_extra_is_named(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        CovisError, match=r"PyAV is not installed; pip install 'covis\[video\]'"
    ) as c:
        select_photos(clip)
    assert c.value.code == ExitCode.ENVIRONMENT
    selection = select_photos([frame(0), clip], PhotoOptions(skip_bad=True))
    (note,) = selection.notes
    assert note == f"passed over {clip}: PyAV is not installed (pip install 'covis[video]')"


def test_videos_are_plain_data(clip: Path) -> None:
    import pickle

    video: Video = scan(clip)
    assert pickle.loads(pickle.dumps(video.frame(3))) == video.frame(3)

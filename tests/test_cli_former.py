"""Former spellings of the command line: accepted for one version, with one line of notice each."""

from __future__ import annotations

import pytest

from covis.cli import _unboxed, run_command
from covis.commands.former import renew

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("command", "words", "present"),
    [
        ("run", "b p --provider cuda", "b p --backend cuda"),
        ("run", "--provider=cuda b p", "b p --backend cuda"),
        ("run", "b p --provider cpu --chunk 3", "b p --chunk 3 --backend cpu"),
        ("bench", "b --backend onnxruntime", "b --backend cpu"),
        ("bench", "b --backend onnxruntime --provider cuda", "b --backend cuda"),
        ("compare", "b p --backend onnxruntime-tensorrt", "b p --backend ort-tensorrt"),
        ("run", "b p --backend=tensorrt --provider cuda", "b p --backend tensorrt"),
        ("estimate", "b --views 4 --backend onnxruntime", "b --views 4 --backend cpu"),
        ("run", "b p --reference False", "b p --no-reference"),
        ("eval", "b d p --low-precision=True", "b d p --low-precision"),
    ],
)
def test_former_spellings(command: str, words: str, present: str) -> None:
    found, notices = renew(command, words.split())
    assert found == present.split()
    assert len(notices) == 1 and notices[0].startswith("`--") and " is now `--" in notices[0]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("run", "b p --backend cuda"),
        ("run", "b p --backend vulkan --provider cuda"),  # the parser rejects both
        ("run", "b p --no-reference --low-precision --out o"),
        ("run", "b p --provider"),
        ("triton", "b --backend onnxruntime"),  # Triton's own name of its backend
        ("build", "b --reference False"),
    ],
)
def test_present_spellings_stay_as_they_are(command: str, words: str) -> None:
    assert renew(command, words.split()) == (words.split(), [])


def test_notices_go_to_standard_error(capsys: Captured) -> None:
    words = ["run", "nowhere", "p", "--out", "o", "--provider", "cpu", "--reference", "True"]
    assert run_command(words) == 2
    out, err = capsys.readouterr()
    first, second, error = err.splitlines()
    assert not out and error.startswith("covis: nowhere: no such bundle folder")
    assert first.startswith("covis: `--provider cpu` is now `--backend cpu`; the former spelling")
    assert second.startswith("covis: `--reference True` is now `--reference`; ")


@pytest.mark.parametrize(
    "text",
    [
        "╭─ Value error ─────╮\n│ Error parsing     │\n│ --chunk: 'x'.     │\n"
        "│ ───────────────── │\n│ For full helptext │\n╰───────────────────╯\n",
        " Value error       \n ----------------- \n  Error parsing     \n  --chunk: 'x'.     \n"
        "  ----------------- \n  For full helptext \n",
        "Error parsing --chunk: 'x'.\n",
    ],
)
def test_the_parsers_message_in_every_style(text: str) -> None:
    """Drawn boxes, boxes of a terminal without such characters, and no box."""
    assert _unboxed(text) == "Error parsing --chunk: 'x'"
    assert _unboxed("") == "the arguments are not understood"

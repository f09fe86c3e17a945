"""The error type: one line, safe to print, and unchanged after pickling between processes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from covis.engines.errors import (
    CovisError,
    ExitCode,
    GpuOutOfMemoryError,
    environment_error,
    numerics_error,
    printable,
    user_error,
)


@pytest.mark.parametrize(
    ("make", "code"), [(user_error, 2), (environment_error, 3), (numerics_error, 4)]
)
def test_codes_and_words(make: type[CovisError], code: int) -> None:
    error = make("is wrong", where=Path("a/b"), hint="mend it")  # type: ignore[arg-type]
    assert int(error.code) == code
    assert str(error) == "a/b: is wrong; mend it"
    assert str(make("is wrong")) == "is wrong"  # type: ignore[arg-type]


def test_shells_know_the_code_of_an_interrupt() -> None:
    assert ExitCode.INTERRUPTED == 130


def test_pickling_keeps_everything() -> None:
    error = user_error("is wrong", where="x\n", hint="mend it")
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == vars(error) and str(again) == str(error) and type(again) is CovisError


def test_full_gpu() -> None:
    error = GpuOutOfMemoryError("500 views", free=10 * 2**30, hint="use at most 312", views=312)
    text = "the GPU is out of memory: 500 views do not fit (10.0 GiB are free); use at most 312"
    assert str(error) == text and error.code == 3
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is GpuOutOfMemoryError and vars(again) == vars(error)
    assert str(again) == str(again.args[0]) == text


def test_moved_errors_keep_their_class() -> None:
    error = GpuOutOfMemoryError("2 views", views=1).replaced(where="scene\n1", hint="wait")
    assert isinstance(error, GpuOutOfMemoryError) and error.views == 1
    assert str(error) == r"scene\n1: the GPU is out of memory: 2 views do not fit; wait"
    assert str(error.replaced(where="")) == "the GPU is out of memory: 2 views do not fit; wait"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain ä 写真.jpg", "plain ä 写真.jpg"),
        ("a\nb", r"a\nb"),
        ("\x1b[2Jx\x07", r"\x1b[2Jx\x07"),
        ("tab\tcr\r", r"tab\tcr\r"),
        ("\u202egpj.exe", r"\u202egpj.exe"),
        ("\udcff", r"\udcff"),
    ],
)
def test_names_are_shown_on_one_line(name: str, shown: str) -> None:
    assert printable(name) == shown
    assert str(user_error("is bad", where=name)) == f"{shown}: is bad"

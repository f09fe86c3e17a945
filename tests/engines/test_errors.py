"""The one error type: one line, safe to print, and whole after a trip between processes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from covis.engines.errors import (
    CovisError,
    ExitCode,
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

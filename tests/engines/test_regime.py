"""Regimes and schedules as users write them: what is read, what is refused, and the way back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covis.engines.errors import CovisError, ExitCode
from covis.engines.regime import Regime, RegimeKind, format_schedule, parse_regime, parse_schedule

SELF, DENSE = Regime("self"), Regime()


@pytest.mark.parametrize(
    ("text", "regime"),
    [
        ("dense", DENSE),
        ("self", SELF),
        ("saliency", Regime("saliency")),
        ("saliency=0.85", Regime("saliency", tau=0.85)),
        ("saliency=0", Regime("saliency", tau=0.0)),
        ("saliency=1.0", Regime("saliency", tau=1.0)),
        ("anchors", Regime("anchors")),
        ("anchors=25", Regime("anchors", anchors=25)),
        ("pooled", Regime(pooled=True)),
        ("pooled=.5", Regime(pooled=True, keep_ratio=0.5)),
        ("dense+pooled", Regime(pooled=True)),
        ("self+pooled=0.5", Regime("self", pooled=True, keep_ratio=0.5)),
        ("anchors=40+pooled=0.25", Regime("anchors", anchors=40, pooled=True, keep_ratio=0.25)),
        ("saliency+pooled", Regime("saliency", pooled=True)),
    ],
)
def test_regimes(text: str, regime: Regime) -> None:
    assert parse_regime(text) == regime
    assert parse_regime(str(regime)) == regime
    assert regime.is_dense == (text == "dense")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kcenter", "'kcenter' is no regime; use one of dense, self, saliency, anchors, pooled"),
        ("", "'' is no regime"),
        ("Anchors=3", "'Anchors' is no regime"),
        ("light", "'light' is no regime"),
        ("self=1", "'self' takes no number, but 'self=1' has one"),
        ("dense=", "'dense' takes no number"),
        ("anchors=0", "'0' in 'anchors=0' is no number of anchors from 1 to 1,000,000; for layers"),
        ("anchors=-1", "is no number of anchors"),
        ("anchors=2.5", "is no number of anchors"),
        ("anchors=1000001", "is no number of anchors"),
        ("anchors=99999999", "is no number of anchors"),
        ("anchors=٣", "is no number of anchors"),
        ("anchors=", "'' in 'anchors=' is no number of anchors"),
        ("anchors=25/3", "'25/3' in 'anchors=25/3' is no number of anchors"),
        ("saliency=1.1", "'1.1' in 'saliency=1.1' is not in [0, 1]; give a number from 0 to 1"),
        ("saliency=nan", "'nan' in 'saliency=nan' is not in [0, 1]"),
        ("saliency=1e-3", "is not in [0, 1]"),
        ("pooled=-0.1", "is not in [0, 1]"),
        ("pooled=2", "is not in [0, 1]"),
        ("pooled+anchors=3", "combines more than pairs of views and pooled blocks"),
        ("anchors=3+saliency=0.5", "combines more than pairs of views and pooled blocks"),
        ("self+pooled+pooled", "combines more than pairs of views and pooled blocks"),
        ("self+pooled3", "'pooled3' is no regime"),
        ("self+", "combines more than pairs of views and pooled blocks"),
    ],
)
def test_what_is_no_regime(text: str, message: str) -> None:
    with pytest.raises(CovisError, match=re.escape(message)) as caught:
        parse_regime(text)
    assert caught.value.code == ExitCode.USER and caught.value.where == "--schedule"


def test_a_schedule_gives_each_layer_its_regime() -> None:
    few, many = (Regime("anchors", anchors=n) for n in (10, 40))
    text = "0-1:self, 2-8:anchors=10, 9-23:anchors=40"
    assert parse_schedule(text, 24) == (SELF,) * 2 + (few,) * 7 + (many,) * 15
    assert parse_schedule(" 3 : self ,rest:dense", 5) == (DENSE,) * 3 + (SELF, DENSE)
    assert parse_schedule("rest:self,1:dense", 3) == (SELF, DENSE, SELF)
    assert parse_schedule("all:anchors=10", 2) == (few, few)
    assert parse_schedule("2:self,0-1:dense", 3) == (DENSE, DENSE, SELF)  # in any order
    assert parse_schedule("0-2:self,rest:dense", 3) == (SELF,) * 3


def test_without_a_depth_the_entries_are_read() -> None:
    assert parse_schedule("0-1:self, 7-900:anchors") == (SELF, Regime("anchors"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0-3:self, 3-7:dense", "names layer 3 twice; make the ranges end before the next"),
        ("0-7:self, 5:dense", "names layer 5 twice"),
        ("rest:self, rest:dense", "'rest' is given twice"),
        ("0-6:self", 'leaves out layer 7 of the model\'s 8; name 0 to 7, or add "rest:dense"'),
        ("1-7:self", "leaves out layer 0 of the model's 8"),
        ("0-2:self, 4-7:self", "leaves out layer 3 of the model's 8"),
        ("0-8:self", "the model has no global layer 8; use 0 to 7"),
        ("all:self, 99:dense", "'all' is no layer or range of layers"),
        ("rest:self, 99:dense", "the model has no global layer 99; use 0 to 7"),
        ("self", "'self' is no entry LAYERS:REGIME"),
        (":self", "':self' is no entry LAYERS:REGIME"),
        ("0-7:", "'0-7:' is no entry LAYERS:REGIME"),
        ("0-7:self,", "'' is no entry LAYERS:REGIME"),
        ("   ", "'' is no entry LAYERS:REGIME"),
        ("0:1:self", "'0:1:self' is no entry LAYERS:REGIME"),
        ("7-0:self", "'7-0' is no layer or range of layers"),
        ("none:self", "'none' is no layer or range of layers"),
        ("-1:self", "'-1' is no layer or range of layers"),
        ("x:self", "'x' is no layer or range of layers"),
        ("0-99999:self", "'0-99999' is no layer or range of layers"),
        ("0:self," * 1000, "is longer than 4,096 characters"),
    ],
)
def test_what_is_no_schedule(text: str, message: str) -> None:
    with pytest.raises(CovisError, match=re.escape(f"--schedule: {message}")) as caught:
        parse_schedule(text, 8)
    assert caught.value.code == ExitCode.USER and "\n" not in str(caught.value)
    assert caught.value.hint


def test_neighbouring_layers_are_written_as_a_range() -> None:
    few = Regime("anchors", anchors=10)
    assert format_schedule((SELF, SELF, few, DENSE, DENSE)) == "0-1:self, 2:anchors=10, 3-4:dense"
    assert format_schedule(()) == ""


NANO = 10**9
SHARES = st.none() | st.integers(0, NANO).map(lambda n: n / NANO)
KINDS: list[RegimeKind] = ["dense", "self", "saliency", "anchors"]


@st.composite
def regimes(draw: st.DrawFn) -> Regime:
    kind, pooled = draw(st.sampled_from(KINDS)), draw(st.booleans())
    return Regime(
        kind,
        tau=draw(SHARES) if kind == "saliency" else None,
        anchors=draw(st.none() | st.integers(1, 1_000_000)) if kind == "anchors" else None,
        pooled=pooled,
        keep_ratio=draw(SHARES) if pooled else None,
    )


@given(st.lists(regimes(), min_size=1, max_size=24).map(tuple))
def test_a_schedule_written_out_is_read_back(schedule: tuple[Regime, ...]) -> None:
    assert parse_schedule(format_schedule(schedule), len(schedule)) == schedule


@given(st.text(max_size=20) | st.text("0123456789-:, =.+restallselfanchorspooled", max_size=40))
def test_any_text_gives_regimes_or_one_error(text: str) -> None:
    try:
        found = parse_schedule(text, 8)
    except CovisError as error:
        assert error.code == ExitCode.USER and error.where == "--schedule"
    else:
        assert len(found) == 8

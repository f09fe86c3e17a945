"""Help of the command line: every option of every command is explained, with its default."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import get_type_hints

import pytest

from covis.cli import COMMANDS, run_command
from covis.engines.options import CPU_CHUNK, GPU_CHUNK, RunOptions, Sparsity, SparsityChanges

Captured = pytest.CaptureFixture[str]
_WIDE = "100"  # columns; with more, tyro sets boxes side by side
_HINT = re.compile(r"\s*\((default:[^()]*|required[^()]*|repeatable[^()]*)\)$")
_CLAUSE = re.compile(r"(what|how|where|whether|which|is|of|from|by)\b", re.IGNORECASE)
_DANGLING = re.compile(r"\b(of|to|by|with|the|a|in|on)\.?$")


def options(text: str) -> Iterator[tuple[str, str]]:
    """(option, its help) for every row of a help text, in drawn and in plain boxes."""
    rows: list[list[str]] = []
    for line in text.splitlines():
        inner = re.sub(r"^(│ |  )|│$", "", line)
        if inner == line or not inner.strip(" ─-"):
            continue
        name, _, words = inner.strip().partition("  ")
        if inner.startswith(" ") and rows:  # goes on with the help of the row above
            rows[-1][1] = f"{rows[-1][1]} {inner.strip()}".strip()
        else:
            rows.append([name, words.strip()])
    return ((name, words) for name, words in rows if name.startswith("-") or words)


def help_of(command: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", _WIDE)
    assert run_command([command, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(
    command: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict(options(help_of(command, capsys, monkeypatch)))
    assert found.pop("-h, --help") == "show this help message and exit"
    assert command == "doctor" or found
    for option, text in found.items():
        hint = _HINT.search(text)
        words = _HINT.sub("", text)
        place = f"covis {command} {option}: {text!r}"
        assert len(words.split()) >= 3, f"{place} has no words of its own"
        assert words[0].isupper(), f"{place} does not begin with a capital letter"
        assert not _CLAUSE.match(words), f"{place} begins with a clause, not with a noun or a verb"
        assert words.endswith(".") and not _DANGLING.search(words), f"{place} is no sentence"
        assert hint is not None, f"{place} shows no default"
        assert hint[1] != "default: ", f"{place} shows an empty default"
        assert hint[1] != "default: None" or "Without it" in words, f"{place} does not explain None"


def test_the_rows_of_a_help_text_are_read(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check above sees each option, also one whose help begins on the next line."""
    found = dict(options(help_of("run", capsys, monkeypatch)))
    names = {name.split()[0].rstrip(",") for name in found}
    expected = {f"--{field.name.replace('_', '-')}" for field in fields(SparsityChanges)}
    assert expected | {"BUNDLE", "PHOTOS", "--chunk", "--backend", "--trust-plan"} <= names
    assert found["--conf-percentile FLOAT"].startswith("Share of the least confident points")


@pytest.mark.parametrize("command", ["run", "eval", "compare", "bench"])
def test_selector_options_show_the_default_of_the_bundle(
    command: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = dict(options(help_of(command, capsys, monkeypatch)))
    defaults = [text for text in found.values() if "(default: the bundle's" in text]
    assert len(defaults) >= len(fields(Sparsity))
    assert found["--tau FLOAT"].endswith("(default: the bundle's; 0.9 in a default export)")
    chunk = f"(default: {CPU_CHUNK} on a CPU, {GPU_CHUNK} on a GPU)"
    assert found["--chunk INT"].endswith(chunk)


def test_changes_are_the_fields_of_sparsity() -> None:
    """Their documentation is that of `Sparsity`, so the fields must be the same."""
    ours, theirs = get_type_hints(SparsityChanges), get_type_hints(Sparsity)
    assert list(ours) == list(theirs)
    assert all(ours[name] == theirs[name] | None for name in theirs)


@pytest.mark.parametrize("command", ["eval", "compare", "bench", "sweep", "tune", "profile"])
def test_an_option_without_effect_is_not_offered(command: str, capsys: Captured) -> None:
    """Only `covis run` reports the attention mass that probes measure."""
    assert run_command([command, "--probes", "3"]) == 2
    assert run_command([command, "--help"]) == 0
    assert "--probes" not in capsys.readouterr().out


def test_options_of_a_run_reach_the_command() -> None:
    """Workers receive them pickled, so the parsed class must be found by its name."""
    import pickle

    from covis.cli import _parse
    from covis.commands.eval import EvalCommand

    words = ["b", "synthetic", "p", "--out", "o", "--chunk", "5", "--no-kernel", "--threads", "2"]
    command = _parse(EvalCommand, "covis eval", words)
    assert isinstance(command, EvalCommand)
    again = pickle.loads(pickle.dumps(command.run))
    assert isinstance(again, RunOptions) and again == command.run
    assert (again.frames_at_once, again.kernel, again.threads) == (5, False, 2)
    assert not again.backend.on_gpu

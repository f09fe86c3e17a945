"""Former spellings of commands and options, accepted for one version with a notice each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

COMMANDS: Final = {"plan": "estimate"}
"""Former name of a command -> present name. TensorRT's engines alone are called plans now."""

_BACKENDS: Final = {"onnxruntime": "cpu", "onnxruntime-tensorrt": "ort-tensorrt"}
_WITH_BACKEND: Final = ("run", "compare", "bench", "estimate")
_WITH_SELECTOR: Final = ("run", "eval", "compare", "bench")


def renew(command: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments of a command in their present spelling, and a line for each change.

    `--provider cuda` and the backends named after ONNX Runtime become `--backend`;
    `--reference False` becomes `--no-reference`, and `--low-precision` likewise.

    Args:
        command: Present name of the command.
        arguments: What follows it on the command line.
    """
    words, notices = list(arguments), list[str]()
    if command in _WITH_BACKEND:
        words = _backend(words, notices)
    if command in _WITH_SELECTOR:
        for option in ("--low-precision", "--reference"):
            words = _switch(words, option, notices)
    return words, notices


def _backend(words: list[str], notices: list[str]) -> list[str]:
    provider, others = _take(words, "--provider")
    backend, others = _take(others, "--backend")
    known = backend is None or backend in _BACKENDS or backend == "tensorrt"
    if not known or (provider is None and backend not in _BACKENDS):
        return words
    # The other two backends ignored the provider.
    present = provider or "cpu" if backend in (None, "onnxruntime") else backend
    present = _BACKENDS.get(str(present), str(present))
    before = " ".join(
        f"{option} {value}"
        for option, value in (("--backend", backend), ("--provider", provider))
        if value is not None
    )
    notices.append(f"`{before}` is now `--backend {present}`")
    return [*others, "--backend", present]


def _switch(words: list[str], option: str, notices: list[str]) -> list[str]:
    value, others = _take(words, option)
    if value not in ("True", "False"):
        return words
    present = option if value == "True" else f"--no-{option.removeprefix('--')}"
    notices.append(f"`{option} {value}` is now `{present}`")
    return [*others, present]


def _take(words: list[str], option: str) -> tuple[str | None, list[str]]:
    """Return the value of an option, and the words without both; None where it has none."""
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name != option:
            continue
        if equals:
            return value, words[:i] + words[i + 1 :]
        if i + 1 < len(words):
            return words[i + 1], words[:i] + words[i + 2 :]
    return None, words

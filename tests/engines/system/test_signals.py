"""Ctrl-C during imports that would ignore it or treat it as a failure."""

from __future__ import annotations

import signal
import threading

import pytest

from covis.engines.system.signals import signals_deferred


def press() -> None:
    signal.raise_signal(signal.SIGINT)


def test_it_waits_for_the_end() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), signals_deferred():
        press()
        done.append("the rest")
    assert done == ["the rest"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_it_is_not_lost_where_the_block_fails() -> None:
    with pytest.raises(KeyboardInterrupt), signals_deferred():
        press()
        raise ImportError("initialization failed")
    with pytest.raises(ImportError, match="of its own"), signals_deferred():
        raise ImportError("of its own")


def test_other_handlers_are_called_at_the_end() -> None:
    """A handler that raises, as asyncio's, would tear the block as well."""
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        with signals_deferred():
            press()
            assert heard == []
        assert heard == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)

    def elsewhere() -> None:  # only the main thread receives signals
        with signals_deferred():
            heard.append(0)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert heard[-1] == 0

"""How far a download is: a line now and then where nobody watches, a bar on a terminal."""

import io

import pytest

from hat.progress import FetchProgress


def test_a_log_gets_a_line_at_the_begin_and_every_ten_seconds() -> None:
    stream, times = io.StringIO(), iter([0.0, 1.0, 9.9, 10.1, 11.0, 30.0])
    with FetchProgress(stream, lambda: next(times)) as show:
        for done in (0, 1, 2, 3, 4, 5):
            show(done * 1_000_000, 5_000_000)
    assert stream.getvalue().splitlines() == [
        "fetching the bundle: 0.0 of 5.0 MB",
        "fetching the bundle: 3.0 of 5.0 MB",
        "fetching the bundle: 5.0 of 5.0 MB",
    ]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_for_each_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with FetchProgress(terminal, lambda: 0.0) as show:
        for total in (4_000_000, 7_000_000):
            show(0, total)
            show(total, total)
    shown = terminal.getvalue()
    assert "fetching the bundle: 100%" in shown
    assert "4.00M" in shown
    assert "7.00M" in shown

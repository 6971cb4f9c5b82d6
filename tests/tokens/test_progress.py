"""The progress bar shows itself on a terminal only."""

import pytest

from onevec.tokens.progress import Bar


@pytest.mark.parametrize("total", [10, None])
def test_bar_on_a_terminal(capsys, monkeypatch, total):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with Bar(total, True) as bar:
        bar.advance(4)
        bar.advance(6)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "encoding" in shown.err
    assert "10/" in shown.err
    assert "/s" in shown.err
    assert "left" in shown.err


def test_bar_elsewhere(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    for show in (True, False):
        with Bar(10, show) as bar:
            bar.advance(10)
    assert capsys.readouterr() == ("", "")

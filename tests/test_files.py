"""Results on disk: an interruption anywhere leaves the old one or the new one."""

from pathlib import Path

import pytest

from onevec.files import appears_whole


@pytest.mark.parametrize("when", ["rename", "replace"])
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_interruption_loses_nothing(tmp_path, monkeypatch, when, kind):
    def write(path, text):
        if kind == "folder":
            path.mkdir()
            path = path / "inside"
        path.write_text(text)

    def read(path):
        return (path / "inside" if kind == "folder" else path).read_text()

    target = tmp_path / "result"
    with appears_whole(target) as part:
        write(part, "old")

    with pytest.raises(KeyboardInterrupt), appears_whole(target) as part:
        write(part, "new")
        done = getattr(Path, when)

        def late(self, to):  # the work is done, then comes the signal
            monkeypatch.undo()
            done(self, to)
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, when, late)
        if kind == "file" and when == "rename":
            raise KeyboardInterrupt
    assert read(target) in ("old", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["result"]

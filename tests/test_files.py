"""Results on disk: an interruption anywhere leaves the old one or the new one."""

import json
from pathlib import Path

import pytest

from onevec.errors import InputError
from onevec.files import appears_whole, check_target, for_json


def write(path, kind, text):
    if kind == "folder":
        path.mkdir()
        path = path / "inside"
    path.write_text(text)


def read(path):
    return (path / "inside" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("when", ["rename", "replace"])
@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("name", ["result", "old"])
def test_an_interruption_loses_nothing(tmp_path, monkeypatch, when, kind, name):
    target = tmp_path / name
    with appears_whole(target) as part:
        write(part, kind, "old")

    done = getattr(Path, when)

    def late(self, to):  # the work is done, then comes the signal
        done(self, to)
        monkeypatch.undo()
        raise KeyboardInterrupt

    def once():
        with appears_whole(target) as part:
            write(part, kind, "new")
            monkeypatch.setattr(Path, when, late)

    if (kind, when) == ("file", "rename"):  # a file has one step
        once()
    else:
        with pytest.raises(KeyboardInterrupt):
            once()
    assert read(target) == ("old" if (kind, when) == ("folder", "rename") else "new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_is_half_written_never_appears(tmp_path):
    for name in ("result", "old"):
        with pytest.raises(KeyboardInterrupt), appears_whole(tmp_path / name) as part:
            write(part, "folder", "half")
            raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_others_can_read_what_the_umask_lets_them(tmp_path, kind):
    (tmp_path / "usual").touch()
    with appears_whole(tmp_path / "result") as part:
        write(part, kind, "new")
        inside = part / "inside" if kind == "folder" else part
        inside.chmod(0o600)  # as safetensors leaves it
    written = tmp_path / "result"
    written = written / "inside" if kind == "folder" else written
    assert written.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_the_old_one_is_not_deleted_where_it_cannot_be_put_back(tmp_path, monkeypatch):
    target = tmp_path / "result"
    with appears_whole(target) as part:
        write(part, "folder", "old")
    moved = Path.rename

    def refused(self, to):
        if self.name == "result.old":
            raise KeyboardInterrupt
        return moved(self, to)

    def interrupted(self, to):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), appears_whole(target) as part:
        write(part, "folder", "new")
        monkeypatch.setattr(Path, "rename", refused)
        monkeypatch.setattr(Path, "replace", interrupted)
    monkeypatch.undo()
    assert [read(path) for path in tmp_path.glob(".result-*/result.old")] == ["old"]


def test_a_link_to_nothing_is_said_before_the_work(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match="a link to nothing"):
        check_target(tmp_path / "link", True, what="model")


def test_json_has_no_nan():
    plain = for_json({"a": float("nan"), "b": [float("inf"), 1.5], "c": (1,)})
    assert plain == {"a": None, "b": [None, 1.5], "c": [1]}
    json.dumps(plain, allow_nan=False)

"""The hub, by a local fake: a folder for each repository."""

import shutil
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import yaml

from onevec.errors import InputError, StoreError
from onevec.export.hub import from_pretrained, push_to_hub
from onevec.export.sentence_transformers import to_sentence_transformers
from tests.export.conftest import fitted


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Stand in for the hub's client; what is asked of it is written down."""
    asked = []

    class FakeApi:
        def __init__(self, token=None):
            asked.append(("token", token))

        def create_repo(self, repo_id, *, private, exist_ok):
            if repo_id.startswith("forbidden/"):
                raise PermissionError("403 Forbidden.\nmore")
            asked.append(("create", repo_id, private, exist_ok))
            (tmp_path / "hub" / repo_id).mkdir(parents=True, exist_ok=True)

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, tmp_path / "hub" / repo_id, dirs_exist_ok=True)
            return f"https://hub/{repo_id}/commit/1"

    def download(repo_id, *, revision, token, allow_patterns):
        asked.append(("download", repo_id, revision, token))
        if not (tmp_path / "hub" / repo_id).is_dir():
            raise ConnectionError("out of reach")
        here = tmp_path / "cache" / repo_id
        here.mkdir(parents=True)
        for name in allow_patterns:
            source = tmp_path / "hub" / repo_id / name
            if source.is_file():
                shutil.copy(source, here / name)
        return str(here)

    monkeypatch.setattr(huggingface_hub, "HfApi", FakeApi)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return tmp_path / "hub", asked


def test_a_model_goes_up_and_comes_down(tmp_path, hub, tokens):
    folder, asked = hub
    model = fitted(tokens, "mean|std")
    options = {"private": True, "token": "t", "licence": "mit", "base_model": "owner/encoder"}
    address = push_to_hub(model, "me/vectors", **options)
    assert address == "https://hub/me/vectors/commit/1"
    assert asked == [("token", "t"), ("create", "me/vectors", True, True)]
    assert {file.name for file in (folder / "me/vectors").iterdir()} == {
        "config.json", "model.safetensors", "README.md",
    }  # fmt: skip
    matter = (folder / "me/vectors/README.md").read_text().split("---")[1]
    assert yaml.safe_load(matter)["license"] == "mit"
    assert yaml.safe_load(matter)["base_model"] == "owner/encoder"
    again = from_pretrained("me/vectors", revision="main", token="t")
    assert asked[-1] == ("download", "me/vectors", "main", "t")
    np.testing.assert_array_equal(again.transform(tokens), model.transform(tokens))


def test_no_path_of_this_machine_goes_up(tmp_path, hub, tokens):
    folder, _ = hub
    model = fitted(tokens, "mean|std").set_params(encoder=tmp_path / "secret")
    model.encoder_ = {"name": str(tmp_path / "secret"), "settings": {}, "dtype": "float16"}
    push_to_hub(model, "me/vectors")
    assert "secret" not in (folder / "me/vectors/config.json").read_text()
    assert model.encoder == tmp_path / "secret"
    model.set_params(encoder="owner/encoder").encoder_["name"] = "owner/encoder"
    push_to_hub(model, "me/vectors")
    again = from_pretrained("me/vectors")
    assert (again.encoder, again.encoder_["name"]) == ("owner/encoder", "owner/encoder")


def test_folders_go_up_too(tmp_path, hub, encoder, tokens):
    folder, _ = hub
    model = fitted(tokens, "mean")
    saved = model.save(tmp_path / "model")
    push_to_hub(saved, "me/saved")
    assert 'load("me/saved")' in (folder / "me/saved/README.md").read_text()
    np.testing.assert_array_equal(from_pretrained(saved).transform(tokens), model.transform(tokens))
    to_sentence_transformers(model, encoder, tmp_path / "st")
    push_to_hub(tmp_path / "st", "me/st")
    names = [sorted(f.name for f in at.iterdir()) for at in (tmp_path / "st", folder / "me/st")]
    assert names[0] == names[1]
    with pytest.raises(StoreError, match="opened with SentenceTransformer"):
        from_pretrained("me/st")


def test_refusals(tmp_path, hub, tokens):
    model = fitted(tokens, "mean")
    for name in ("vectors", "a/b/c", "/x", "./here"):
        with pytest.raises(InputError, match='must look like "owner/name"'):
            push_to_hub(model, name)
    with pytest.raises(InputError, match=r"\(403 Forbidden\): check the name.*logged in"):
        push_to_hub(model, "forbidden/vectors")
    with pytest.raises(StoreError, match=r"holds no config\.json"):
        push_to_hub(tmp_path, "me/vectors")
    with pytest.raises(InputError, match="out of reach"):
        from_pretrained("me/nothing")
    with pytest.raises(InputError, match="there is no folder"):
        from_pretrained(str(Path("no") / "such" / "folder"))

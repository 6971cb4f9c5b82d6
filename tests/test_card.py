import json

import numpy as np
import pytest
import yaml

from onevec import OneVec, load
from onevec.card import model_card
from onevec.errors import StoreError


def test_a_card_holds_verdict_parts_fingerprint_use_limits_and_licence(easy_tokens):
    model = OneVec(dim=4).fit(easy_tokens[0])
    config = model._state()[0]
    card = model_card(config, name="me/my-model", licence="apache-2.0", base_model="owner/encoder")
    _, matter, body = card.split("---\n", 2)
    assert yaml.safe_load(matter) == {
        "library_name": "onevec",
        "pipeline_tag": "feature-extraction",
        "tags": ["onevec", "sentence-embedding", "feature-extraction", "unsupervised"],
        "license": "apache-2.0",
        "base_model": "owner/encoder",
    }
    assert model.verdict_.sentence in body
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(model.parts_)
    assert rows[1] == "| mean | 0 to 23 | 1 | the mean of the tokens, as it is |"
    whole = model.parts_[-1]["last"]
    assert f"Their {whole} columns are reduced to 4 by PCA." in body
    facts = (
        "16,000 token vectors",
        model.data_["fingerprint"],
        "none: fitted to ready arrays",
        "me/my-model",
    )
    for word in (*facts, "## Intended use", "## Limits", "apache-2.0"):
        assert word in body


def test_a_card_without_licence_says_so():
    tokens = [np.random.default_rng(n).normal(size=(n, 3)) for n in range(2, 9)]
    card = model_card(OneVec(dim=2, pooler="std").fit(tokens)._state()[0])
    assert "license:" not in card and "Not stated by the author" in card
    assert "| std | 0 to 1 | 1 | std, half-whitened |" in card


def test_a_saved_model_has_this_card_and_keeps_what_it_was_fitted_to(tmp_path, easy_tokens):
    model = OneVec(dim=4, pooler="std").fit(easy_tokens[0])
    model.save(tmp_path / "model")
    assert "400 sequences, 16,000 token vectors" in (tmp_path / "model/README.md").read_text()
    assert load(tmp_path / "model").data_ == model.data_
    config = json.loads((tmp_path / "model/config.json").read_text())
    del config["data"]  # as written by earlier versions
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    assert load(tmp_path / "model").data_ is None


def test_a_model_of_an_older_format_says_what_to_do(tmp_path, easy_tokens):
    OneVec(pooler="std").fit(easy_tokens[0]).save(tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps(config | {"format": 3}))
    with pytest.raises(StoreError, match=r"format 3.*fit it again with `onevec fit`"):
        load(tmp_path / "model")

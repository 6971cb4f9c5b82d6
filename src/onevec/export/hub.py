"""Models on the Hugging Face hub: push a folder, open one by its name."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

from onevec.card import model_card
from onevec.errors import InputError, MissingExtraError, StoreError
from onevec.estimator import OneVec, load
from onevec.export.encoder import hub_name

_FILES = ["config.json", "model.safetensors", "README.md"]


def push_to_hub(
    model: OneVec | str | Path,
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    licence: str | None = None,
    base_model: str | None = None,
) -> str:
    """Upload a model, or a folder that an export wrote, to the Hugging Face hub.

    Parameters
    ----------
    model : OneVec or path
        A fitted model, a folder that `OneVec.save` wrote, or one of `to_sentence_transformers` or
        `to_onnx`, which goes up as it is.
    repo_id : str
        ``"owner/name"``; it is made if it does not exist.
    private : bool
        Whether a repository that is made now can be seen by its owner alone.
    token : str, optional
        Access token; else the one of ``hf auth login``.
    licence, base_model : str, optional
        For the card of a onevec model: an identifier of the hub such as ``"apache-2.0"``, and the
        encoder's name there. An export has its card already.

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    InputError
        If the name is none, the folder holds neither a model nor an export, or the hub refuses.
    """
    hub = _hub()
    if not _is_name(repo_id):
        raise InputError(f'got repo_id={repo_id!r}: it must look like "owner/name"')
    api = hub.HfApi(token=token)
    with tempfile.TemporaryDirectory() as room:
        folder = _folder(model, Path(room), repo_id, licence, base_model)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(
                api.upload_folder(
                    repo_id=repo_id,
                    folder_path=str(folder),
                    commit_message="A onevec model",
                )
            )
        except Exception as error:  # classes of the client's HTTP library, which changes
            raise InputError(
                f"the hub did not take {repo_id} ({_first_line(error)}): check the name, and that "
                "you are logged in with the right to write (hf auth login)"
            ) from error


def from_pretrained(
    name_or_path: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> OneVec:
    """Open a onevec model from a folder, or from the hub by its name.

    Parameters
    ----------
    name_or_path : str or path
        A folder that `OneVec.save` wrote, or ``"owner/name"``.
    revision : str, optional
        Branch, tag or commit of the hub's repository.
    token : str, optional
        Access token, for what is private.

    Raises
    ------
    InputError
        If there is no such folder, and the hub has no such model or is out of reach.
    StoreError
        If what is there is no onevec model, or damaged.
    """
    if Path(name_or_path).is_dir():
        return load(name_or_path)
    if not _is_name(str(name_or_path)):
        raise InputError(
            f'there is no folder {str(name_or_path)!r}: pass one, or a name such as "owner/name"'
        )
    hub = _hub()
    try:
        folder = hub.snapshot_download(
            str(name_or_path), revision=revision, token=token, allow_patterns=_FILES
        )
    except Exception as error:  # as above
        raise InputError(
            f"there is no onevec model {str(name_or_path)!r}: it is no folder here, and the hub "
            f"does not have it or is out of reach ({_first_line(error)}); check the name"
        ) from error
    try:
        return load(folder)
    except StoreError as error:
        raise StoreError(
            f"{name_or_path} on the hub is no onevec model ({error}); a sentence-transformers "
            "export is opened with SentenceTransformer"
        ) from error


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hf") from error
    return huggingface_hub


def _folder(
    model: OneVec | str | Path,
    room: Path,
    repo_id: str,
    licence: str | None,
    base_model: str | None,
) -> Path:
    """Return a folder to upload, with a card for a onevec model."""
    if isinstance(model, str | Path):
        path = Path(model)
        if (path / "onevec.json").is_file():
            if licence or base_model:
                raise InputError(
                    f"got a licence or base model for {path}, an export that has its card already: "
                    "export again with the licence, and push without"
                )
            return path
        model = load(path)
    model = _without_paths(model)
    folder = model.save(room / "model")
    card = model_card(model._state()[0], name=repo_id, licence=licence, base_model=base_model)
    (folder / "README.md").write_text(card)
    return folder


def _without_paths(model: OneVec) -> OneVec:
    """Return the same model; an encoder that is a path of this machine is not named."""
    model = copy.copy(model)
    if isinstance(model.encoder, str | Path):
        model.encoder = hub_name(str(model.encoder))
    if model.encoder_ is not None and model.encoder_["name"]:
        model.encoder_ = {**model.encoder_, "name": hub_name(str(model.encoder_["name"]))}
    return model


def _is_name(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "~"))


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__

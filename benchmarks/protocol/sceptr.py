"""SCEPTR's encoders of T-cell receptors, from the format of their published weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from onevec.ragged import Ragged
from onevec.tokens.writer import TokenStoreWriter

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


class Sceptr:
    """SCEPTR (Nagano et al. 2025): a transformer over the residues of a receptor's six loops.

    A token is one residue: its letter, where in its loop it stands, and which loop that is. In
    front stands a classification token.
    """

    WIDTH = 29  # mask, CLS, 20 residues, relative position, 6 loops

    def __init__(self, path: Path):
        from safetensors.torch import load_file

        held = load_file(path)
        layer = torch.nn.TransformerEncoderLayer(64, 8, 256, batch_first=True)
        self.stack = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
        self.stack.load_state_dict({k: v for k, v in held.items() if k.startswith("layers.")})
        self.input = held["input_proj.weight"]
        with path.open("rb") as handle:
            self.mark = hashlib.file_digest(handle, "sha256").hexdigest()

    def inputs(self, receptor: str) -> torch.Tensor:
        """Input vectors of one receptor, its loops joined by a slash."""
        rows = [np.zeros(self.WIDTH, np.float32)]
        rows[0][1] = 1
        for place, loop in enumerate(receptor.split("/")):
            for i, residue in enumerate(loop):
                if residue == "*":  # left out, but counted
                    continue
                values = np.zeros(self.WIDTH, np.float32)
                values[2 + LETTERS.index(residue)] = 1
                values[22] = i / (len(loop) - 1) if len(loop) > 1 else 0.5
                values[23 + place] = 1
                rows.append(values)
        return torch.from_numpy(np.stack(rows))

    @torch.inference_mode()
    def states(self, receptors: Sequence[str]) -> dict[int, list[torch.Tensor]]:
        """Hidden states 0 to 3 of each receptor: the classification token, then the residues."""
        inputs = [self.inputs(receptor) for receptor in receptors]
        batch = torch.nn.utils.rnn.pad_sequence(inputs, batch_first=True)
        lengths = torch.tensor([len(each) for each in inputs])
        padding = torch.arange(batch.shape[1]) >= lengths[:, None]
        states = [batch @ self.input.T]
        for layer in self.stack.layers:
            states.append(layer(states[-1], src_key_padding_mask=padding))
        return {
            number: [hidden[row, :length] for row, length in enumerate(lengths)]
            for number, hidden in enumerate(states)
        }


def write(model: Sceptr, receptors: Sequence[str], out: Path, layers: tuple[int, ...]) -> None:
    """Fill a token store, 128 receptors at a time."""
    depth = len(model.stack.layers)
    about = {"name": "SCEPTR", "fingerprint": f"sha256:{model.mark}", "depth": depth}
    with TokenStoreWriter(out, layers=layers, encoder=about) as writer:
        for first in range(0, len(receptors), 128):
            some = receptors[first : first + 128]
            states = model.states(some)
            writer.append(
                {k: Ragged.from_list([rows[1:] for rows in states[k]]) for k in layers},
                sequences=some,
                cls={k: torch.stack([rows[0] for rows in states[k]]) for k in layers},
            )

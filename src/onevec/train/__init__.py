"""Training without labels: the loop, the optimizer, the settings. Start with ``loop.py``."""

from onevec.train.poolers import train
from onevec.train.settings import Trained, Training

__all__ = ["Trained", "Training", "train"]

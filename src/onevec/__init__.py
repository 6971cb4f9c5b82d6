"""onevec: one vector per sequence, learned without labels, on top of a frozen model.

Importing this module loads nothing heavy; each name below is imported at its first use.
"""

from importlib import import_module

__version__ = "0.1.0"

_LAZY = {
    "Index": "onevec.use.search",
    "OneVec": "onevec.estimator",
    "OnevecError": "onevec.errors",
    "Ragged": "onevec.ragged",
    "TokenStore": "onevec.tokens.store",
    "embed": "onevec.use.embed",
    "encode": "onevec.tokens.encode",
    "evaluate": "onevec.use.scores",
    "finetune": "onevec.encoders.finetune",
    "load": "onevec.estimator",
    "pretrain": "onevec.encoders.pretrain",
    "search": "onevec.use.search",
}
__all__ = [
    "Index",
    "OneVec",
    "OnevecError",
    "Ragged",
    "TokenStore",
    "embed",
    "encode",
    "evaluate",
    "finetune",
    "load",
    "pretrain",
    "search",
]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'onevec' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

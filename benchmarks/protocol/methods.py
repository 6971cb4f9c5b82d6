"""What is compared: every method turns the same stored tokens into vectors, without labels.

`OURS` are made for every release. All others, the baselines, are computed once for a version of the
protocol and then only read: their code does not change with onevec's.
"""

from __future__ import annotations

import functools

from protocol import baselines, bounds, ours, peers
from protocol.producer import DIM, Producer
from protocol.tasks import TEXT

SEEDS = 3
SIX_ROWS = ("ncrna13", "omniglot", "fsdd", "chess", "gesture", "banking77")  # peers: three seeds
OURS = ("mean", "onevec", f"onevec_{DIM}")  # with the reference that gains are over


def producers() -> dict[str, Producer]:
    """Everything that can be run."""

    def often(row: str) -> int:
        return SEEDS

    def where_it_matters(row: str) -> int:
        return SEEDS if row in SIX_ROWS else 1

    short = functools.partial(ours.onevec, dim=DIM)
    listed = [
        Producer("mean", "plain", baselines.mean),
        Producer("onevec", "onevec", ours.onevec),
        Producer(f"onevec_{DIM}", "onevec", short),
        Producer("plain", "plain", baselines.plain),
        Producer("trivial", "trivial", baselines.trivial),
        Producer("borep", "trivial", baselines.borep, often),
        Producer("attention_probe", "bound", bounds.attention_probe),
    ]
    for name, entry in peers.PEERS.items():
        run = functools.partial(peers.run, name=name)
        seeds = where_it_matters if entry.stochastic else (lambda row: 1)
        listed.append(Producer(name, "peer", run, seeds))
    for name in peers.TEXT_PEERS:
        run = functools.partial(peers.run_on_text, name=name)
        listed.append(Producer(name, "text peer", run, rows=TEXT))
    return {producer.name: producer for producer in listed}

"""The table of poolers, one line each. `combine.py` adds those that stand on others."""

from __future__ import annotations

from onevec.poolers.attention import Attention, AttentiveStatistics, GatedAttention
from onevec.poolers.base import Pooler
from onevec.poolers.codebook import VLAD, Bag, Fisher
from onevec.poolers.covariance import Correlation, Covariance
from onevec.poolers.graph import TokenGraph
from onevec.poolers.kernel_transport import KernelTransport
from onevec.poolers.order import (
    DCT,
    Bigrams,
    First,
    LaggedCovariance,
    Last,
    SegmentMeans,
)
from onevec.poolers.queries import LatentAttention, MultiheadAttention, QueryAttention
from onevec.poolers.random_features import KernelMean, RandomConvolutions, RandomProjection
from onevec.poolers.sequence import Convolution, Recurrent
from onevec.poolers.sets import DeepSets, LayerMix, PowerMean
from onevec.poolers.statistics import (
    PNA,
    Max,
    Mean,
    Min,
    PowerMeans,
    Quantiles,
    StandardisedMoments,
    Statistics,
    Std,
)
from onevec.poolers.trained import NetVLAD, TrainedSlicedWasserstein, TrainedTransport
from onevec.poolers.transport import OptimalTransport, SlicedWasserstein
from onevec.poolers.weighting import IDF, SIF, CodewordIDF, CodewordSIF, PositionWeighted

POOLERS: dict[str, type[Pooler]] = {
    "mean": Mean,
    "first": First,
    "last": Last,
    "max": Max,
    "min": Min,
    "std": Std,
    "statistics": Statistics,
    "moments": StandardisedMoments,
    "power_means": PowerMeans,
    "quantiles": Quantiles,
    "pna": PNA,
    "position_weighted": PositionWeighted,
    "sif": SIF,
    "idf": IDF,
    "codeword_sif": CodewordSIF,
    "codeword_idf": CodewordIDF,
    "covariance": Covariance,
    "correlation": Correlation,
    "bag": Bag,
    "vlad": VLAD,
    "fisher": Fisher,
    "optimal_transport": OptimalTransport,
    "kernel_transport": KernelTransport,
    "sliced_wasserstein": SlicedWasserstein,
    "kernel_mean": KernelMean,
    "random_projection": RandomProjection,
    "dct": DCT,
    "segment_means": SegmentMeans,
    "lagged_covariance": LaggedCovariance,
    "bigrams": Bigrams,
    "random_convolutions": RandomConvolutions,
    "attention": Attention,
    "gated_attention": GatedAttention,
    "attentive_statistics": AttentiveStatistics,
    "query_attention": QueryAttention,
    "multihead_attention": MultiheadAttention,
    "latent_attention": LatentAttention,
    "deep_sets": DeepSets,
    "power_mean": PowerMean,
    "layer_mix": LayerMix,
    "trained_transport": TrainedTransport,
    "trained_sliced_wasserstein": TrainedSlicedWasserstein,
    "netvlad": NetVLAD,
    "token_graph": TokenGraph,
    "recurrent": Recurrent,
    "convolution": Convolution,
}

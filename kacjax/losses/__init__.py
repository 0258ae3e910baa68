"""Losses: conditional flow matching, one for every path, and objectives of `fit`."""

from kacjax.losses.loss import Weight, as_data, count_atoms, flow_matching_loss
from kacjax.losses.objectives import FlowMatching, Objective, SignMatching
from kacjax.losses.times import LogNormalTimes, sample_times

__all__ = [
    "FlowMatching",
    "LogNormalTimes",
    "Objective",
    "SignMatching",
    "Weight",
    "as_data",
    "count_atoms",
    "flow_matching_loss",
    "sample_times",
]

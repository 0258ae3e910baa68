"""Samples in one to a few evaluations of the network: distilled students, and flow maps."""

from kacjax.few_step.distillation import Distillation, DistillResult, distill
from kacjax.few_step.flow_map import FlowMapLoss, draw_flow_map, stepwise

__all__ = ["DistillResult", "Distillation", "FlowMapLoss", "distill", "draw_flow_map", "stepwise"]

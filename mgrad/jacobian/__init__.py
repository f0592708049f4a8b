"""The rows of the Jacobian: taking them from autograd, their inner products, their combination.

In: parameters and what autograd leaves in `.grad`. Out: G, on the host or on their device, and one block of the
direction per parameter. May import: its own files, which import compiled. Knows no optimizer.
"""

from mgrad.jacobian.autograd import LEAF, aside, capture, check_dense, shared_graphs, strangers, unshared
from mgrad.jacobian.blocks import Block, Lazy, Row, gradient_type, whole
from mgrad.jacobian.combination import combine
from mgrad.jacobian.inner import along, norm
from mgrad.jacobian.products import gramian

__all__ = [
    "LEAF",
    "Block",
    "Lazy",
    "Row",
    "along",
    "aside",
    "capture",
    "check_dense",
    "combine",
    "gradient_type",
    "gramian",
    "norm",
    "shared_graphs",
    "strangers",
    "unshared",
    "whole",
]

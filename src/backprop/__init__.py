"""Gradients and fits of feed-forward (dense) networks on CPUs: the textbook recursion, as compiled loops.

    h_0 = x,   a_i = W_i h_{i-1} + b_i,   h_i = g_i(a_i),   i = 1..L,   y_hat = h_L = O(a_L)

    output layer   grad_{a_L} L     from the loss and the output function O
    hidden sum     dL/dh_{i,j}    = sum_m dL/da_{i+1,m} W_{i+1,m,j}
    g' product     dL/da_{i,j}    = dL/dh_{i,j} g'(a_{i,j})
    parameters     grad_{W_i} L   = grad_{a_i} L h_{i-1}^T,    grad_{b_i} L = grad_{a_i} L

Start with `Network`, and fit it by `Network.fit`. Arrays hold one sample per row. Everything in a network has one
dtype, float32 or float64.
"""

from backprop.process import interpreter  # isort: skip  # before NumPy and all that is compiled

from backprop._version import __version__
from backprop.api.input_jet import InputJet
from backprop.api.layer_gradients import LayerGradients
from backprop.custom import Activation
from backprop.distributed.cuts import WeightTotals, row_blocks, weight_totals
from backprop.distributed.partial_sums import PartialSums
from backprop.ensemble import Ensemble
from backprop.equations import hidden_gradient, preactivation_gradient
from backprop.info import show_config
from backprop.judges.check_gradient import GradientReport
from backprop.judges.find_nonfinite import NonFinite
from backprop.network import Network
from backprop.objective import Objective
from backprop.process import after_import, old_paths, threadpoolctl
from backprop.saving import load
from backprop.threads import get_num_threads, num_threads, set_num_threads

__all__ = [
    "Activation",
    "Ensemble",
    "GradientReport",
    "InputJet",
    "LayerGradients",
    "Network",
    "NonFinite",
    "Objective",
    "PartialSums",
    "WeightTotals",
    "__version__",
    "get_num_threads",
    "hidden_gradient",
    "load",
    "num_threads",
    "preactivation_gradient",
    "row_blocks",
    "set_num_threads",
    "show_config",
    "weight_totals",
]

after_import.register("threadpoolctl", threadpoolctl.add_controller)
old_paths.install()
del after_import, interpreter, old_paths, threadpoolctl


def __dir__() -> list[str]:
    """The public names, and the module of the equations."""
    return sorted({*__all__, "equations", *(name for name in globals() if name.startswith("__"))})

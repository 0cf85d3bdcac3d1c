"""`Architecture`: one form of a network without its parameters, for the repr, pickles and files."""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from backprop import Activation, Network
from backprop.api.architecture import Architecture

# A network as a pickle held it before: sizes as a tuple, and no parameter that is the default.
OLD_STATE = {
    "sizes": (2, 3, 3, 1), "activations": ["elu", ("leaky_relu", 0.2)], "output": "identity", "loss": ("huber", 0.5),
    "dtype": "float32", "params": np.arange(25, dtype=np.float32),
}  # fmt: skip
OLD_PICKLE = (  # protocol 0, with a state of the same kind
    b"ccopyreg\n__newobj__\n(cbackprop.network\nNetwork\ntR(dVsizes\n(I1\nI1\ntsVactivations\n(lsVoutput\nVsoftmax\n"
    b"sVloss\nVcross_entropy\nsVdtype\nVfloat64\nsVparams\n(lF1.0\naF2.0\nasb."
)
NETWORKS = [
    Network([2, 1]),
    Network([3, 4, 2], activations="tanh", dtype="float32"),
    Network([2, 3, 3, 1], activations=["elu", ("leaky_relu", 0.2)], loss=("huber", 0.5)),
    Network([2, 3], loss="cross_entropy", output="softmax"),
    Network([2, 3], loss=("cross_entropy", 0.1)),
    Network([2, 2, 3], output=("elu", 2.0)),
]


@pytest.mark.parametrize("net", NETWORKS, ids=repr)
def test_there_and_back(net):
    architecture = net._architecture
    values = architecture.to_dict()
    assert Architecture.from_dict(values) == architecture
    assert Architecture.from_dict(json.loads(json.dumps(values))) == architecture
    assert eval(repr(net))._architecture == architecture
    assert pickle.loads(pickle.dumps(net))._architecture == architecture


def test_every_parameter_is_written_out():
    values = Network([2, 3, 1], activations="elu", output="leaky_relu", loss="huber")._architecture.to_dict()
    assert values == {
        "sizes": [2, 3, 1], "activations": [["elu", 1.0]], "output": ["leaky_relu", 0.01], "loss": ["huber", 1.0],
        "dtype": "float64",
    }  # fmt: skip


def test_an_activation_of_ones_own_stays_an_object():
    own = Activation("own", np.sin, np.cos)
    architecture = Network([2, 3, 1], activations=own, output=own)._architecture
    values = architecture.to_dict()
    assert values["activations"] == [own]
    assert values["output"] is own
    assert Architecture.from_dict(values) == architecture


def test_it_is_frozen():
    architecture = NETWORKS[0]._architecture
    with pytest.raises(dataclasses.FrozenInstanceError):
        architecture.sizes = (3, 1)
    assert len({net._architecture for net in NETWORKS}) == len(NETWORKS)  # it can be a key


def test_pickles_of_earlier_releases():
    net = Network.__new__(Network)
    net.__setstate__(OLD_STATE)
    assert repr(net) == (
        "Network([2, 3, 3, 1], activations=['elu', ('leaky_relu', 0.2)], output='identity', "
        "loss=('huber', 0.5), dtype='float32')"
    )
    np.testing.assert_array_equal(net.params, OLD_STATE["params"])
    net = pickle.loads(OLD_PICKLE)
    assert (net.output, net.loss_name, net.params.tolist()) == ("softmax", "cross_entropy", [1.0, 2.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"more": 1}, "expected an architecture of .*'more'"),
        ({"sizes": "342"}, "sizes: expected a list, got str"),
        ({"activations": "tanh"}, "activations: expected a list, got str"),
        ({"dtype": "f8"}, r"dtype: expected one of \['float32', 'float64'\], got str 'f8'"),
        ({"loss": "0/1"}, "loss: expected one of"),
    ],
)
def test_values_from_anywhere(changes, message):
    with pytest.raises(ValueError, match=message):
        Architecture.from_dict({**NETWORKS[1]._architecture.to_dict(), **changes})

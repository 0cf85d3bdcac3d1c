"""Ensembles on disk: one file, the saved bits, the names of torch's stacked modules; and hostile files."""

import json

import numpy as np
import pytest
from problems import same_bits
from required_peers import require_peer

import backprop
from backprop import Activation, Ensemble, Network

safetensors_numpy = require_peer("safetensors.numpy")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ensemble.safetensors"


def make(k=3, sizes=(3, 4, 2), **options):
    return Ensemble(Network(sizes, **options), k, rng=1)


@pytest.mark.parametrize("k", [1, 3, 17])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(1, 1), (3, 4, 2), (5, 1, 7, 1)])
def test_the_bits_come_back(path, sizes, dtype, k):
    ensemble = make(k, sizes, dtype=dtype, activations=("leaky_relu", 0.3), loss=("huber", 0.5))
    ensemble.params = np.random.default_rng(0).normal(size=ensemble.params.shape)
    ensemble.params[0, 0] = -0.0
    ensemble.save(path)
    loaded = backprop.load(path)
    assert type(loaded) is Ensemble
    assert repr(loaded) == repr(ensemble)
    assert loaded[0]._architecture == ensemble[0]._architecture
    assert same_bits(loaded.params, ensemble.params)
    assert np.shares_memory(loaded[k - 1].params, loaded.params)
    x, y = np.ones((5, sizes[0])), np.ones((5, sizes[-1]))
    assert same_bits(loaded.value_and_grad(x, y)[1], ensemble.value_and_grad(x, y)[1])


def test_a_network_stays_a_network(path):
    net = Network([3, 4, 2], rng=0)
    net.save(path)
    assert type(backprop.load(path)) is Network
    metadata = header_of(path)["__metadata__"]["backprop"]
    assert "members" not in json.loads(metadata)


def test_the_names_of_stacked_modules(path):
    torch = require_peer("torch")
    net = Network([3, 4, 2], activations="tanh", dtype="float32")
    ensemble = Ensemble(net, 3, rng=0)
    ensemble.save(path)
    modules = [torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)) for _ in range(3)]
    stacked, _ = torch.func.stack_module_state(modules)
    tensors = safetensors_numpy.load_file(path)
    assert {name: tuple(value.shape) for name, value in stacked.items()} == {
        name: tensor.shape for name, tensor in tensors.items()
    }
    for i, member in enumerate(ensemble):
        assert same_bits(np.ascontiguousarray(tensors["2.weight"][i]), np.ascontiguousarray(member.weights[1]))
        assert same_bits(np.ascontiguousarray(tensors["0.bias"][i]), np.ascontiguousarray(member.biases[0]))


def test_an_activation_of_the_user_leaves_the_old_file(path):
    make().save(path)
    before = path.read_bytes()
    own = Activation("own", np.tanh, lambda a: 1 - np.tanh(a) ** 2)
    with pytest.raises(ValueError, match=r"^net: expected built-in activations"):
        make(activations=own).save(path)
    assert path.read_bytes() == before


# Files that no ensemble wrote -----------------------------------------------------------------------------------------


def header_of(path):
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def change(path, **metadata):
    """Write other metadata before the same tensors."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    values = json.loads(header["__metadata__"]["backprop"]) | metadata
    header["__metadata__"]["backprop"] = json.dumps({key: value for key, value in values.items() if value is not None})
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])


@pytest.mark.parametrize(
    ("members", "text"),
    [
        (2, "bytes of parameters, got"),
        (10**18, "bytes of parameters, got"),
        (None, "bytes of parameters, got"),
        (0, "members: expected a positive integer, got 0"),
        (-1, "members: expected a positive integer, got -1"),
        (1.5, "members: expected a positive integer, got 1.5"),
        ("3", "members: expected a positive integer, got str '3'"),
        ([3], "members: expected a positive integer, got list"),
    ],
)
def test_a_wrong_number_of_members(path, members, text):
    make().save(path)
    change(path, members=members)
    with pytest.raises(ValueError, match=text):
        backprop.load(path)


def test_one_member_is_no_network(path):
    make(1).save(path)
    change(path, members=None)
    with pytest.raises(ValueError, match=r"expected .*'shape': \[4, 3\].* for the tensor '0.weight'"):
        backprop.load(path)


def test_every_cut_is_refused(path):
    make().save(path)
    data = path.read_bytes()
    for n in range(len(data)):
        path.write_bytes(data[:n])
        with pytest.raises(ValueError, match=r"^path: expected a saved network"):
            backprop.load(path)

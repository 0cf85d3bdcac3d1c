"""Labels and one-hot rows of every dtype: accepted if they have one meaning only."""

import numpy as np
import pytest

from backprop import Ensemble, Network

N_IN = 3
X = np.random.default_rng(1).standard_normal((5, N_IN))
LABELS = np.array([0, 1, 1, 0, 1])


def make(n_out=2, dtype="float64"):
    return Network([N_IN, 4, n_out], activations="tanh", loss="cross_entropy", dtype=dtype, rng=0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["?", "i1", "u1", ">i2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g"])
def test_one_hot_rows_of_every_dtype(kind, dtype):
    labels = np.array([2, 0, 1, 1, 2])
    net = make(3, dtype)
    one_hot = np.eye(3)[labels]
    loss, grad = net.value_and_grad(X, one_hot)
    assert loss == pytest.approx(net.loss(X, labels), rel=1e-6)
    for value in (one_hot.astype(kind), np.asfortranarray(one_hot.astype(kind)), one_hot.astype(kind).tolist()):
        loss_, grad_ = net.value_and_grad(X, value)
        assert loss_ == loss
        assert np.array_equal(grad_, grad)
    ensemble = Ensemble(net, 2)
    ensemble.params = np.stack([net.params] * 2)
    for value in (one_hot.astype(kind), np.stack([one_hot.astype(kind)] * 2)):
        losses, grads = ensemble.value_and_grad(X, value)
        assert losses.tolist() == [loss] * 2
        assert np.array_equal(grads, [grad] * 2)


@pytest.mark.parametrize(
    ("row", "message"),
    [([1, 1, 0], "rows that sum to 1"), ([0, 0, 0], "rows that sum to 1"), ([2, -1, 0], "probabilities >= 0"),
     ([0, 2, 0], "rows that sum to 1"), ([1 << 62, 0, 0], "rows that sum to 1")],
)  # fmt: skip
def test_integers_that_are_not_one_hot(row, message):
    y = np.eye(3, dtype=int)[[2, 0, 1, 1, 2]]
    y[3] = row
    net = make(3)
    with pytest.raises(ValueError, match=rf"^y: expected {message}.*in row 3"):
        net.loss(X, y)
    assert net.loss(X, y, sample_weight=[1, 1, 1, 0, 1]) > 0


def test_booleans_are_labels_of_two_classes():
    net = make()
    loss, grad = net.value_and_grad(X, LABELS)
    for y in (LABELS == 1, (LABELS == 1).tolist()):
        assert net.loss(X, y) == loss
        assert np.array_equal(net.value_and_grad(X, y)[1], grad)
    ensemble = Ensemble(net, 3)
    ensemble.params = np.stack([net.params] * 3)
    assert ensemble.value_and_grad(X, LABELS == 1)[0].tolist() == [loss] * 3
    assert ensemble.value_and_grad(X, np.stack([LABELS == 1] * 3))[0].tolist() == [loss] * 3
    for n_out in (1, 3):
        with pytest.raises(TypeError, match=rf"^y: .*got booleans, which are labels of 2 classes, not of {n_out}"):
            make(n_out).loss(X, LABELS == 1)


@pytest.mark.parametrize("value", [np.eye(3, dtype=np.intp), np.eye(3, dtype=bool), np.eye(3, dtype=int).tolist()])
def test_labels_of_members_that_may_be_one_hot_rows(value):
    net = make(3)
    ensemble = Ensemble(net, 3, rng=0)
    with pytest.raises(ValueError, match=r"^y: expected a shape with one meaning, got \(3, 3\): labels"):
        ensemble.value_and_grad(X[:3], value)
    one_hot, labels = np.asarray(value, float), np.eye(3)[np.asarray(value, int)]
    assert ensemble.value_and_grad(X[:3], one_hot)[0][1] == ensemble[1].loss(X[:3], one_hot)
    assert ensemble.value_and_grad(X[:3], labels)[0][1] == ensemble[1].loss(X[:3], labels[1])


def test_what_is_nearly_a_vector_of_labels_is_told_how_to_become_one():
    for y in (LABELS.astype(float), LABELS.astype("f4").tolist()):
        with pytest.raises(TypeError, match=r"^y: expected integer labels, .*got floats .*; np\.asarray\(y, int\)"):
            make().loss(X, y)
    for y in (LABELS + 0.5, LABELS * np.nan, LABELS + np.inf):
        with pytest.raises(TypeError, match=r"^y: expected integer labels, .*got floats of shape \(5,\)$"):
            make().loss(X, y)
    for y in (LABELS[:, None], (LABELS == 1)[:, None]):
        with pytest.raises(TypeError, match=r"^y: .*got shape \(5, 1\) .*a column of labels is made flat by np\.ravel"):
            make().loss(X, y)

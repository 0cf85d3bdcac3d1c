"""Frames and series of pandas, Polars and pyarrow: numbers without loss, or an error with the column and the cure.

The library imports none of the three; each test needs its own one.
"""

import datetime
import subprocess
import sys
import warnings

import numpy as np
import pytest
from required_peers import require_peer

from backprop import Ensemble, Network

X = np.random.default_rng(1).integers(-3, 4, (5, 3)).astype(float)
X[:, 1] = [0, 1, 1, 0, 1]
Y = np.random.default_rng(2).standard_normal(5)
LABELS = np.array([0, 1, 1, 0, 1])
NAMES = ["no", "yes", "yes", "no", "yes"]


def make(loss="squared_error", n_out=1):
    return Network([3, 4, n_out], activations="tanh", loss=loss, rng=0)


def pandas_frame(columns):
    return require_peer("pandas").DataFrame(columns)


def polars_frame(columns):
    return require_peer("polars").DataFrame(columns)


def pyarrow_frame(columns):
    return require_peer("pyarrow").table(columns)


def nullable(columns):
    return pandas_frame(columns).convert_dtypes()


def arrow_backed(columns):
    require_peer("pyarrow")
    return pandas_frame(columns).convert_dtypes(dtype_backend="pyarrow")


FRAMES = {
    "pandas": pandas_frame,
    "pandas, nullable": nullable,
    "pandas, arrow": arrow_backed,
    "polars": polars_frame,
    "pyarrow": pyarrow_frame,
    "pyarrow, a batch": lambda columns: pyarrow_frame(columns).to_batches()[0],
}
COLUMNS = {
    "floats": {"a": X[:, 0], "b": X[:, 1], "c": X[:, 2]},
    "integers": {"a": X[:, 0].astype("i8"), "b": X[:, 1].astype("i8"), "c": X[:, 2].astype("i8")},
    "mixed": {"a": X[:, 0], "b": X[:, 1] > 0, "c": X[:, 2].astype("i4")},
    "mixed integers": {"a": X[:, 0].astype("i1"), "b": X[:, 1].astype("u8"), "c": X[:, 2].astype("i8")},
    "float32 and bool": {"a": X[:, 0].astype("f4"), "b": X[:, 1] > 0, "c": X[:, 2].astype("f4")},
}


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("library", FRAMES)
def test_frames_of_numbers_and_booleans(library, columns):
    frame = FRAMES[library](COLUMNS[columns])
    net = make()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, grad = net.value_and_grad(frame, Y)
    expected = net.value_and_grad(X, Y)
    assert loss == expected[0]
    assert np.array_equal(grad, expected[1])
    assert np.array_equal(net.forward(frame), net.forward(X))
    assert np.array_equal(Ensemble(net, 2, rng=0).forward([frame, frame]), Ensemble(net, 2, rng=0).forward(X))


def with_missing(library, kind):
    """A frame whose column b has no value in row 3."""
    values = {
        "integers": [0, 1, 1, None, 1],
        "floats": [0.5, 1.5, 1.0, None, 1.0],
        "booleans": [False, True, True, None, True],
    }
    columns = {"a": X[:, 0], "b": values[kind], "c": X[:, 2]}
    if library == "pandas, nullable":
        frame = pandas_frame(columns)
        frame["b"] = frame["b"].astype({"integers": "Int64", "floats": "Float64", "booleans": "boolean"}[kind])
        return frame
    return FRAMES[library](columns)


@pytest.mark.parametrize("kind", ["integers", "floats", "booleans"])
@pytest.mark.parametrize("library", [name for name in FRAMES if name != "pandas"])
def test_a_missing_value_is_named(library, kind):
    frame = with_missing(library, kind)
    with pytest.raises(
        ValueError, match=r"^x: expected no missing values, got one in row 3 of the column 'b' of dtype"
    ):
        make().forward(frame)
    column = frame["b"]
    hint = "; fill it, or leave its row out, or put NaN there and give it sample_weight 0"
    with pytest.raises(ValueError, match=rf"^y: expected no missing values, got one in row 3 .*{hint}"):
        make().loss(X, column)
    with pytest.raises(ValueError, match=r"^sample_weight: expected no missing values, got one in row 3 "):
        make().loss(X, Y, sample_weight=column)


@pytest.mark.parametrize("row", [0, 4])
def test_no_row_is_left_out(row):
    column = [1.0] * 5
    column[row] = None
    for y in (require_peer("polars").Series(column), require_peer("pandas").Series(column, dtype="Float64")):
        with pytest.raises(ValueError, match=rf"^y: expected no missing values, got one in row {row} of "):
            make().loss(X, y)


def test_nan_among_numpys_floats_is_a_value():
    frame = pandas_frame({"a": X[:, 0], "b": [0.0, 1.0, np.nan, 0.0, 1.0], "c": X[:, 2]})
    assert np.isnan(make().forward(frame)).tolist() == [[False], [False], [True], [False], [False]]
    y = require_peer("pandas").Series([0.0, 1.0, np.nan, 0.0, 1.0])
    weight = y.notna()
    assert make().loss(X, y, sample_weight=weight) == make().loss(X, y.fillna(7), sample_weight=weight)


def date_column(n):
    return [datetime.date(2020, 1, 1)] * n


@pytest.mark.parametrize("library", FRAMES)
@pytest.mark.parametrize("what", ["text", "dates"])
def test_columns_of_something_else_are_named(library, what):
    column = NAMES if what == "text" else date_column(5)
    frame = FRAMES[library]({"a": X[:, 0], "it": column, "c": X[:, 2]})
    with pytest.raises(TypeError, match=r"^x: expected columns of numbers, got the column 'it' of dtype .*; .*number"):
        make().forward(frame)


@pytest.mark.parametrize("library", FRAMES)
def test_names_as_labels(library):
    y = FRAMES[library]({"it": NAMES})["it"]
    net = make("cross_entropy", 2)
    with pytest.raises(TypeError, match=r"^y: expected columns of numbers.*np\.unique\(y, return_inverse=True\)\[1\]"):
        net.loss(X, y)
    assert net.loss(X, np.unique(y, return_inverse=True)[1]) == net.loss(X, LABELS)


@pytest.mark.parametrize("library", FRAMES)
@pytest.mark.parametrize("kind", ["int64", "uint8", "bool"])
def test_labels_and_one_hot_rows(library, kind):
    y = FRAMES[library]({"it": LABELS.astype(kind)})["it"]
    net = make("cross_entropy", 2)
    assert net.loss(X, y) == net.loss(X, LABELS)
    one_hot = FRAMES[library]({"no": (LABELS == 0).astype(kind), "yes": LABELS.astype(kind)})
    assert net.loss(X, one_hot) == net.loss(X, np.eye(2)[LABELS])


@pytest.mark.parametrize("library", FRAMES)
def test_targets_and_weights(library):
    frame = FRAMES[library]({"y": Y, "w": [1, 0, 2, 3, 1]})
    net = make()
    expected = net.loss(X, Y, sample_weight=[1, 0, 2, 3, 1])
    assert net.loss(X, frame["y"], sample_weight=frame["w"]) == expected
    column = FRAMES[library]({"y": Y})
    assert net.loss(X, column, sample_weight=frame["w"]) == expected
    with pytest.raises(TypeError, match=r"^y: .*got shape \(5, 1\).*np\.ravel\(y\)"):
        make("cross_entropy", 2).loss(X, FRAMES[library]({"y": LABELS}))


def test_the_index_is_not_looked_at():
    pandas = require_peer("pandas")
    net = make()
    x = pandas.DataFrame(X, index=list("edcba"), columns=["c", "b", "a"])
    y = pandas.Series(Y, index=[9, 7, 5, 3, 1])
    assert net.loss(x, y, sample_weight=pandas.Series(np.ones(5), index=range(50, 55))) == net.loss(X, Y)


def test_categories():
    pandas = require_peer("pandas")
    net = make("cross_entropy", 2)
    assert net.loss(X, pandas.Series(LABELS).astype("category")) == net.loss(X, LABELS)  # their values, not their codes
    assert make().loss(X, pandas.Categorical([3, 1, 3, 1, 3])) == make().loss(X, [3, 1, 3, 1, 3])
    with pytest.raises(TypeError, match=r"^x: .*the column 'b' of dtype category; leave it out, or encode it"):
        make().forward(pandas.DataFrame({"a": Y, "b": pandas.Categorical(NAMES), "c": Y}))
    with pytest.raises(ValueError, match=r"^y: expected no missing values, got one in row 1 "):
        make().loss(X, pandas.Categorical([3, None, 3, 1, 3]))


def test_columns_of_objects():
    pandas = require_peer("pandas")
    x = pandas.DataFrame({"a": X[:, 0], "b": X[:, 1].astype(object), "c": X[:, 2]})
    with pytest.raises(TypeError, match=r"^x: .*the column 'b' of dtype object; .*x\.to_numpy\(float\)"):
        make().forward(x)
    assert np.array_equal(make().forward(x.to_numpy(float)), make().forward(X))


def test_other_kinds_of_pandas():
    pandas = require_peer("pandas")
    net = make()
    assert net.loss(X, pandas.Index(range(5))) == net.loss(X, range(5))
    assert net.loss(X, pandas.array([1, 2, 3, 4, 5], dtype="Int64")) == net.loss(X, [1, 2, 3, 4, 5])
    sparse = pandas.DataFrame({"a": pandas.arrays.SparseArray(X[:, 0]), "b": X[:, 1], "c": X[:, 2]})
    assert np.array_equal(net.forward(sparse), net.forward(X))
    twice = pandas.DataFrame(X, columns=["a", "a", "b"]).astype({"b": "Int64"})
    assert np.array_equal(net.forward(twice), net.forward(X))
    for empty in (pandas.DataFrame(), pandas.DataFrame(index=range(5)), pandas.DataFrame({"a": []})):
        with pytest.raises(ValueError, match=r"^x: expected"):
            net.forward(empty)
    with pytest.raises(TypeError, match=r"^y: expected columns of numbers, got a column of dtype"):
        net.loss(X, pandas.Series(NAMES))


def test_other_kinds_of_polars():
    polars = require_peer("polars")
    with pytest.raises(TypeError, match=r"^x: expected .*got LazyFrame .*; x\.collect\(\) makes a frame of it"):
        make().forward(polars.DataFrame(X).lazy())
    with pytest.raises(ValueError, match=r"^x: expected"):
        make().forward(polars.DataFrame())
    lists = polars.DataFrame({"a": polars.Series([[1.0, 2.0]] * 5, dtype=polars.Array(polars.Float64, 2))})
    with pytest.raises(TypeError, match=r"^x: expected columns of numbers, got the column 'a' of dtype Array"):
        make().forward(lists)


def test_a_list_of_series():
    pandas = require_peer("pandas")
    rows = [pandas.Series(row) for row in X]
    assert np.array_equal(make().forward(rows), make().forward(X))
    with pytest.raises(ValueError, match=r"^x: expected no missing values, got one in row 1 "):
        make().forward([pandas.array([1, None, 2], dtype="Int64")])


@pytest.mark.parametrize("library", FRAMES)
def test_every_call_takes_frames(library):
    frame = FRAMES[library](COLUMNS["mixed"])
    y = FRAMES[library]({"y": Y})["y"]
    net = make()
    fun, plain = net.objective(frame, y), net.objective(X, Y)
    assert fun(net.params)[0] == plain(net.params)[0]
    assert np.array_equal(fun.hessp(net.params, net.params), plain.hessp(net.params, net.params))
    assert np.array_equal(net.per_sample_gradients(frame, y), net.per_sample_gradients(X, Y))
    assert np.array_equal(net.input_jacobian(frame), net.input_jacobian(X))
    assert np.array_equal(net.residuals(frame, y)[0](net.params), net.residuals(X, Y)[0](net.params))
    assert net.check_gradient(frame, y).ok
    assert net.find_nonfinite(frame, y) is None


def test_nothing_is_imported():
    code = (
        "import sys, numpy as np, backprop; net = backprop.Network([2, 3, 1]); net.loss([[1, 2]], [1.0]); "
        "assert not {'pandas', 'polars', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

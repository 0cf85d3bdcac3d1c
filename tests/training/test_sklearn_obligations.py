"""scikit-learn's common checks, for both estimators and the solvers lbfgs and adam: no failure is expected."""

import inspect

import numpy as np
import pytest
from required_peers import require_peer

sklearn = require_peer("sklearn")

from sklearn import neural_network  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks  # noqa: E402

from backprop.sklearn import MLPClassifier, MLPRegressor  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the checks fit badly conditioned data, and warn about that

ESTIMATORS = [
    kind(solver=solver, max_iter=100, random_state=0)
    for kind in (MLPRegressor, MLPClassifier)
    for solver in ("lbfgs", "adam")
]


@parametrize_with_checks(ESTIMATORS)
def test_common_checks(estimator, check):
    check(estimator)


@pytest.mark.long("parametrize_with_checks has run the same checks")
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_check_estimator(estimator):
    logs = check_estimator(clone(estimator), on_fail=None)
    assert [log["check_name"] for log in logs if log["status"] == "failed"] == []
    assert len(logs) > 50


@pytest.mark.parametrize("name", ["MLPRegressor", "MLPClassifier"])
def test_arguments_have_scikit_learns_names_order_and_defaults(name):
    mine, its = ({"MLPRegressor": MLPRegressor, "MLPClassifier": MLPClassifier}[name], getattr(neural_network, name))
    expected = inspect.signature(its).parameters
    got = inspect.signature(mine).parameters
    assert list(got)[: len(expected)] == list(expected)
    for argument, parameter in expected.items():
        assert got[argument].default == parameter.default
        assert got[argument].kind == parameter.kind


@pytest.mark.parametrize("kind", [MLPRegressor, MLPClassifier])
def test_names_of_features_of_pandas_and_polars(kind):
    pandas, polars = require_peer("pandas"), require_peer("polars")
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 2))
    y = (X[:, 0] > 0).astype(int)
    for frame in (pandas.DataFrame(X, columns=["a", "b"]), polars.DataFrame(X, schema=["a", "b"])):
        model = kind(max_iter=5, random_state=0).fit(frame, y)
        assert list(model.feature_names_in_) == ["a", "b"]
        np.testing.assert_array_equal(model.predict(frame), kind(max_iter=5, random_state=0).fit(X, y).predict(X))

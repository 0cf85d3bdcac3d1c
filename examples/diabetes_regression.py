"""A regression of scikit-learn's diabetes data: one changed import, a better solver, and three quantiles at once.

442 patients have ten measurements each: age, sex, body mass index, blood pressure, six of blood serum. The target is
how far the disease has gone a year later, here divided by 100. The data are few and noisy, so the penalty alpha decides
how good a network is: GridSearchCV chooses it, with the number of units, in a Pipeline that scales the inputs.

The same search runs three times:

- with scikit-learn's MLPRegressor and its lbfgs;
- with that of `backprop.sklearn`: one import is changed, no argument is;
- with solver="lm" of it, Levenberg-Marquardt, which scikit-learn does not have. It needs few iterations.

All have the same folds, and begin at the same random weights. They find networks that are about equally good.

The last model has loss=("quantile", (0.1, 0.5, 0.9)): three outputs, which are quantiles of one target. Between the
first and the last there should lie 80 % of the patients. The table shows how many there are among those held out.

Run: python examples/diabetes_regression.py [--plot diabetes_regression.png] [--quick]
It takes about 7 seconds on two cores. It needs scikit-learn, which brings the data.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np

from backprop.demo import figure_file

BLUE, ORANGE = "#1f5a92", "#d9722b"
TAUS = (0.1, 0.5, 0.9)
COMMON = {"activation": "tanh", "max_iter": 500, "random_state": 0}


def load() -> list[np.ndarray]:
    """The data, a quarter of them held out: X_train, X_test, y_train, y_test."""
    from sklearn.datasets import load_diabetes
    from sklearn.model_selection import train_test_split

    X, y = load_diabetes(return_X_y=True)
    return train_test_split(X, y / 100.0, test_size=0.25, random_state=0)


def searched(regressor, X: np.ndarray, y: np.ndarray, quick: bool):
    """GridSearchCV of a pipeline with the regressor, fitted; and the seconds that it took."""
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    grid = {
        "mlpregressor__hidden_layer_sizes": [(4,)] if quick else [(4,), (8,)],
        "mlpregressor__alpha": [3.0, 10.0],
    }
    folds = KFold(2 if quick else 4, shuffle=True, random_state=0)
    search = GridSearchCV(make_pipeline(StandardScaler(), regressor), grid, cv=folds)
    started = time.perf_counter()
    search.fit(X, y)
    return search, time.perf_counter() - started


def draw(path: str, y: np.ndarray, y_hat: np.ndarray) -> None:
    """Write a figure: the patients that were held out, by their predicted median, within their interval."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    FigureCanvasAgg(figure)  # needs no display
    axes = figure.subplots()
    order = np.argsort(y_hat[:, 1])
    low, median, high = 100 * y_hat[order].T
    places = np.arange(len(order))
    axes.fill_between(places, low, high, color=BLUE, alpha=0.2, linewidth=0, label="from the 10 % to the 90 % quantile")
    axes.plot(places, median, color=BLUE, linewidth=2, label="median")
    axes.plot(places, 100 * y[order], "o", color=ORANGE, markersize=4, label="patients that were held out")
    axes.set_xlabel("patients, by their predicted median")
    axes.set_ylabel("progression of the disease")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Search, compare, and predict quantiles."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=figure_file, help="write a figure to this file")
    parser.add_argument("--quick", action="store_true", help="a smaller grid and fewer folds")
    arguments = parser.parse_args()

    from sklearn import neural_network
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from backprop.sklearn import MLPRegressor

    warnings.simplefilter("ignore", ConvergenceWarning)  # of single fits of the search
    X_train, X_test, y_train, y_test = load()
    print(f"{len(y_train)} patients, {len(y_test)} held out; R^2 of the cross-validation and of those held out\n")
    print("regressor                        units  alpha  R^2 cv  R^2 held out  seconds")
    for name, regressor in {
        "scikit-learn, solver lbfgs": neural_network.MLPRegressor(solver="lbfgs", **COMMON),
        "backprop.sklearn, solver lbfgs": MLPRegressor(solver="lbfgs", **COMMON),
        "backprop.sklearn, solver lm": MLPRegressor(solver="lm", **COMMON),
    }.items():
        search, seconds = searched(regressor, X_train, y_train, arguments.quick)
        units = search.best_params_["mlpregressor__hidden_layer_sizes"][0]
        alpha = search.best_params_["mlpregressor__alpha"]
        scores = f"{search.best_score_:6.3f}  {search.score(X_test, y_test):12.3f}"
        print(f"{name:<31}  {units:5d}  {alpha:5g}  {scores}  {seconds:7.2f}")

    quantiles = MLPRegressor(("quantile", TAUS), (4,), solver="lbfgs", alpha=3.0, **COMMON)
    y_hat = make_pipeline(StandardScaler(), quantiles).fit(X_train, y_train).predict(X_test)
    inside = np.mean((y_hat[:, 0] <= y_test) & (y_test <= y_hat[:, 2]))
    width = np.mean(y_hat[:, 2] - y_hat[:, 0])
    constant = np.subtract(*np.quantile(y_train, [0.9, 0.1]))
    print(f"\nquantiles {TAUS}: y_hat has the shape {y_hat.shape}")
    print(f"{100 * inside:.0f}% of the patients held out are between the first and the last")
    print(f"the mean width is {100 * width:.0f}; one interval for all patients has {100 * constant:.0f}")
    if arguments.plot:
        draw(arguments.plot, y_test, y_hat)
        print(f"figure: {arguments.plot}")


if __name__ == "__main__":
    main()

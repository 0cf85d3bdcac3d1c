"""A classification of scikit-learn's breast cancer data: the same search, the same scores, in a fraction of the time.

569 images of cells have thirty measurements each; 357 are benign, 212 malignant. A Pipeline scales the inputs, and
GridSearchCV chooses the penalty alpha and the number of units. It runs twice with solver="adam": with scikit-learn's
MLPClassifier, and with that of `backprop.sklearn`. One import is changed, no argument is.

`backprop.sklearn` draws the same random numbers and makes the same steps, so each score of the search is equal. The
table shows the largest relative difference of the losses on the way too: it comes from rounding.

A malignant tumour that is missed is worse than a false alarm. scikit-learn's class has no class_weight; this one has.
The last lines count both mistakes on the images held out, for several weights of the malignant class.

Run: python examples/breast_cancer_grid_search.py [--plot breast_cancer.png] [--quick]
It takes about 5 seconds on two cores. It needs scikit-learn, which brings the data.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np

from backprop.demo import figure_file

BLUE, ORANGE = "#1f5a92", "#d9722b"
MALIGNANT = 0  # as the data number the classes
WEIGHTS = (1.0, 3.0, 10.0, 30.0)
COMMON = {"activation": "tanh", "learning_rate_init": 0.01, "random_state": 0}


def load() -> list[np.ndarray]:
    """The data, a third of them held out: X_train, X_test, y_train, y_test."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import train_test_split

    X, y = load_breast_cancer(return_X_y=True)
    return train_test_split(X, y, test_size=1 / 3, stratify=y, random_state=0)


def searched(classifier, X: np.ndarray, y: np.ndarray, quick: bool):
    """GridSearchCV of a pipeline with the classifier, fitted; and the seconds that it took."""
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    grid = {
        "mlpclassifier__hidden_layer_sizes": [(8,)] if quick else [(8,), (16,)],
        "mlpclassifier__alpha": [0.1, 10.0] if quick else [0.1, 1.0, 10.0],
    }
    search = GridSearchCV(make_pipeline(StandardScaler(), classifier), grid, cv=2 if quick else 4)
    started = time.perf_counter()
    search.fit(X, y)
    return search, time.perf_counter() - started


def mistakes(X_train, X_test, y_train, y_test, **arguments) -> list[tuple[int, int]]:
    """For each weight of the malignant class: how many malignant are missed, and false alarms."""
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from backprop.sklearn import MLPClassifier

    counts = []
    for weight in WEIGHTS:
        classifier = MLPClassifier(class_weight={MALIGNANT: weight}, **arguments)
        predicted = make_pipeline(StandardScaler(), classifier).fit(X_train, y_train).predict(X_test)
        missed = (predicted != MALIGNANT) & (y_test == MALIGNANT)
        alarms = (predicted == MALIGNANT) & (y_test != MALIGNANT)
        counts.append((int(missed.sum()), int(alarms.sum())))
    return counts


def draw(path: str, curves: dict[str, list[float]], counts: list[tuple[int, int]]) -> None:
    """Write a figure: the losses of both classes, and the mistakes against the weight."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.4), layout="constrained")
    FigureCanvasAgg(figure)  # needs no display
    left, right = figure.subplots(1, 2)
    for (name, curve), color, style in zip(curves.items(), (ORANGE, BLUE), ("-", "--"), strict=True):
        left.semilogy(np.arange(1, len(curve) + 1), curve, style, color=color, linewidth=2, label=name)
    left.set_xlabel("epoch")
    left.set_ylabel("loss")
    left.set_title("One curve, twice")
    left.legend(frameon=False)
    for column, label, color in ((0, "malignant, but missed", ORANGE), (1, "false alarms", BLUE)):
        right.semilogx(WEIGHTS, [pair[column] for pair in counts], "o-", color=color, linewidth=2, label=label)
    right.set_xticks(WEIGHTS, [f"{weight:g}" for weight in WEIGHTS], minor=False)
    right.minorticks_off()
    right.set_ylim(bottom=0)
    right.set_xlabel("weight of the malignant class")
    right.set_ylabel("images that were held out")
    right.set_title("class_weight")
    right.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Search with both classes, compare, and weigh mistakes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=figure_file, help="write a figure to this file")
    parser.add_argument("--quick", action="store_true", help="a smaller grid and fewer folds")
    arguments = parser.parse_args()

    from sklearn import neural_network
    from sklearn.exceptions import ConvergenceWarning

    from backprop.sklearn import MLPClassifier

    warnings.simplefilter("ignore", ConvergenceWarning)  # of single fits of the search
    split = load()
    X_train, X_test, y_train, y_test = split
    print(f"{len(y_train)} images, {len(y_test)} held out; accuracy of the cross-validation and of those held out\n")
    print("classifier        units  alpha      cv  held out  seconds")
    searches, curves = [], {}
    for name, classifier in {
        "scikit-learn": neural_network.MLPClassifier(**COMMON),
        "backprop.sklearn": MLPClassifier(**COMMON),
    }.items():
        search, seconds = searched(classifier, X_train, y_train, arguments.quick)
        units = search.best_params_["mlpclassifier__hidden_layer_sizes"][0]
        alpha = search.best_params_["mlpclassifier__alpha"]
        scores = f"{search.best_score_:6.4f}  {search.score(X_test, y_test):8.4f}"
        print(f"{name:<16}  {units:5d}  {alpha:5g}  {scores}  {seconds:7.2f}")
        searches.append(search)
        curves[name] = search.best_estimator_[-1].loss_curve_
    its, ours = (search.cv_results_["mean_test_score"] for search in searches)
    print(f"\nscores of the search that differ: {np.count_nonzero(its != ours)} of {len(its)}")
    lengths = {len(curve) for curve in curves.values()}
    assert len(lengths) == 1, "both stop at the same epoch"
    expected, losses = (np.array(curve) for curve in curves.values())
    difference = np.max(np.abs(losses - expected) / expected)
    print(f"largest relative difference of the losses, over {len(losses)} epochs: {difference:.1e}\n")

    print("weight of the malignant class  missed  false alarms")
    counts = mistakes(*split, hidden_layer_sizes=(8,), alpha=10.0, **COMMON)
    for weight, (missed, alarms) in zip(WEIGHTS, counts, strict=True):
        print(f"{weight:29g}  {missed:6d}  {alarms:12d}")
    if arguments.plot:
        draw(arguments.plot, curves, counts)
        print(f"figure: {arguments.plot}")


if __name__ == "__main__":
    main()

"""Many fits of a small network, each to data of its own: `Ensemble.fit` beside scikit-learn's lbfgs under joblib."""

import time
import warnings
from statistics import median

import numpy as np
import report

import backprop

SIZES, N_ROWS, N_FITS, N_SAMPLE = (1, 8, 1), 50, 10_000, 200
MAX_ITER, TOL = 200, 1e-6
N_THREADS, N_ROUNDS = 2, 3
TITLE = f"fits of {'-'.join(map(str, SIZES))} by lbfgs on {N_ROWS} points each, float64"
GOAL = 30.0  # times faster
WORSE = 1.1  # times the median loss of scikit-learn, that ours may have at the end


def make(n_fits):
    """An ensemble, x (n_fits, n_rows, 1) and y: noisy sines, each with a frequency and a phase of its own."""
    rng = np.random.default_rng(0)
    ensemble = backprop.Ensemble(backprop.Network(SIZES, activations="tanh", dtype="float64", rng=0), n_fits, rng=1)
    x = rng.uniform(-3, 3, (n_fits, N_ROWS, 1))
    y = np.sin(rng.uniform(0.5, 2, (n_fits, 1, 1)) * x + rng.uniform(-3, 3, (n_fits, 1, 1)))
    return ensemble, x, y + 0.05 * rng.standard_normal(y.shape)


def fit_by_sklearn(x, y, layers):
    """One fit from these (W, b): the parameters that it leaves, our measure of its loss, and its iterations.

    scikit-learn also stops if an iteration makes the loss smaller by less than 2.2e-9 of it.
    """
    from sklearn.neural_network import MLPRegressor

    class Started(MLPRegressor):
        """A regressor that starts from given parameters."""

        def _init_coef(self, fan_in, fan_out, dtype):
            W, b = next(self._layers)
            return np.array(W.T, dtype), np.array(b, dtype)

    options = {"hidden_layer_sizes": SIZES[1:-1], "activation": "tanh", "solver": "lbfgs", "alpha": 0.0}
    model = Started(**options, max_iter=MAX_ITER, tol=TOL / 2)
    model._layers = iter(layers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y.ravel())
    found = [(coef.T, b) for coef, b in zip(model.coefs_, model.intercepts_, strict=True)]
    return found, 2 * model.loss_, model.n_iter_


def measure(is_short):
    """Seconds of both in turns, scikit-learn's on a sample of the fits, and their losses.

    Raises
    ------
    RuntimeError
        If scikit-learn's loss is not ours at its parameters, or if ours ends at larger losses.
    """
    from joblib import Parallel, delayed

    n_fits, n_sample, n_rounds = (200, 8, 1) if is_short else (N_FITS, N_SAMPLE, N_ROUNDS)
    ensemble, x, y = make(n_fits)
    start = ensemble.params.copy()
    layers = [[(W.copy(), b.copy()) for W, b in ensemble[0].unflatten(theta)] for theta in start[:n_sample]]
    seconds = {"ours": [], "sklearn": []}
    with Parallel(n_jobs=N_THREADS) as parallel:
        parallel(delayed(time.sleep)(0.1) for _ in range(2 * N_THREADS))  # starts the processes
        parallel(delayed(fit_by_sklearn)(x[i], y[i], layers[i]) for i in range(2 * N_THREADS))  # and imports
        for _ in range(n_rounds):
            begin = time.perf_counter()
            ensemble.params = start
            results = ensemble.fit(x, y, solver="lbfgs", max_iter=MAX_ITER, tol=TOL, n_threads=N_THREADS)
            seconds["ours"].append(time.perf_counter() - begin)
            begin = time.perf_counter()
            theirs = parallel(delayed(fit_by_sklearn)(x[i], y[i], layers[i]) for i in range(n_sample))
            seconds["sklearn"].append((time.perf_counter() - begin) * n_fits / n_sample)
    net = ensemble[0]
    for i, (parameters, loss, _) in enumerate(theirs):
        theta = np.concatenate([part.ravel() for layer in parameters for part in layer])
        ours = net.loss(x[i], y[i], params=theta)
        if abs(loss - ours) > 1e-12 * ours:
            raise RuntimeError(f"fit {i}: scikit-learn has a loss of {loss}, ours at its parameters is {ours}")
    found = {"fits": n_fits, "sample": n_sample, "threads": N_THREADS, "seconds": seconds}
    found["losses"] = {
        "ours": median(result.loss for result in results[:n_sample]),
        "sklearn": median(loss for _, loss, _ in theirs),
    }
    found["iterations"] = {
        "ours": float(np.mean([result.n_iter for result in results[:n_sample]])),
        "sklearn": float(np.mean([n for _, _, n in theirs])),
    }
    if found["losses"]["ours"] > WORSE * found["losses"]["sklearn"]:
        raise RuntimeError(f"the median losses of {n_sample} fits are {found['losses']}")
    found["ratio"] = median(b / a for a, b in zip(seconds["ours"], seconds["sklearn"], strict=True))
    found["least_ratio"] = min(seconds["sklearn"]) / min(seconds["ours"])
    found["met"] = found["least_ratio"] >= GOAL
    return found


def lines(found):
    """What was measured, in text."""
    times = {name: f"{median(values):.3g} s" for name, values in found["seconds"].items()}
    losses, iterations = found["losses"], found["iterations"]
    return [
        f"{found['fits']:,} {TITLE}, {found['threads']} threads or processes:",
        f"  Ensemble.fit {times['ours']}; joblib and scikit-learn {times['sklearn']}, scaled up from a sample of "
        f"{found['sample']} fits: {report.ratio(found['ratio'])} x by medians, {report.ratio(found['least_ratio'])} x "
        f"by least times{'*' * (not found['met'])}",
        f"  of the sample: median loss {losses['ours']:.3g} and {losses['sklearn']:.3g}, iterations "
        f"{iterations['ours']:.0f} and {iterations['sklearn']:.0f}",
    ]

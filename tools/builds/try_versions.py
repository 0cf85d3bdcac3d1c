"""Try the package with old and new releases of the libraries that it meets.

    python tools/builds/try_versions.py
    python tools/builds/try_versions.py --wheel build/wheels/dist/backprop_cpu-0.1.0-cp311-cp311-linux_x86_64.whl
    python tools/builds/try_versions.py --short      # the releases that are installed here, without the tests

It builds a wheel and makes a new environment for each set of releases below. A few lines that use all of the libraries
at once run there, then the tests that touch them. The last lines are a table of what happened; the exit status is 0 if
all of it went well. It takes about a quarter of an hour on two cores with Python 3.11, for which the pinned releases
have wheels.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from built_copy import test_path
from try_wheels import ROOT, environment, run

BESIDE = ["scikit-learn", "pandas", "polars", "pyarrow", "joblib", "tqdm", "matplotlib", "safetensors"]
WITH_SCIKIT_LEARN_1_4 = [
    *("scikit-learn==1.4.2", "numpy==1.26.4", "scipy==1.13.1", "pandas==2.2.3", "polars"),
    "pyarrow==17.0.0",  # later ones do not import with NumPy 1.26
    *BESIDE[4:],
]
SETS = {
    "threadpoolctl 2.2": ["threadpoolctl==2.2.0", *WITH_SCIKIT_LEARN_1_4],
    "threadpoolctl 3.1": ["threadpoolctl==3.1.0", *WITH_SCIKIT_LEARN_1_4],
    "threadpoolctl 3.2": ["threadpoolctl==3.2.0", *WITH_SCIKIT_LEARN_1_4],
    "oldest": [
        *("numpy==1.26.0", "scipy==1.11.1", "scikit-learn==1.4.0", "threadpoolctl==2.2.0", "joblib==1.2.0"),
        *("pandas==2.0.3", "polars==0.20.31", "matplotlib==3.8.0", "tqdm==4.60.0", "safetensors==0.4.0"),
        "pyparsing==3.1.4",  # matplotlib 3.8 gets warnings from later ones, which are errors in the tests
    ],
    "pandas 2": ["pandas==2.3.3", "threadpoolctl", *BESIDE],
    "newest": ["numpy", "scipy", "threadpoolctl", *BESIDE],
}
SHOWN = ["numpy", "scipy", "threadpoolctl", "scikit-learn", "pandas", "polars"]
MODULES = ["after_import", "array_likes", "arrays", "bad_input", "bits", "cli", "file_kinds", "frames", "labels"]
MODULES += ["network", "threads"]
FEW_OF_THREADS = "not test_threads or threadpoolctl"  # the others use no other library, and take minutes

# Imports in several orders, because each library may look for the others; then all of them in one computation.
IMPORTS = "import {}; backprop.Network([2, 3, 1], rng=0).forward([[1.0, 2.0]])"
ORDERS = [
    "backprop, sklearn, threadpoolctl",
    "threadpoolctl, sklearn, backprop",
    "sklearn, pandas, polars, backprop",
    "backprop, polars, pandas, sklearn",
]
TOGETHER = """
import sys
import backprop, numpy as np, pandas, polars, threadpoolctl
from importlib.metadata import version
from scipy.optimize import minimize
from sklearn.neural_network import MLPRegressor

assert len(sys.argv) > 1 or sys.prefix in backprop.__file__, backprop.__file__  # not another one's
rng = np.random.default_rng(0)
x, y = rng.normal(size=(60, 3)), rng.normal(size=60)
net = backprop.Network([3, 8, 1], activations="tanh", rng=0)
with threadpoolctl.threadpool_limits(1):
    loss, grad = net.value_and_grad(x, y)
    model = MLPRegressor(hidden_layer_sizes=(8,), activation="tanh", random_state=0).partial_fit(x, y)
    net.params = np.concatenate([t.T.ravel() for pair in zip(model.coefs_, model.intercepts_) for t in pair])
    np.testing.assert_allclose(net.forward(x)[:, 0], model.predict(x), rtol=1e-12)
    result = minimize(net.objective(x, y), net.params, jac=True, method="L-BFGS-B", options={"maxiter": 5})
    assert result.fun < loss
    expected = net.value_and_grad(x, y)
    names = ["a", "b", "c"]
    for X, Y in [
        (pandas.DataFrame(x, columns=names), pandas.Series(y)),
        (polars.DataFrame(x, schema=names), polars.Series(y)),
        (x.tolist(), y.tolist()),
    ]:
        loss, grad = net.value_and_grad(X, Y)
        assert loss == expected[0]
        assert grad.tobytes() == expected[1].tobytes()
    whole = np.arange(12.0).reshape(4, 3)
    mixed = pandas.DataFrame({"a": whole[:, 0].astype("int8"), "b": whole[:, 1].astype("float32"), "c": whole[:, 2]})
    assert net.forward(mixed).tobytes() == net.forward(whole).tobytes()
    assert net.forward(polars.from_pandas(mixed)).tobytes() == net.forward(whole).tobytes()
    nullable = pandas.DataFrame({"a": [1, 0], "b": [0.5, 2.0], "c": [3, 4]})
    nullable = nullable.astype({"a": "boolean", "b": "Float64"})
    plain = np.array([[1, 0.5, 3], [0, 2, 4]])
    assert net.forward(nullable).tobytes() == net.forward(plain).tobytes()
    frame = polars.DataFrame({"a": [True, False], "b": [0.5, 2.0], "c": [3, 4]})
    assert net.forward(frame).tobytes() == net.forward(plain).tobytes()
    try:
        net.forward(nullable.assign(b=pandas.array([0.5, None], "Float64")))
        raise AssertionError("a missing value was taken")
    except ValueError as error:
        assert "'b'" in str(error), error
known = [library["user_api"] for library in threadpoolctl.threadpool_info()].count("backprop")
release = tuple(int(number) for number in version("threadpoolctl").split(".")[:2])
assert known == (release >= (3, 2)), (known, release)
"""
VERSIONS = "from importlib.metadata import version; print(*map(version, {!r}))"


def build_wheel(work: Path) -> Path:
    """A wheel for this Python."""
    run(sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", "-w", work, ROOT)
    (wheel,) = work.glob("*.whl")
    return wheel


def tests() -> list[str]:
    """The modules' paths."""
    return [test_path(f"test_{name}") for name in MODULES]


def short() -> int:
    """What needs no network: read the pins, and use all installed releases together."""
    from packaging.requirements import Requirement

    pins = {Requirement(pin).name for pinned in SETS.values() for pin in pinned}
    absent = [
        name for name in ("sklearn", "pandas", "polars", "threadpoolctl") if importlib.util.find_spec(name) is None
    ]
    if absent:
        sys.exit(f"expected {', '.join(absent)} to be installed")
    print(f"{len(tests())} modules of tests; {len(SETS)} sets of releases of {len(pins)} packages")
    print("the sets need a network, and are not tried in the short form")
    run(sys.executable, "-W", "error", "-c", IMPORTS.format(ORDERS[0]))
    run(sys.executable, "-c", TOGETHER, "from anywhere")
    print("together:", run(sys.executable, "-c", VERSIONS.format(SHOWN)).strip())
    return 0


def try_set(work: Path, wheel: Path, name: str) -> list[str]:
    """Try one set of releases; return a row of the table, whose last word is X if anything went wrong."""
    start = time.monotonic()
    own = environment(work / "tried", sys.executable, "--only-binary=:all:", wheel, "pytest", *SETS[name])
    versions = run(own, "-c", VERSIONS.format(SHOWN)).split()
    commands = {IMPORTS.format(order): [own, "-W", "error", "-c", IMPORTS.format(order)] for order in ORDERS}
    commands["all together"] = [own, "-c", TOGETHER]
    commands["tests"] = [own, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--all", "-k", FEW_OF_THREADS, *tests()]
    failed = []
    last = ""
    for what, command in commands.items():
        print(f"$ {what} ({name})", flush=True)
        done = subprocess.run(
            command, check=False, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        last = done.stdout.rstrip().rsplit("\n", 1)[-1].strip("= ")
        if done.returncode:
            print(done.stdout, flush=True)
            failed.append(what)
    return [name, *versions, last, f"{time.monotonic() - start:.0f} s", "X " + "; ".join(failed) if failed else ""]


def table(rows: list[list[str]]) -> str:
    """The rows, aligned."""
    rows = [["set", *SHOWN, "tests", "", ""], *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path, help="use this wheel, and build none")
    parser.add_argument("--short", action="store_true", help="the releases that are installed here")
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"some of {list(SETS)}; all by default")
    options = parser.parse_args()
    if options.short:
        return short()
    unknown = [name for name in options.sets if name not in SETS]
    if unknown:
        parser.error(f"expected some of {list(SETS)}, got {unknown}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        wheel = options.wheel.resolve() if options.wheel else build_wheel(work)
        for name in options.sets or SETS:
            rows.append(try_set(work, wheel, name))
            print("\n" + table(rows), flush=True)
    return int(any(row[-1] for row in rows))


if __name__ == "__main__":
    sys.exit(main())

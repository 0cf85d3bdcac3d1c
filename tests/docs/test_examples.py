"""The examples run in their short form, and the numbers in their tables are what the examples claim."""

import re
import subprocess
import sys

import numpy as np
import pytest
from places import ROOT

from backprop import __main__ as cli
from backprop import demo

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

pytestmark = pytest.mark.skipif(not (ROOT / "examples").is_dir(), reason="the examples are in the repository alone")


def lines_of(name, tmp_path, *arguments):
    """What `python examples/name --quick --plot ... arguments` prints; the figure has been drawn."""
    pytest.importorskip("matplotlib")
    plot = tmp_path / "figure.png"
    command = [sys.executable, str(ROOT / "examples" / name), "--quick", "--plot", str(plot), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert plot.read_bytes()[:8] == PNG_SIGNATURE
    return done.stdout.splitlines()


def test_least_squares_finds_the_certified_values(tmp_path):
    lines = lines_of("least_squares.py", tmp_path)
    digits = {}
    for line in lines:
        found = re.match(r"(Rat42|MGH17|ENSO) .*(residuals|normal_equations) +\d+ +([\d.]+) +([\d.]+) +([\d.]+)$", line)
        if found:
            digits[found[1], found[2]] = [float(d) for d in found.groups()[2:]]
    assert len(digits) == 6
    for (_, solver), (parameters, standard_errors, sum_of_squares) in digits.items():
        if solver == "normal_equations":
            assert min(parameters, standard_errors) >= 9.5  # seen: 10.6
        assert sum_of_squares >= 10.5
    assert digits["Rat42", "residuals"][0] >= 8.0
    assert digits["MGH17", "residuals"][0] >= 8.0
    assert digits["ENSO", "residuals"][0] >= 5.5  # SciPy stops when the sum of squares is flat; seen: 6.4


def test_input_gradients_make_the_surrogate_better(tmp_path):
    table = {}
    for line in lines_of("differential_ml.py", tmp_path):
        found = re.match(r" *(\d+)  (with gradients|without) +([\d.]+) +([\d.]+) +[\d.]+$", line)
        if found:
            table[int(found[1]), found[2]] = np.array([float(found[3]), float(found[4])])
    assert sorted(table) == [(n, how) for n in (256, 1024) for how in ("with gradients", "without")]
    for n in (256, 1024):
        assert (table[n, "with gradients"] < 0.8 * table[n, "without"]).all()  # price and delta


@pytest.mark.long("a whole example, for seconds; its calls have tests of their own")
def test_privacy_costs_accuracy(tmp_path):
    pytest.importorskip("sklearn")
    rows = []
    for line in lines_of("private_digits.py", tmp_path):
        found = re.match(r" *(\d+) +(inf|[\d.]+) +([\d.]+)% \(", line)
        if found:
            rows.append([float(group) for group in found.groups()])
    sigma, epsilon, accuracy = np.array(rows).T
    assert len(sigma) == 7
    assert sigma[0] == 0
    assert accuracy[0] >= 90.0
    assert (np.diff(accuracy) < 1.0).all()  # it falls; a little noise costs less than the seeds differ by
    assert accuracy[-1] < 50.0
    assert (np.diff(epsilon) < 0).all()
    assert accuracy[sigma == 20.0][0] >= 85.0
    rho = 60 / (2 * 20.0**2)
    assert epsilon[sigma == 20.0][0] == pytest.approx(rho + 2 * np.sqrt(rho * np.log(1e5)), abs=5e-3)


def test_a_search_is_as_good_as_scikit_learns(tmp_path):
    pytest.importorskip("sklearn", minversion="1.6")
    lines = lines_of("diabetes_regression.py", tmp_path)
    rows = [re.match(r"(.*), solver (\w+) +\d+ +[\d.]+ +([\d.]+) +([\d.]+) +([\d.]+)$", line) for line in lines]
    scores = {row.group(1, 2): (float(row[3]), float(row[4])) for row in rows if row}
    its = scores["scikit-learn", "lbfgs"]
    assert its[0] > 0.5
    assert scores["backprop.sklearn", "lbfgs"] == pytest.approx(its, abs=0.02)
    assert scores["backprop.sklearn", "lm"] == pytest.approx(its, abs=0.04)
    (inside,) = re.findall(r"^(\d+)% of the patients held out", "\n".join(lines), re.MULTILINE)
    assert 70 <= int(inside) <= 90
    ((width, constant),) = re.findall(r"width is (\d+); one interval for all patients has (\d+)", "\n".join(lines))
    assert int(width) < 0.8 * int(constant)


@pytest.mark.long("a whole example, for seconds; its calls have tests of their own")
def test_a_search_has_the_scores_of_scikit_learns(tmp_path):
    pytest.importorskip("sklearn", minversion="1.6")
    text = "\n".join(lines_of("breast_cancer_grid_search.py", tmp_path))
    rows = re.findall(r"^(?:scikit-learn|backprop.sklearn) +(\d+ +\S+ +\S+ +\S+) +[\d.]+$", text, re.MULTILINE)
    assert len(rows) == 2
    assert rows[0] == rows[1]
    assert "scores of the search that differ: 0 of 2" in text
    (difference,) = re.findall(r"largest relative difference of the losses, .*: (\S+)$", text, re.MULTILINE)
    assert float(difference) < 1e-12
    mistakes = np.array(re.findall(r"^ +(\d+) +(\d+) +(\d+)$", text, re.MULTILINE), int)
    assert mistakes[:, 0].tolist() == [1, 3, 10, 30]
    assert (np.diff(mistakes[:, 1]) <= 0).all()
    assert mistakes[-1, 1] < mistakes[0, 1]


def test_a_surrogate_of_a_file(tmp_path):
    lines = lines_of("many_machines.py", tmp_path, "--data", str(tmp_path))
    table = [line.split() for line in lines if re.match(r" *\d+ +[\d.]+ +[\d.]+$", line)]
    losses = [float(loss) for _, loss, _ in table]
    assert sorted(losses, reverse=True) == losses
    assert losses[-1] < 0.01
    (error,) = re.findall(r"error at new points ([\d.]+)% of the deviation", "\n".join(lines))
    assert float(error) < 10.0  # the loss is the square of this, of the file


@pytest.mark.long("a whole example, for seconds; its calls have tests of their own")
def test_many_small_fits_are_good(tmp_path):
    lines = lines_of("many_small_fits.py", tmp_path)
    table = [line.split() for line in lines if re.match(r" +\d+ +[\d.]+ +[\d.]+ ", line)]
    assert len(table) == 4
    for _, _, _, n_iter, residuals, error, converged in table:
        assert float(n_iter) < 20
        assert 0.04 < float(residuals) < 0.05  # that of the noise is 0.05; seen: 0.045
        assert float(error) < 0.025
        assert float(converged.rstrip("%")) > 98
    (last,) = [line for line in lines if line.endswith(", the same bits")]
    assert last.startswith("one after the other")


def test_a_network_solves_poissons_equation(tmp_path):
    text = "\n".join(lines_of("poisson_l_shape.py", tmp_path))
    (bound,) = re.findall(r"^reference: .* error below (\S+) everywhere", text, re.MULTILINE)
    assert float(bound) < 1e-6
    rows = re.findall(r"^(.*\)) +(\d+) +[\d.]+ +(\S+e\S+) +(\S+e\S+)$", text, re.MULTILINE)
    errors = {way: (float(largest), float(relative)) for way, _, largest, relative in rows}
    penalty, exact = errors["N(x, y)"], errors["s (1-x^2) (1-y^2) N(x, y, s)"]
    assert len(errors) == 3
    assert exact[0] < 4e-3  # seen: 1.4e-3
    assert exact[1] < 1.5e-2  # seen: 6e-3
    assert exact[1] < 0.3 * penalty[1]


def test_exact_hessians_need_fewer_iterations(tmp_path):
    text = "\n".join(lines_of("optimal_design.py", tmp_path))
    rows = re.findall(r"^(exact|SR1|BFGS) +(\d+) \((\d+)\) +\d+ +[\d.]+ +(\d) of 3 +(\S+)$", text, re.MULTILINE)
    iterations = {how: int(median) for how, median, *_ in rows}
    assert iterations["exact"] < 0.7 * iterations["SR1"]
    assert iterations["exact"] < 0.3 * iterations["BFGS"]
    ((_, _, most, arrived, shortfall),) = [row for row in rows if row[0] == "exact"]
    assert (int(most) < 60, int(arrived), float(shortfall) < 1e-5) == (True, 3, True)
    designs = re.findall(
        r"^(network|the same, simulated|improved by simulations) +([\d.]+) +([\d.]+) +([\d.]+) ", text, re.MULTILINE
    )
    (predicted, *limits), simulated, improved = (np.array(row[1:], float) for row in designs)
    assert limits[0] >= 92.99
    assert limits[1] <= 320.01
    assert np.abs(simulated - [predicted, *limits]).max() < 1.0
    assert 0 <= improved[0] - simulated[0] < 0.5  # the design of the network is almost the best
    assert improved[1] >= 92.99
    assert improved[2] <= 320.01


def test_list_names_them_all(capsys):
    assert cli.main(["demo", "--list"]) == 0
    out = capsys.readouterr().out
    assert "python -m backprop demo" in out
    files = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    assert sorted(demo.EXAMPLES) == [f"examples/{name}" for name in files]
    for path, about in demo.EXAMPLES.items():
        assert f"python {path} " in out
        assert about in out
    assert max(map(len, out.splitlines())) <= 88


def test_the_time_of_an_example_is_the_same_wherever_it_is_stated():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path, about in demo.EXAMPLES.items():
        seconds = re.search(r"\((\d+) s\)$", about)[1]
        assert f"It takes about {seconds} seconds" in (ROOT / path).read_text(encoding="utf-8")
        assert f"[{path}]({path}), {seconds} s:" in readme

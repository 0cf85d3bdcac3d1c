"""A few thousand argument sets of tools/fuzz/fuzz.py, always the same ones; and errors that it must find."""

import warnings
import weakref
from dataclasses import replace

import numpy as np
import pytest
from places import ROOT, use_folder
from suites import shortened
from systems import needs_signals

from backprop import Ensemble, Network
from backprop.api import validate as _validate
from backprop.objective import Objective

use_folder("tools/fuzz")

import fuzz  # noqa: E402
from rounds import Round  # noqa: E402

N_ROUNDS = 8  # of 150 sets


def outcomes(first, n_rounds=1):
    with warnings.catch_warnings():
        fuzz.make_warnings_errors()
        return [outcome for seed in range(first, first + n_rounds) for outcome in Round(seed).run()]


@pytest.mark.parametrize("first", shortened(range(0, 64, N_ROUNDS), [0, N_ROUNDS], "more rounds"))
def test_arguments_at_random(first):
    found = outcomes(first, N_ROUNDS)
    assert [text for text in found if isinstance(text, str)] == []
    assert found.count(True) > 0.3 * len(found)
    assert found.count(False) > 0.3 * len(found)


def is_found(part, n_rounds=64):
    """Whether some round reports it. Which round does changes with every new name in the tables it draws from."""
    return any(part in outcome for seed in range(n_rounds) for outcome in outcomes(seed) if isinstance(outcome, str))


def test_a_wrong_result_is_found(monkeypatch):
    hvp = Network.hvp
    monkeypatch.setattr(Network, "hvp", lambda *args, **options: 1.01 * hvp(*args, **options))
    assert is_found("off by")


@pytest.mark.parametrize("name", ["forward", "input_gradient", "jacobian", "hessian"])
def test_one_wrong_entry_is_found(monkeypatch, name):
    """An error of 1 % in an entry of medium size, in a result of any size."""
    right = getattr(Network, name)

    def wrong(*args, **options):
        result = right(*args, **options)
        sizes = np.abs(result.ravel())
        entry = np.argsort(sizes)[-1 - np.count_nonzero(sizes) // 2]
        result.flat[entry] *= 1.01
        return result

    monkeypatch.setattr(Network, name, wrong)
    assert is_found("off by")


@pytest.mark.parametrize(
    "name", shortened(["value_and_grad", "vjp", "input_gradient"], ["vjp"], "the same comparison of results")
)
def test_zeros_instead_of_a_tiny_result_are_found(monkeypatch, name):
    right = getattr(Network, name)

    def wrong(*args, **options):
        results = right(*args, **options)
        for result in results if isinstance(results, tuple) else (results,):
            if isinstance(result, np.ndarray) and np.abs(result).max(initial=0) < 1e-3:
                result[...] = 0
        return results

    monkeypatch.setattr(Network, name, wrong)
    assert is_found("off by")


def test_a_sample_of_its_own_size_is_found(monkeypatch):
    """An error of 1 % in the smallest row, among rows that are much larger."""
    right = Network.per_sample_gradient_norms

    def wrong(*args, **options):
        norms = right(*args, **options)
        norms[np.argmin(norms)] *= 1.01
        return norms

    monkeypatch.setattr(Network, "per_sample_gradient_norms", wrong)
    assert is_found("off by")


def test_a_second_product_with_other_bits_is_found(monkeypatch):
    hessp, called = Objective.hessp, weakref.WeakSet()

    def wrong(fun, theta, v):
        product, is_first = hessp(fun, theta, v), fun not in called
        called.add(fun)
        return product if is_first else np.nextafter(product, np.inf)

    monkeypatch.setattr(Objective, "hessp", wrong)
    assert is_found("other bits than of hessp")


def test_the_other_operator_is_found(monkeypatch):
    monkeypatch.setattr(Network, "gauss_newton_operator", Network.hvp_operator)
    assert is_found("other bits than of gauss_newton_vp")


def test_data_of_the_wrong_member_are_found(monkeypatch):
    right = Ensemble.value_and_grad

    def wrong(ensemble, x, y, **options):
        x = np.flip(x, axis=0) if isinstance(x, np.ndarray) and x.ndim == 3 else x
        return right(ensemble, x, y, **options)

    monkeypatch.setattr(Ensemble, "value_and_grad", wrong)
    assert is_found("ensemble_by_member")


def test_a_penalty_of_the_free_biases_is_found(monkeypatch):
    right = Network.objective

    def wrong(net, *data, **options):
        fun = right(net, *data, **options)
        if options.get("free") is not None:
            fun._is_weight[:] = True
        return fun

    monkeypatch.setattr(Network, "objective", wrong)
    assert is_found("_of_free")


@pytest.mark.parametrize("name", ["input_gradient", "hvp"])
def test_a_hidden_nan_is_found(monkeypatch, name):
    right = getattr(Network, name)

    def wrong(*args, **options):
        result = right(*args, **options)
        result[np.isnan(result)] = 0
        return result

    monkeypatch.setattr(Network, name, wrong)
    assert is_found("NaN hidden")


@pytest.mark.parametrize("name", ["forward", "input_jacobian"])
def test_a_nan_in_another_row_is_found(monkeypatch, name):
    right = getattr(Network, name)

    def wrong(*args, **options):
        result = right(*args, **options)
        if np.isnan(result).any():
            result[...] = np.nan
        return result

    monkeypatch.setattr(Network, name, wrong)
    assert is_found("has changed other rows")


def test_another_place_of_a_nan_is_found(monkeypatch):
    right = Network.find_nonfinite

    def wrong(*args, **options):
        found = right(*args, **options)
        return found and replace(found, unit=found.unit + 1)

    monkeypatch.setattr(Network, "find_nonfinite", wrong)
    assert is_found("found NonFinite")


def test_another_bit_is_found(monkeypatch):
    forward = Network.forward

    def bit_off(net, x, **options):
        y_hat = forward(net, x, **options)
        return y_hat if type(x) is np.ndarray else np.nextafter(y_hat, np.inf, dtype=y_hat.dtype)

    monkeypatch.setattr(Network, "forward", bit_off)
    assert is_found("other bits")


def test_an_overlap_is_found(monkeypatch):
    out = _validate.out
    monkeypatch.setattr(_validate, "out", lambda value, shape, dtype, others: out(value, shape, dtype, {}))
    assert is_found("'out'")


def test_a_message_without_a_name_is_found(monkeypatch):
    rows = _validate.rows
    monkeypatch.setattr(_validate, "rows", lambda *args: rows(*args[:-1], "it"))
    assert is_found("names none of ['cotangent']")


@needs_signals
def test_a_crash_is_reported_with_its_seed_and_the_rest_goes_on(tmp_path, capfd):
    program = tmp_path / "crashing.py"
    program.write_text(
        f"import os, sys\nsys.path.insert(0, {str(ROOT / 'tools/fuzz')!r})\nimport fuzz, rounds\n"
        "sets = fuzz.Round.one_set\n"
        "def one_set(self):\n    if self.seed == 3 and self.index == 7:\n        os.kill(os.getpid(), 11)\n"
        "    return sets(self)\n"
        "fuzz.Round.one_set = one_set\nrounds.SETS_PER_ROUND = 20\nfuzz.main()\n"
    )
    assert not fuzz.fuzz(0, 5 * fuzz.SETS_PER_ROUND, 1, program=str(program))
    printed = capfd.readouterr().out
    assert "seed 3, set 7: ended with -11" in printed
    assert "87 argument sets" in printed  # 4 rounds of 20, and 7 before the crash
    assert "0 wrong, 1 crashes" in printed

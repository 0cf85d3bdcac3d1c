"""Modules that have moved are found under their old names, by programs and by pickles."""

import importlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from backprop import Network
from backprop.process import old_paths

CLASSES = {
    "backprop._inspection": ["LayerGradients"],
    "backprop._judge": ["BlockCheck"],
    "backprop._second_derivatives": ["_Product"],
    "backprop._squared_errors": ["_Residuals"],
    "backprop.checking": ["GradientReport", "BlockCheck", "check_gradient", "random_problem"],
    "backprop.nonfinite": ["NonFinite"],
    "backprop.params": ["unflatten"],
    "backprop.saving": ["load"],
}


def test_every_module_that_has_moved_is_looked_at():
    assert old_paths.MOVED.keys() <= CLASSES.keys()


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in CLASSES for name in CLASSES[module]])
def test_a_class_has_its_old_path(module, name):
    found = getattr(importlib.import_module(module), name)
    assert pickle.loads(f"c{module}\n{name}\n.".encode()) is found
    new = old_paths.MOVED.get(module, module)
    assert found is getattr(importlib.import_module(new), name)


@pytest.mark.parametrize("module", CLASSES)
def test_an_old_path_is_the_first_import(module):
    """In a new process, in which nothing has imported the module by its new name."""
    code = f"import {module} as it; from backprop import {module.rpartition('.')[2]} as same; assert it is same"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_results_pickled_before_modules_moved():
    net = Network([2, 3, 1], rng=0)
    x, y = np.eye(2), np.ones(2)
    fun, _ = net.residuals(x, y)
    for it, old in (
        (net.layer_gradients(x, y), "backprop._inspection"),
        (net.check_gradient(x, y), "backprop.checking"),
        (net.find_nonfinite(x + np.inf, y), "backprop.nonfinite"),
        (fun, "backprop._squared_errors"),
        (net.hvp_operator(x, y), "backprop._second_derivatives"),
    ):
        text = pickle.dumps(it, protocol=0)
        as_before = text.replace(old_paths.MOVED[old].encode(), old.encode())
        assert as_before != text
        assert type(pickle.loads(as_before)) is type(it)


def test_an_unknown_module_is_still_missing():
    with pytest.raises(ModuleNotFoundError, match=r"backprop\.no_such_module"):
        importlib.import_module("backprop.no_such_module")

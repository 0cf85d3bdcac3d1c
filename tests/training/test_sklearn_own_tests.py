"""scikit-learn's own tests of its MLP, run on these estimators.

Its module is executed once more, with our classes under the names that it imports.
"""

import importlib.util

import pytest
from required_peers import require_peer

require_peer("sklearn")

from sklearn import neural_network  # noqa: E402

import backprop.sklearn as ours  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # these tests expect warnings of fits that stop early

LEFT_OUT = {
    "test_gradient": "it calls _loss_grad_lbfgs, which is private",
    "test_lbfgs_classification_maxfun": "it expects that no fit converges in 10 evaluations; here one does",
}


def tests_of_scikit_learn():
    """The tests of scikit-learn's module, made with our classes."""
    spec = importlib.util.find_spec("sklearn.neural_network.tests.test_mlp")
    assert spec is not None, "this scikit-learn was installed without its tests"
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        for name in ours.__all__:
            patch.setattr(neural_network, name, getattr(ours, name))
        spec.loader.exec_module(module)
    return {name: test for name, test in vars(module).items() if name.startswith("test_")}


TESTS = tests_of_scikit_learn()
globals().update({name: test for name, test in TESTS.items() if name not in LEFT_OUT})


@pytest.fixture
def global_random_seed():
    return 42


def test_what_is_left_out_is_there():
    assert LEFT_OUT.keys() <= TESTS.keys()
    assert len(TESTS) > 40

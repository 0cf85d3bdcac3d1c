"""What IPython, Jupyter, `help` and `dir` show of the public objects."""

import inspect
import pydoc
import re
from html.parser import HTMLParser

import numpy as np
import pytest

import backprop
from backprop import Activation, Ensemble, GradientReport, InputJet, LayerGradients, Network, NonFinite, Objective
from backprop.api import shown

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 2))


def network(**options):
    return Network([3, 4, 2], **({"activations": [("leaky_relu", 0.2)], "rng": 0} | options))


def objects():
    net = network()
    nan = X.copy()
    nan[2, 1] = np.nan
    return [
        net,
        Ensemble(net, 3),
        net.objective(X, Y, sample_weight=np.ones(5), l2=0.1, free=np.arange(net.n_params) > 3),
        net.layer_gradients(X, Y),
        net.check_gradient(X, Y),
        net.find_nonfinite(nan, Y),
    ]


class Cells(HTMLParser):
    """The rows of the table in a text of HTML, and the tags that are open at its end."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.open, self.tags = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


class Printer:
    """As much of IPython's printer as is used."""

    def __init__(self, stack):
        self.stack, self.out = stack, ""

    def text(self, text):
        assert "\n" not in text
        self.out += text

    def break_(self):
        self.out += "\n"


def pretty(it, stack=(1,)):
    """What IPython prints: it prefers the __repr__ of a class to the _repr_pretty_ of one that it derives from."""
    for kind in type(it).__mro__:
        if "_repr_pretty_" in vars(kind):
            printer = Printer(stack)
            it._repr_pretty_(printer, False)
            return printer.out
        if "__repr__" in vars(kind):
            return repr(it)
    raise AssertionError("object has a __repr__")


@pytest.mark.parametrize("it", objects(), ids=lambda it: type(it).__name__)
def test_every_object_is_a_table(it):
    html = it._repr_html_()
    cells = Cells(html)
    assert cells.open == []
    assert cells.tags == {"div", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    assert len(cells.rows) >= 2
    assert len({len(row) for row in cells.rows}) == 1
    assert len(html) < 8000
    assert pretty(it) == it._table().text()
    assert pretty(it, (1, 2)) == repr(it)  # in a list


def test_a_subclass_with_a_repr_of_its_own():
    class Mine(Network):
        def __repr__(self):
            return "mine"

    class Other(Network):
        pass

    assert pretty(Mine([2, 1])) == "mine"
    assert pretty(Other([2, 1])).startswith("Other: 3 parameters")


def test_layers_of_a_network():
    net = Network([3, 4000, 2], activations=[("leaky_relu", 0.2)], loss="cross_entropy", dtype="float32", rng=0)
    assert Cells(net._repr_html_()).rows == [
        ["layer", "units", "activation", "W", "parameters"],
        ["0", "3", "(input)", "", ""],
        ["1", "4,000", "leaky_relu(0.2)", "(4000, 3)", "16,000"],
        ["2", "2", "softmax (output)", "(2, 4000)", "8,002"],
    ]
    assert "<strong>Network: 24,002 parameters, loss cross_entropy, float32</strong>" in net._repr_html_()
    assert "Ensemble of 2 networks, each of 24,002 parameters" in Ensemble(net, 2)._repr_html_()


def test_names_are_escaped():
    own = Activation("<b>&", np.sin, np.cos)
    html = network(activations=own)._repr_html_()
    assert "&lt;b&gt;&amp;" in html
    assert "<b>" not in html


def test_a_long_table_is_cut():
    net = Network([2] * 1001, rng=0)
    rows = Cells(net._repr_html_()).rows
    assert len(rows) == shown.MOST_ROWS + 2  # the header, and the row of dots
    assert rows[1][0] == "0"
    assert rows[-1][0] == "1000"
    assert ["..."] * 5 in rows


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layer_gradients(dtype):
    q = network(dtype=dtype).layer_gradients(X, Y)
    assert q.y_hat is q.h[2]
    rows = {row[1]: row for row in Cells(q._repr_html_()).rows[1:]}
    assert rows.keys() == {
        f"{name}[{i}]"
        for name in ("a", "h", "grad_a", "grad_h", "grad_W", "grad_b")
        for i in range(3)
        if getattr(q, name)[i] is not None
    }
    for name, row in rows.items():
        array = np.asarray(eval(f"q.{name}", {"q": q}), np.float64)
        assert row[2] == str(array.shape)
        assert float(row[3]) == pytest.approx(np.sqrt(np.square(array).sum()), rel=1e-3)
        assert float(row[4]) == pytest.approx(np.abs(array).max(), rel=1e-3)
    assert str(q) == q._table().text()
    assert repr(q) == f"<LayerGradients of layers 3-4-2, 5 samples, loss {q.loss:.6g}>"


def test_layer_gradients_that_are_not_finite():
    x = X.copy()
    x[0, 0], x[1, 1] = np.inf, np.nan
    rows = {row[1]: row for row in Cells(network().layer_gradients(x, Y)._repr_html_()).rows}
    assert rows["h[0]"][3:] == ["nan", "nan"]
    big = network(dtype="float32").layer_gradients(np.full((1, 3), 2e38, np.float32), Y[:1])
    assert "3.464e+38" in str(big)  # the norm of x, which float32 cannot hold


def test_objectives():
    net = network()
    assert repr(net.objective(X[:1], Y[:1])) == f"<Objective of {net!r}, 1 sample>"
    free = np.arange(net.n_params) > 3
    fun = net.objective(X, Y, sample_weight=np.ones((5, 2)), l2=0.1, free=free)
    assert repr(fun) == f"<Objective of {net!r}, 5 samples, weighted by output, l2=0.1, 22 of 26 parameters free>"


# help and dir ---------------------------------------------------------------------------------------------------------


def is_dunder(name):
    return name.startswith("__") and name.endswith("__")


OWN = Activation("own", np.sin, np.cos)


@pytest.mark.parametrize("it", [*objects(), OWN], ids=lambda it: type(it).__name__)
def test_dir_shows_public_names(it):
    public = {name for name in dir(it) if not is_dunder(name)}
    assert not any(name.startswith("_") for name in public)
    assert {"__class__", "__doc__", "__repr__"} <= set(dir(it))
    assert public == {name for name in object.__dir__(it) if not name.startswith("_")}


def test_dir_shows_what_a_subclass_adds():
    class Mine(Network):
        def _inner(self):
            return 0

    net = Mine([2, 1])
    net._note, net.note = 1, 2
    assert {"_inner", "_note", "note"} <= set(dir(net))
    assert "_plan" not in dir(net)


def test_dir_of_the_package():
    assert {name for name in dir(backprop) if not is_dunder(name)} == {*backprop.__all__, "equations"} - {"__version__"}
    assert {"__version__", "__doc__", "__path__"} <= set(dir(backprop))


def test_every_class_that_is_handed_out_has_a_public_name():
    for kind in (Network, Ensemble, Objective, LayerGradients, InputJet, GradientReport, NonFinite, Activation):
        assert getattr(backprop, kind.__name__) is kind
        assert kind.__name__ in backprop.__all__
    assert {type(it) for it in objects()} <= {getattr(backprop, name) for name in backprop.__all__[:8]}


@pytest.mark.parametrize(
    "kind", [Network, Ensemble, Objective, Activation, LayerGradients, InputJet, GradientReport, NonFinite]
)
def test_help_shows_no_machinery(kind):
    text = pydoc.render_doc(kind, renderer=pydoc.plaintext)
    assert re.findall(r"^ \|  (_[a-z]\w*)", text, re.MULTILINE) == []
    assert "ClassVar" not in text
    assert "_core." not in text


def test_methods_belong_to_the_network():
    """In messages, and in pickles of functions."""
    net = network()
    for name, method in inspect.getmembers(Network, inspect.isfunction):
        if not name.startswith("_"):
            assert method.__qualname__ == f"Network.{name}"
            assert method.__module__ == "backprop.network"
    with pytest.raises(TypeError, match=r"^Network\.vjp\(\) got an unexpected keyword argument 'cotangents'"):
        net.vjp(X, cotangents=Y)


def test_help_has_the_calls_in_the_order_of_the_documentation():
    text = pydoc.render_doc(Network, renderer=pydoc.plaintext)
    places = [text.index(f" |  {name}(self") for name in ("value_and_grad", "vjp", "hvp", "residuals")]
    assert places == sorted(places)

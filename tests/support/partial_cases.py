"""Data, blocks and parts for the tests of `partial_sums`: each call, and the same in parts."""

import itertools
import pickle
from dataclasses import dataclass, field, replace

import numpy as np

import backprop
from backprop import Network, PartialSums

BY_ROW = ("cotangent", "grad_x", "sample_weight")
MEANS = ("loss", "value_and_grad", "hvp", "gauss_newton_vp", "hessian", "sobolev_value_and_grad")
CALLS = (*MEANS, "vjp", "clipped_gradient", "normal_equations")


@dataclass
class Case:
    """A call on a data set, and everything that it takes."""

    net: Network
    call: str
    x: np.ndarray
    y: np.ndarray | None
    weight: np.ndarray | None = None
    operands: dict = field(default_factory=dict)

    @property
    def n(self):
        return len(self.x)

    @property
    def options(self):
        return {} if self.weight is None else {"sample_weight": self.weight}

    def plain(self, **options):
        """What the call gives on all rows."""
        rows = (self.x,) if self.y is None else (self.x, self.y)
        return getattr(self.net, self.call)(*rows, **self.operands, **self.options, **options)

    def rows(self, block):
        """x, y, and by name what else belongs to the rows of a block."""
        given = self.operands | self.options
        return (
            (self.x[block], None if self.y is None else self.y[block]),
            {name: value[block] if name in BY_ROW else value for name, value in given.items()},
        )

    def part(self, block, totals=None, **options):
        (x, y), given = self.rows(block)
        return self.net.partial_sums(
            x, y, call=self.call, first_row=block.start, n_rows=self.n, totals=totals, **(given | options)
        )

    def totals(self, blocks):
        return None if self.weight is None else backprop.weight_totals(self.weight, blocks)

    def parts(self, blocks, **options):
        totals = self.totals(blocks)
        return [self.part(block, totals, **options) for block in blocks]

    def blocks(self, n_parts):
        return backprop.row_blocks(self.net, self.n, n_parts, call=self.call, **self.options)

    def units(self):
        """One block a unit."""
        n_kept = self.n if self.weight is None else np.count_nonzero(self.weight.reshape(self.n, -1).any(axis=1))
        unit = self.net._plan.unit_rows(backprop._core.CALLS[self.call], int(n_kept))
        return self.blocks(-(-int(n_kept) // unit))

    def some_rows(self, places):
        """The same with other rows."""
        by_row = {name: value[places] if name in BY_ROW else value for name, value in self.operands.items()}
        return replace(
            self,
            x=self.x[places],
            y=None if self.y is None else self.y[places],
            weight=None if self.weight is None else self.weight[places],
            operands=by_row,
        )


def case_of(call, n, *, dtype="float64", weight=None, sizes=(3, 5, 2), seed=0, scale=1.0, **network):
    """A call on random rows. weight is None, "sample" or "entry"; about a quarter of the weights are 0."""
    rng = np.random.default_rng(seed)
    net = Network(list(sizes), **({"activations": "tanh", "dtype": dtype, "rng": rng} | network))
    x = rng.normal(size=(n, sizes[0])).astype(dtype)
    y = (scale * rng.normal(size=(n, sizes[-1]))).astype(dtype)
    w = None
    if weight is not None:
        shape = (n,) if weight == "sample" else (n, sizes[-1])
        w = np.where(rng.random(shape) < 0.25, 0.0, rng.uniform(0.1, 3.0, shape))
    operands = {}
    if call == "vjp":
        y, operands = None, {"cotangent": y}
    elif call == "clipped_gradient":
        operands = {"max_norm": 0.3}
    elif call in ("hvp", "gauss_newton_vp"):
        operands = {"v": rng.normal(size=net.n_params).astype(dtype)}
    elif call == "sobolev_value_and_grad":
        operands = {"grad_x": rng.normal(size=(n, sizes[-1], sizes[0])).astype(dtype), "weight": 0.4}
    return Case(net, call, x, y, w, operands)


def weightings(call):
    """The kinds of weights that a call takes."""
    if call == "vjp":
        return (None,)
    return (None, "sample") if call == "sobolev_value_and_grad" else (None, "sample", "entry")


def joined(rng, blocks, n_parts):
    """At most so many blocks, each of some that lie side by side, cut at random."""
    inner = [block.start for block in blocks[1:]]
    cuts = sorted(rng.choice(inner, min(n_parts - 1, len(inner)), replace=False).tolist()) if inner else []
    ends = [0, *cuts, blocks[-1].stop]
    return [slice(first, stop) for first, stop in itertools.pairwise(ends)]


WAYS = (
    lambda part: part,
    lambda part: pickle.loads(pickle.dumps(part)),
    lambda part: PartialSums.from_bytes(bytearray(part.to_bytes())),
)


def added(rng, parts):
    """The sum of the parts in a random tree, some of them sent on the way."""
    parts = list(parts)
    while len(parts) > 1:
        first, second = parts.pop(rng.integers(len(parts))), parts.pop(rng.integers(len(parts)))
        parts.append(WAYS[rng.integers(len(WAYS))](first) + WAYS[rng.integers(len(WAYS))](second))
    return parts[0]


def bits(result):
    """The numbers of a result as bytes, with their dtypes and shapes."""
    results = result if isinstance(result, tuple) else (result,)
    return [(type(r).__name__, np.asarray(r).dtype.str, np.shape(r), np.asarray(r).tobytes()) for r in results]

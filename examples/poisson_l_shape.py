"""Poisson's equation on an L-shaped domain, by a network of one output, against a reference that proves its digits.

    -(u_xx + u_yy) = 1 in the square [-1, 1]^2 without its quarter x > 0 > y,    u = 0 on the boundary

The corner at 0 points into the domain. There u behaves as s = r^(2/3) sin(2 theta / 3), whose gradient is infinite.
A smooth network cannot follow it. Three ways to put u together from a network N with three hidden layers of tanh:

    u = N(x, y)                            the loss has a penalty on the boundary, 100 mean(u^2)
    u = N(x, y, s)                         the same, but s is an input too
    u = s (1 - x^2) (1 - y^2) N(x, y, s)   0 on the boundary whatever N is: no penalty

The equation for u is one for N. With z = (x, y, s), J = dz/d(x, y) and u = g N(z),

    u_xx + u_yy = (Laplacian of g) N + 2 (J grad g) . grad_z N + g J J^T : Hess_z N

because x, y and s are harmonic. These are c, b and D of `net.pde_objective`, one row per point. The penalty is another
objective of the same network, `net.objective` on points of the boundary; the two add up.
The points are those of Gauss quadrature in three squares, so that the weighted mean is the integral of the squared
residual. `net.fit` minimises the sum by L-BFGS.

The reference is -(x^2 + y^2) / 4 plus a harmonic function, the real part of a rational function whose poles cluster at
the corners (A. Gopal and L. N. Trefethen, Solving Laplace problems with corner singularities via rational functions,
SIAM J. Numer. Anal. 57, 2019). Its error is harmonic too. So it is largest on the boundary, where u is known.

After 5,000 iterations, the relative errors in L2 are about 3e-2, 7e-3 and 2e-4. With s as an input, the corner at 0 is
no longer the worst place. A penalty leaves an error on the boundary, and the equation carries it inwards; the factor
has none. It is what makes most of the difference.

Run: python examples/poisson_l_shape.py [--plot poisson_l_shape.png] [--quick]
It takes about 15 seconds on one core, with --quick 3.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from backprop import Network
from backprop.demo import figure_file

CORNERS = np.array([0, 1, 1 + 1j, -1 + 1j, -1 - 1j, -1j])  # of the domain, x + i y
OUTWARDS = np.array([1 - 1j, 1 - 1j, 1 + 1j, -1 + 1j, -1 - 1j, 1 - 1j])  # from each, along its bisector
PLAIN, INPUT, FACTOR = "N(x, y)", "N(x, y, s)", "s (1-x^2) (1-y^2) N(x, y, s)"
WIDTH = 20  # of each hidden layer
N_GAUSS = 16  # points along the side of a unit square
PENALTY = 100.0
EVERY = 50  # iterations, the error is measured


def poles_of_corners(n: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """The poles outside of the corners, n of each but the first, and their distances, which shrink exponentially."""
    poles, distances = [], []
    for corner, outward, m in zip(CORNERS, OUTWARDS, [2 * n] + [n] * 5, strict=True):
        distances.append(np.exp(4 * (np.sqrt(np.arange(1, m + 1)) - np.sqrt(m))))
        poles.append(corner + outward / np.sqrt(2) * distances[-1])
    return np.concatenate(poles), np.concatenate(distances)


def reference() -> tuple[Callable, float]:
    """The function (x, y) (n, 2) -> u (n,), and a bound of its error."""
    poles, distances = poles_of_corners()

    def basis(z: np.ndarray) -> np.ndarray:
        terms = np.hstack([distances / (z[:, None] - poles), (z[:, None] / 1.5) ** np.arange(20)])
        return np.hstack([terms.real, terms.imag])

    def boundary(n: int) -> np.ndarray:
        """Points z, n on each edge, clustered at its ends as the poles are."""
        t = (1 + np.tanh(np.linspace(-14, 14, n))) / 2
        return np.concatenate([a + (b - a) * t for a, b in zip(CORNERS, np.roll(CORNERS, -1), strict=True)])

    z = boundary(150)
    coefficients = np.linalg.lstsq(basis(z), abs(z) ** 2 / 4, rcond=None)[0]

    def u(points: np.ndarray) -> np.ndarray:
        z = points @ [1, 1j]
        return basis(z) @ coefficients - abs(z) ** 2 / 4

    z = boundary(1000)
    return u, float(abs(u(np.stack([z.real, z.imag], axis=1))).max())


def gauss(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points and weights of quadrature: in the domain, n^2 in each of its three unit squares; on its boundary, 8 n."""
    t, w = np.polynomial.legendre.leggauss(n)
    t, w = (t + 1) / 2, w / 2
    square = np.stack(np.meshgrid(t, t, indexing="ij"), axis=-1).reshape(-1, 2)
    inside = np.concatenate([square + corner for corner in [(-1, -1), (-1, 0), (0, 0)]])
    ends = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1)])
    edges = ends[:, None] + (np.roll(ends, -1, axis=0) - ends)[:, None] * t[:, None]
    return inside, np.tile(np.outer(w, w).ravel(), 3), edges.reshape(-1, 2), np.tile(w, 8)


def singular(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The function s = r^(2/3) sin(2 theta / 3) (n,), which is Im (x + i y)^(2/3), and its gradient (n, 2)."""
    turn = np.exp(-0.75j * np.pi)  # the cut of the power lies outside the domain then
    z = points @ [1, 1j] * turn
    with np.errstate(divide="ignore", invalid="ignore"):  # the gradient at 0
        slope = 2 / 3 * 1j * turn * z ** (-1 / 3)
    return (z ** (2 / 3)).real, np.stack([slope.imag, slope.real], axis=1)


@dataclass
class Solution:
    """u = g N(z), with one of the three ways to choose g and z."""

    way: str
    net: Network
    seconds: float = 0.0
    history: list[tuple[int, float]] = field(default_factory=list)  # iteration, relative L2 error

    def inputs(self, points: np.ndarray) -> np.ndarray:
        """The inputs z (n, 2 or 3)."""
        return points if self.way == PLAIN else np.column_stack([points, singular(points)[0]])

    def factor(self, points: np.ndarray) -> np.ndarray:
        """The factor g (n,)."""
        return singular(points)[0] * np.prod(1 - points**2, axis=1) if self.way == FACTOR else np.ones(len(points))

    def __call__(self, points: np.ndarray, params: np.ndarray | None = None) -> np.ndarray:
        """The solution u (n,) at the points (n, 2)."""
        return self.factor(points) * self.net.forward(self.inputs(points), params=params)[:, 0]

    def equation(self, points: np.ndarray) -> dict[str, np.ndarray]:
        """c, b and D of -(u_xx + u_yy), as an expression in N."""
        g = self.factor(points)
        J = np.broadcast_to(np.eye(2), (len(points), 2, 2))
        if self.way != PLAIN:
            J = np.concatenate([J, singular(points)[1][:, None, :]], axis=1)
        D = -g[:, None, None] * (J @ J.transpose(0, 2, 1))
        if self.way != FACTOR:
            return {"D": D}
        s, grad_s = singular(points)
        across = 1 - points[:, ::-1] ** 2
        grad_p = -2 * points * across  # p = (1 - x^2) (1 - y^2), g = s p
        grad_g = across.prod(axis=1)[:, None] * grad_s + s[:, None] * grad_p
        laplacian_g = 2 * np.sum(grad_s * grad_p, axis=1) - 2 * s * across.sum(axis=1)
        return {"c": -laplacian_g, "b": -2 * np.einsum("sij,sj->si", J, grad_g), "D": D}


@dataclass
class Test:
    """Where the error is measured: points of a finer quadrature with their weights, and the reference there."""

    points: np.ndarray
    areas: np.ndarray
    u: np.ndarray

    def errors(self, solution: Solution, params: np.ndarray | None = None) -> tuple[float, float]:
        """The largest error, and the relative error in L2."""
        error = solution(self.points, params) - self.u
        return abs(error).max(), np.sqrt(self.areas @ error**2 / (self.areas @ self.u**2))


def solve(way: str, max_iter: int, test: Test) -> Solution:
    """Minimise the squared residual, with the penalty if the way needs it."""
    n_inputs = 2 if way == PLAIN else 3
    found = Solution(way, Network([n_inputs, WIDTH, WIDTH, WIDTH, 1], activations="tanh", rng=0))
    net = found.net
    inside, areas, edges, lengths = gauss(N_GAUSS)
    start = time.perf_counter()
    fun = net.pde_objective(found.inputs(inside), 1.0, **found.equation(inside), sample_weight=areas)
    if way != FACTOR:
        zeros = np.zeros(len(edges))
        fun = fun + PENALTY * net.objective(found.inputs(edges), zeros, sample_weight=lengths)

    def follow(info) -> None:
        found.history.append((info.iteration, test.errors(found, info.params)[1]))

    net.fit(fun, max_iter=max_iter, tol=1e-9, callback=follow, every=EVERY)
    found.seconds = time.perf_counter() - start
    return found


def draw(path: str, solutions: list[Solution], u: Callable) -> None:
    """Write a figure: the best network and the reference, how the errors fell, and where they are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    FigureCanvasAgg(figure)  # needs no display
    above, below = figure.subfigures(2, 1)
    top, bottom = above.subplots(1, 3), below.subplots(1, 3)
    t = np.linspace(-1, 1, 121)
    x, y = np.meshgrid(t, t)
    inside = (x <= 0) | (y >= 0)
    points = np.stack([x[inside], y[inside]], axis=1)
    exact = u(points)

    def contours(axes, values: np.ndarray, title: str, **how):
        whole = np.full(x.shape, np.nan)
        whole[inside] = values
        axes.set_aspect("equal")
        axes.set_xticks([-1, 0, 1])
        axes.set_yticks([-1, 0, 1])
        axes.set_title(title, fontsize=10)
        return axes.contourf(t, t, whole, **how)

    levels = np.arange(0, 0.151, 0.01)
    contours(top[0], solutions[-1](points), f"u = {solutions[-1].way}", levels=levels, cmap="viridis")
    image = contours(top[1], exact, "reference", levels=levels, cmap="viridis")
    above.colorbar(image, ax=top[1])

    levels = 10.0 ** np.arange(-6, -0.9, 0.5)
    for solution, axes, color in zip(solutions, bottom, ("#d9722b", "#3a8a4d", "#1f5a92"), strict=True):
        iterations, errors = np.array(solution.history).T
        top[2].semilogy(iterations, errors, color=color, linewidth=1.8, label=solution.way)
        error = np.clip(abs(solution(points) - exact), levels[0], levels[-1])
        title = f"error of {solution.way}"
        image = contours(axes, error, title, levels=levels, norm=LogNorm(levels[0], levels[-1]), cmap="magma")
    below.colorbar(image, ax=bottom[2])
    top[2].set_xlabel("iteration of L-BFGS")
    top[2].set_title("relative L2 error", fontsize=10)
    top[2].set_ylim(1e-4, 1)
    top[2].legend(frameon=False, fontsize=8)
    top[2].grid(alpha=0.25)
    figure.savefig(path, dpi=100)


def main(argv=None) -> None:
    """Solve in the three ways, and print the errors against the reference."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=figure_file, metavar="FILE", help="draw solution, reference, and errors")
    parser.add_argument("--quick", action="store_true", help="fewer iterations")
    arguments = parser.parse_args(argv)
    max_iter = 400 if arguments.quick else 5000

    start = time.perf_counter()
    u, bound = reference()
    seconds = time.perf_counter() - start
    print(f"reference: a rational function, error below {bound:.1e} everywhere, {seconds:.1f} s")
    points, areas, _, _ = gauss(40)
    test = Test(points, areas, u(points))
    solutions = []
    print(f"network with 3 hidden layers of {WIDTH} tanh, {len(gauss(N_GAUSS)[0])} points in the domain")
    print(f"{'u':30} {'iterations':>10} {'seconds':>8} {'max error':>10} {'L2 error':>9}")
    for way in (PLAIN, INPUT, FACTOR):
        found = solve(way, max_iter, test)
        solutions.append(found)
        largest, relative = test.errors(found)
        print(f"{way:30} {found.history[-1][0]:10} {found.seconds:8.1f} {largest:10.1e} {relative:9.1e}", flush=True)
    if arguments.plot:
        draw(arguments.plot, solutions, u)
        print(f"figure: {arguments.plot}")


if __name__ == "__main__":
    main()

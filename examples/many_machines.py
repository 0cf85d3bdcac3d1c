"""One fit, the same bits: a surrogate trained from a file, by one process, by any number of ranks, or in blocks.

A surrogate stands in for a simulation that is too slow to be called often. Here the simulation is the borehole
function, the flow of water through a hole between two aquifers, a usual test of surrogates with eight inputs. Its
values at random points are written to a file. L-BFGS fits a network 8-32-32-1 to all of them:

    python examples/many_machines.py                                        one process, on all CPUs
    python examples/many_machines.py --stream                               the same, two blocks in memory at a time
    mpiexec -n 2 python -m mpi4py examples/many_machines.py --mpi           each rank reads its part of the file
    mpiexec -n 2 python -m mpi4py examples/many_machines.py --mpi --stream  each rank reads its part in blocks

The last line is the SHA-256 of the parameters. It is the same for all of these, and for every number of ranks. All of
them call `net.fit`. Each rank makes all steps; only the sums over rows communicate, twice in each evaluation.
`--rows 10000000` makes a file of 360 MB, of which each rank maps its part: no process ever holds all rows.

Run: python examples/many_machines.py [--plot many_machines.png] [--quick] [--rows N] [--stream] [--mpi]
It takes about 3 seconds on two cores, with --quick 1. `--mpi` needs mpi4py and an MPI: pip install mpi4py mpich.

Source: W. V. Harper and S. K. Gupta, Sensitivity/Uncertainty Analysis of a Borehole Scenario (1983); M. D. Morris,
T. J. Mitchell and D. Ylvisaker, Technometrics 35 (1993), p. 243.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from backprop import Network
from backprop.demo import figure_file

SIZES = (8, 32, 32, 1)
BLOCK = 100_000  # rows that are written, and with --stream read, at a time
LOW = np.array([0.05, 100.0, 63070.0, 990.0, 63.1, 700.0, 1120.0, 9855.0])
HIGH = np.array([0.15, 50000.0, 115600.0, 1110.0, 116.0, 820.0, 1680.0, 12045.0])
MEAN, STD = 77.6, 45.6  # of the flow at random points, in cubic metres a year


def flow(u: np.ndarray) -> np.ndarray:
    """The flow at n points: u, (n, 8), has the inputs between 0 and 1. The result, (n,), has mean 0 and deviation 1."""
    r_w, r, T_u, H_u, T_l, H_l, L, K_w = (LOW + (HIGH - LOW) * u).T
    log = np.log(r / r_w)
    return (2 * np.pi * T_u * (H_u - H_l) / (log * (1 + T_u / T_l) + 2 * L * T_u / (r_w**2 * K_w)) - MEAN) / STD


def points(n: int, seed: int) -> np.ndarray:
    """Random points, the same at every call."""
    return np.random.default_rng(seed).random((n, 8), np.float32)


def write(folder: Path, n_rows: int) -> None:
    """Write `x.npy` and `y.npy`, a block at a time. A file gets its name when it is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [folder / "x.npy", folder / "y.npy"]
    parts = [path.with_name(f"{path.name}.{os.getpid()}") for path in names]
    shapes = [(n_rows, 8), (n_rows,)]
    x, y = (np.lib.format.open_memmap(p, "w+", np.float32, s) for p, s in zip(parts, shapes, strict=True))
    for k, start in enumerate(range(0, n_rows, BLOCK)):
        stop = min(start + BLOCK, n_rows)
        x[start:stop] = u = points(stop - start, seed=k)
        y[start:stop] = flow(u)
    for part, name in zip(parts, names, strict=True):
        part.replace(name)


class Blocks:
    """The rows first .. last - 1 of the files, a block at a time: each iteration reads them anew."""

    def __init__(self, x: np.ndarray, y: np.ndarray, first: int, last: int) -> None:
        self.x, self.y, self.first, self.last = x, y, first, last

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(self.first, self.last, BLOCK):
            rows = slice(start, min(start + BLOCK, self.last))
            yield np.array(self.x[rows]), np.array(self.y[rows])


class Progress:
    """The loss after each iteration, and the seconds until then; a line for some of them."""

    def __init__(self, prints: bool) -> None:
        self.prints = prints
        self.start = time.perf_counter()
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def __call__(self, info) -> None:
        """Take note of an iteration."""
        self.losses.append(info.loss)
        self.seconds.append(time.perf_counter() - self.start)
        n = len(self.losses)
        if self.prints and (n == 1 or n % 5 == 0):
            print(f"{n:9} {self.losses[-1]:12.6f} {self.seconds[-1]:8.1f}", flush=True)


def draw(path: str, progress: Progress, y: np.ndarray, y_hat: np.ndarray) -> None:
    """Write a figure: the loss after each iteration, and the surrogate against the function at new points."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)  # needs no display
    left, right = figure.subplots(1, 2)
    left.semilogy(np.arange(1, len(progress.losses) + 1), progress.losses, "o-", color="#1f5a92", markersize=4)
    left.set_xlabel("iteration of L-BFGS")
    left.set_ylabel("mean squared error, in variances")
    left.set_title("One loss curve, on any number of machines")
    left.grid(alpha=0.25)
    right.plot(MEAN + STD * y, MEAN + STD * y_hat, ".", color="#3a8a4d", markersize=2)
    right.axline((100, 100), slope=1.0, color="0.5", linewidth=1)
    right.set_xlabel("borehole function (m$^3$ a year)")
    right.set_ylabel("surrogate")
    right.set_title("At points that were not in the file")
    figure.savefig(path, dpi=150)


def main(argv=None) -> None:
    """Write the file if it is not there, fit the network, and print loss, time and the SHA-256 of the parameters."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plot", type=figure_file, metavar="FILE", help="draw the loss and the surrogate's errors")
    parser.add_argument("--quick", action="store_true", help="20,000 rows")
    parser.add_argument("--rows", type=int, default=200_000, metavar="N", help="rows of the file (200000)")
    parser.add_argument("--iterations", type=int, default=40, metavar="N", help="of L-BFGS (40)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="where the file is, or will be: all ranks see it")
    parser.add_argument("--stream", action="store_true", help=f"read blocks of {BLOCK:,} rows, two at a time in memory")
    parser.add_argument("--mpi", action="store_true", help="each rank reads its part of the file")
    arguments = parser.parse_args(argv)
    n_rows = 20_000 if arguments.quick else arguments.rows

    comm, rank, n_ranks = None, 0, 1
    if arguments.mpi:
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
        rank, n_ranks = comm.rank, comm.size

    folder = arguments.data or Path(tempfile.gettempdir()) / f"backprop-borehole-{n_rows}"
    if rank == 0 and not (folder / "y.npy").exists():
        write(folder, n_rows)
    if comm:
        comm.Barrier()  # the file is there
    x, y = (np.load(folder / name, mmap_mode="r") for name in ("x.npy", "y.npy"))
    first, last = (k * len(x) // n_ranks for k in (rank, rank + 1))

    net = Network(SIZES, activations="tanh", dtype="float32", rng=0)
    if rank == 0:
        print(f"{len(x):,} rows, network {'-'.join(map(str, SIZES))}, {net.n_params:,} parameters; ", end="")
        print(f"{n_ranks} {'process' if n_ranks == 1 else 'ranks'}{', in blocks' if arguments.stream else ''}")
        print(f"{'iteration':>9} {'loss':>12} {'seconds':>8}")
    progress = Progress(prints=rank == 0)
    data = (Blocks(x, y, first, last),) if arguments.stream else (x[first:last], y[first:last])
    result = net.fit(*data, max_iter=arguments.iterations, callback=progress, comm=comm)
    seconds = time.perf_counter() - progress.start

    if rank == 0:
        new = points(10_000, seed=2**31)
        y_new, y_hat = flow(new), net.forward(new)[:, 0]
        error = np.sqrt(np.mean((y_hat - y_new) ** 2))
        print(f"loss {result.loss:.6e} after {result.n_iter} iterations; ", end="")
        print(f"error at new points {error:.2%} of the deviation")
        print(f"time {seconds:.1f} s, {result.nfev} evaluations, {len(x) * result.nfev / seconds / 1e6:.2f} Mrows/s")
        print(f"SHA-256 of the parameters {hashlib.sha256(net.params.tobytes()).hexdigest()}")
        if arguments.plot:
            draw(arguments.plot, progress, y_new, y_hat)
            print(f"figure: {arguments.plot}")


if __name__ == "__main__":
    main()

"""`Network.fit` on several ranks: the bits of one process, one end for all, and failures that all ranks raise."""

from on_ranks import said, support
from ranks import run_on_ranks

PROGRAM = """
import numpy as np
from mpi4py import MPI
from on_ranks import attempt, problem, say, sha, split

comm = MPI.COMM_WORLD
rank, odd = comm.rank, comm.rank == 1
N = 40_000


def result_of(net, result):
    return sha(net.params, result.x, result.jac, result.loss, *result.history.values()), [
        result.n_iter, result.nfev, result.best_iteration, result.success, result.message
    ]


def rows_of(n, *arrays):
    ends = split(n, comm.size, np.random.default_rng(3))
    return [None if a is None else a[ends[rank] : ends[rank + 1]] for a in arrays]


for solver, n, weights, of_some, validates in (
    ("lbfgs", 20_000, 0, False, False), ("lbfgs", 20_000, 2, True, False), ("lbfgs", 20_000, 1, False, True),
    ("lm", 500, 0, False, False), ("lm", 40_000, 2, True, True),
):
    net, x, y, weight, _ = problem(n, weights=weights)
    start, how = net.params.copy(), {"solver": solver, "max_iter": 2}
    if of_some:
        how |= {"l2": 1e-2, "free": np.arange(net.n_params) % 3 != 0}
    if validates:
        how |= {"patience": 2, "x_val": x[:300] + 0.1, "y_val": y[:300], "sample_weight_val": weight[:300]}
    plain = result_of(net, net.fit(x, y, sample_weight=weight, **how))
    net.params = start
    own_x, own_y, own_weight = rows_of(n, x, y, weight)
    if validates:
        names = ("x_val", "y_val", "sample_weight_val")
        how |= dict(zip(names, rows_of(300, *(how[name] for name in names)), strict=True))
    whole = net.fit(own_x, own_y, sample_weight=own_weight, comm=comm, **how)
    say(rank, same=result_of(net, whole) == plain)
    how["max_iter"] = 1
    state = net.fit(own_x, own_y, sample_weight=own_weight, comm=comm, **how, state=whole.state).state
    say(rank, same=state.n_iter == 3)

# The other ranks hear what one decides, and what goes wrong on one.
net, x, y, weight, _ = problem(200)
start = net.params.copy()
x, y = rows_of(200, x, y)


def fit(**options):
    net.params = start
    return net.fit(x, y, **{"comm": comm, "max_iter": 30, **options})


class Failure(Exception):
    pass


def failing(info):
    if odd and info.iteration == 4:
        raise Failure("of the callback")


stopped = fit(callback=(lambda info: info.iteration == 4) if odd else None)
say(rank, n_iter=stopped.n_iter, params=sha(net.params), message=stopped.message)
say(rank, error=attempt(fit, callback=failing), params=sha(net.params))
say(rank, error=attempt(fit, max_iter=20 if odd else 10))
say(rank, error=attempt(fit, tol=-1.0 if odd else None))
say(rank, error=attempt(fit, solver="lm" if odd else "lbfgs"))
say(rank, error=attempt(fit, x_val=x if odd else None, y_val=y if odd else None))
net.params = start + odd
say(rank, error=attempt(lambda: net.fit(x, y, comm=comm)))
after = fit()
say(rank, n_iter=after.n_iter, params=sha(net.params))

# An objective with comm, on all ranks, and on rank 0 while the others serve.
net.params = start
fun = net.objective(x, y, comm=comm)
result = net.fit(fun, max_iter=30)
say(rank, n_iter=result.n_iter, params=sha(net.params))
net.params = start
say(rank, error=attempt(net.fit, fun, callback=failing), params=sha(net.params))
if rank == 0:
    net.params = start
    say(rank, error=attempt(net.fit, fun, callback=lambda info: 1 / 0))
    net.params = start
    result = net.fit(fun, max_iter=30)
    fun.stop()
    say(rank, served=sha(net.params))
else:
    fun.serve()
"""


def test_ranks_fit_together(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    done = run_on_ranks(3, "-m", "mpi4py", path, env=support())
    assert done.returncode == 0, done.stdout + done.stderr
    ranks = said(done)
    assert sorted(ranks) == [0, 1, 2]
    for rank, lines in ranks.items():
        assert [line["same"] for line in lines[:10]] == [True] * 10
        stopped, failed, max_iter, tol, solver, x_val, params, after, of_objective, failed_too = lines[10:20]
        assert after["n_iter"] == of_objective["n_iter"] == 30
        assert after["params"] == of_objective["params"] == ranks[0][17]["params"] == ranks[0][21]["served"]
        assert (stopped["n_iter"], stopped["params"]) == (4, ranks[0][10]["params"])
        assert "callback" in stopped["message"]
        assert failed["params"] == stopped["params"]
        own = "Failure: of the callback"
        for of_fit in (failed, failed_too):
            assert of_fit["error"] == own if rank == 1 else f"rank 1 raised {own}" in of_fit["error"]
        assert failed_too["params"] == failed["params"]
        assert "max_iter = 20" in max_iter["error"]
        assert "tol: expected a finite number >= 0, got -1.0" in tol["error"]
        assert "solver = lm" in solver["error"] or "the sums" in solver["error"]
        assert "x_val" in x_val["error"]
        assert "theta" in params["error"]

"""`Network.fit`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api import other_names, scalars
from backprop.api.base import Base
from backprop.distributed import terms
from backprop.distributed.blocks import Blocks, Streamed
from backprop.distributed.samples import InMemory
from backprop.distributed.terms import Accepted, Given, Term, Terms
from backprop.objective import Objective
from backprop.training import ask_and_tell, epochs, full_batch, loop, result, settings, state
from backprop.training.settings import Rate, Settings
from backprop.training.state import State, Steps

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

Array = npt.NDArray[Any]

_LOSS = _core.CALLS["loss"]


class Fit(Base):
    """A network that can be fitted."""

    __slots__ = ()

    @other_names.checks_names
    def fit(
        self,
        x: npt.ArrayLike | Blocks | Objective,
        y: npt.ArrayLike | None = None,
        *,
        solver: str = "lbfgs",
        sample_weight: npt.ArrayLike | None = None,
        l2: float = 0.0,
        free: npt.ArrayLike | None = None,
        max_iter: int | None = None,
        tol: float | None = None,
        batch_size: int | None = None,
        shuffle: bool = True,
        learning_rate: Rate | None = None,
        momentum: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        max_norm: float | None = None,
        rng: int | np.random.Generator | None = None,
        x_val: npt.ArrayLike | None = None,
        y_val: npt.ArrayLike | None = None,
        sample_weight_val: npt.ArrayLike | None = None,
        patience: int | None = None,
        callback: Callable[[loop.Info], object] | None = None,
        every: int = 1,
        progress: bool = False,
        state: State | None = None,
        n_threads: int | None = None,
        comm: object = None,
    ) -> OptimizeResult:
        """Fit the network: the params become those that make the loss small.

        All iterations run in compiled code without the GIL, and the result has the same bits for every number of
        threads.

        Parameters
        ----------
        x, y, sample_weight
            As in `objective`: arrays, or blocks without y. With adam and sgd, rows are shuffled within a block, and
            batches end with it. x may also be an objective of this network, for instance a sum of some, for the solver
            lbfgs; it has its own y, sample_weight, l2, free, n_threads and comm.
        solver : {"lbfgs", "lm", "adam", "sgd"}
            "lbfgs": L-BFGS with a line search, for up to some ten thousand samples the best choice mostly. "lm":
            Levenberg-Marquardt, for the loss squared_error and up to some hundred parameters; few iterations to many
            digits. "adam" and "sgd" (gradient descent with Nesterov's momentum) take mini-batches, for many samples.
        l2 : float
            Adds l2/2 times the sum of all squared weights, without biases, to the loss: with adam and sgd to that of
            each batch. It is not divided by n_samples.
        free : (n_params,) boolean mask, optional
            The other parameters stay as they are.
        max_iter : int, optional
            The most iterations, or epochs with adam and sgd; by default 200. With state: the most further ones.
        tol : float, optional
            lbfgs, lm: the fit has converged if no entry of the gradient is larger, by default 1e-6. adam, sgd: an
            improvement counts for patience if it is larger, by default 0.
        batch_size : int, optional
            adam, sgd: the samples of a batch, by default 200, or all if there are fewer. A batch divides by its own
            weights; one without weight makes no step.
        shuffle : bool
            adam, sgd: whether each epoch takes the samples in a new order, ``rng.permutation(n_samples)``. Nothing is
            copied.
        learning_rate : float or callable, optional
            adam: by default 1e-3; sgd: 1e-2. A function of the number of the epoch, which is counted from 0.
        momentum : float, optional
            sgd: by default 0.9.
        betas, epsilon
            adam: how fast its moments forget, and what is added to the root of the second.
        weight_decay : float
            adam: all free parameters shrink by learning_rate times weight_decay at each step (AdamW).
        max_norm : float, optional
            adam, sgd: a longer gradient of a batch is scaled to this norm.
        rng : int, numpy.random.Generator or None
            adam, sgd: for the orders of the samples.
        x_val, y_val, sample_weight_val : optional
            Data for ``history["val_loss"]``, the loss without l2 after each iteration or epoch.
        patience : int, optional
            Stop after so many iterations or epochs in a row without an improvement of val_loss, or of the loss without
            x_val. In the end, the network has the best parameters.
        callback : callable, optional
            Called with an object that has iteration (counted from 1), loss, val_loss, learning_rate and params (a
            copy). If it returns True or raises StopIteration, the fit ends.
        every : int
            The callback is called after each iteration or epoch whose number can be divided by it.
        progress : bool
            Whether tqdm shows a progress bar.
        state : optional
            ``result.state`` of a fit of a network of the same shape, with the same solver and free: the fit goes on
            from there. Two fits of 50 iterations on the same data give the bits and the result of one of 100. The
            params of the network, and rng, are then of no use.
        n_threads : int, optional
            The most threads to use.
        comm : mpi4py communicator, optional
            lbfgs, lm: as in `objective`; x_val, y_val and sample_weight_val are the rows of this rank too. All ranks
            call fit together, and end with the same parameters and the same result. A callback may be on one rank
            alone: if it ends the fit, or raises, it does so on all.

        Returns
        -------
        scipy.optimize.OptimizeResult
            loss : the loss of the data, l2 included, at the parameters that are left. n_iter : iterations or epochs.
            success, message : whether and why it ended. history : lists by "loss" and "val_loss"; of lbfgs and lm the
            loss after each iteration, of adam and sgd the mean over the batches of an epoch, each before its step.
            best_iteration : of the smallest val_loss, or loss without x_val; 0 is the start. state : to go on with.
            Also x (the free parameters), fun, jac, nit, nfev, as SciPy has them.

        Raises
        ------
        TypeError, ValueError
            If an argument is refused, or is not used by the solver. params are then unchanged.
        MemoryError, KeyboardInterrupt, or what a callback raises
            The params are those of the last step.

        Notes
        -----
        If the loss is not finite, the fit ends: success is False, and message says where. The parameters are those
        before that step.

        References
        ----------
        D. Liu, J. Nocedal, On the limited memory BFGS method for large scale optimization, Math. Programming 45 (1989).
        J. Moré, The Levenberg-Marquardt algorithm, in Numerical Analysis (1978). D. Kingma, J. Ba, Adam, ICLR (2015).
        I. Loshchilov, F. Hutter, Decoupled weight decay regularization, ICLR (2019).
        """
        given = {name: value for name, value in locals().items() if name != "self"}
        return _fit(self, given)


def _fit(net: Base, given: dict[str, Any]) -> OptimizeResult:
    """`Network.fit` with its arguments by name."""
    import scipy.optimize  # noqa: F401  # before the fit and not after it: it takes a while, and may be missing

    settings.solver_of(given)
    prepared = _of_objective(net, given) if isinstance(given["x"], Objective) else _of_samples(net, given)
    how, now, iterations = prepared.settings, prepared.state, prepared.iterations
    try:
        end = loop.run(iterations, how, now, prepared.val_loss, prepared.agree)
        found, params = _result(prepared, end)
    except BaseException:
        iterations.settle()
        net._theta(None)[...] = now.params
        raise
    net._theta(None)[...] = params
    return found


class _Prepared(NamedTuple):
    """A fit that may begin."""

    terms: Terms
    settings: Settings
    state: State
    iterations: loop.Iterations
    val_loss: loop.Validation | None
    agree: loop.Agree | None = None


def _of_samples(net: Base, given: dict[str, Any]) -> _Prepared:
    """A fit on arrays or blocks."""
    x, y, weight, n_threads, comm = (given[name] for name in ("x", "y", "sample_weight", "n_threads", "comm"))
    if comm is not None:
        return _of_ranks(net, given)
    how = settings_of(net, given)
    samples = terms.source(net, Given(x, y, weight), Accepted(how.l2, how.free), n_threads)
    now = _state(net, how, given)
    term = Term(samples, how.l2)
    return _Prepared((term,), how, now, _iterations((term,), how, now), _validation(net, given))


def _of_ranks(net: Base, given: dict[str, Any]) -> _Prepared:
    """A fit on the rows of all ranks. An error on one rank is raised on all."""
    n_threads, comm = given["n_threads"], given["comm"]
    kept: list[tuple[Settings, State]] = []

    def accept() -> Accepted:
        how = settings_of(net, given)
        now = _state(net, how, given)
        settings.refuse_half_of_validation(given)
        kept.append((how, now))
        facts = [(name, getattr(how, name)) for name in ("solver", "max_iter", "tol", "patience", "every")]
        facts += [("n_iter", now.n_iter), ("x_val", given["x_val"] is not None)]
        return Accepted(how.l2, how.free, more=tuple(facts))

    calls = ("loss", "value_and_grad", *(["normal_equations"] if given["solver"] == "lm" else []))
    data = Given(given["x"], given["y"], given["sample_weight"])
    samples, _ = terms.source_of_ranks(net, comm, accept, data, n_threads, calls)
    how, now = kept[0]
    val_loss: loop.Validation | None = None
    if given["x_val"] is not None:
        data = Given(given["x_val"], given["y_val"], given["sample_weight_val"])
        with settings.of_validation():
            of_val, _ = terms.source_of_ranks(net, comm, lambda: Accepted(0.0, how.free), data, n_threads)

        def val_loss(params: Array) -> float:
            return of_val.sums(_LOSS, params)[0]

    has_callback = samples.agree("fit: whether there is a callback", how.callback is not None)
    agree = partial(samples.agree, "fit: whether a callback ends it") if has_callback else None
    term = Term(samples, how.l2)
    return _Prepared((term,), how, now, _iterations((term,), how, now), val_loss, agree)


def _of_objective(net: Base, given: dict[str, Any]) -> _Prepared:
    """A fit of an objective."""
    fun: Objective = given["x"]
    settings.refuse_beside_objective(given)
    if fun._net is not net:
        raise ValueError(
            f"x: expected an objective of this network, got one of another, {fun._net!r}; make it by net.objective"
        )
    its_terms = fun._terms
    how = settings_of(net, given)._replace(free=fun._free)
    now = _state(net, how, given)
    if len(its_terms) == 1 and its_terms[0].factor == 1.0 and isinstance(its_terms[0].samples, InMemory):
        how = how._replace(l2=its_terms[0].l2, n_threads=its_terms[0].samples.n_threads)
    agree = partial(_refuse, its_terms) if terms.across_ranks(its_terms) is not None else None
    return _Prepared(its_terms, how, now, _iterations(its_terms, how, now), _validation(net, given), agree)


def _refuse(its_terms: Terms, on: bool, error: BaseException | None = None) -> bool:
    """Let the other ranks of an objective raise if this one has an error. They may serve, and know of no fit."""
    if error is not None:
        terms.refuse(its_terms, error)
    return on


def settings_of(net: Base, given: dict[str, Any]) -> Settings:
    """What a fit with these arguments does."""
    if given["solver"] == "lm":
        net._need_squared_error("fit with solver='lm'")
    return settings.accepted(net.n_params, given)


def _state(net: Base, how: Settings, given: dict[str, Any]) -> State:
    """A state of its own for this fit."""
    if given["state"] is not None:
        return state.accepted(given["state"], how.solver, net.params, how.free)
    params = net.params.copy()
    core: state.Core
    if how.is_stochastic:
        core = Steps.at_start(how.solver, net.params, scalars.random_generator(given["rng"]))
    else:
        core = full_batch.start(how.solver, params, how.free)
    return State(how.solver, params, how.free, core)


def _iterations(its_terms: Terms, how: Settings, now: State) -> loop.Iterations:
    """What runs the iterations: compiled loops for samples in memory, if there is nothing else."""
    term = its_terms[0]
    is_plain = len(its_terms) == 1 and term.factor == 1.0
    if is_plain and isinstance(term.samples, InMemory):
        return (epochs.InCore if how.is_stochastic else full_batch.InCore)(term.samples, how, now)
    if how.is_stochastic:
        assert isinstance(term.samples, Streamed)
        return epochs.InBlocks(term.samples, how, now)
    if how.solver == "lm":
        return ask_and_tell.LevenbergMarquardt(term, how, now)
    return ask_and_tell.Lbfgs(its_terms, how, now)


def _validation(net: Base, given: dict[str, Any]) -> loop.Validation | None:
    """The loss on the validation data, which are looked at now."""
    settings.refuse_half_of_validation(given)
    x, y, weight = (given[name] for name in ("x_val", "y_val", "sample_weight_val"))
    if x is None:
        return None
    with settings.of_validation():
        samples = InMemory(net, x, y, weight, given["n_threads"])

    def loss(params: Array) -> float:
        return net.loss(samples.x, samples.y, params=params, sample_weight=samples.weight, n_threads=samples.n_threads)

    return loss


def _result(prepared: _Prepared, end: loop.End) -> tuple[OptimizeResult, Array]:
    """The result, and the parameters that are left to the network."""
    its_terms, how, now = prepared.terms, prepared.settings, prepared.state
    params = now.params
    if how.patience is not None and now.best is not None and now.best.params is not None:
        params = now.best.params
    loss, gradient = terms.added(its_terms, lambda term: term.value_and_grad(params))
    if isinstance(now.core, Steps):  # the user's generator may go on
        now.core.rng = copy.deepcopy(now.core.rng)
    return result.of(now, end, params, loss, gradient if how.free is None else gradient[how.free]), params

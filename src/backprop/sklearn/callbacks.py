"""scikit-learn's callbacks (since 1.9): a fit by sgd or adam is one task, and each of its epochs a task within.

With an older scikit-learn the estimators have no `set_callbacks`, and a fit has no tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class _NoCallbacks:
    """An estimator without callbacks."""


def _callback_support() -> Any:
    try:
        from sklearn.callback import CallbackSupportMixin
    except ImportError:
        return _NoCallbacks
    return CallbackSupportMixin


CallbackSupport: Any = _callback_support()


class Tasks:
    """The tasks of one fit. Without callbacks they do nothing.

    Parameters
    ----------
    estimator : BaseMLP
    X, y, sample_weight
        The training samples, with y as the user gave it.
    n_epochs : int
        The most epochs; 0 if the epochs are no tasks.
    """

    def __init__(self, estimator: Any, X: Any, y: Callable[[], Any], sample_weight: Any, n_epochs: int) -> None:
        self._estimator = estimator
        self._root: Any = None
        self._epoch: Any = None
        if getattr(estimator, "_skl_callbacks", None):
            metadata = None if sample_weight is None else {"sample_weight": sample_weight}
            self._samples = {"X": X, "y": y, "metadata": metadata}
            self._root = estimator._init_callback_context(max_subtasks=n_epochs)
            self._root.call_on_fit_task_begin(estimator=estimator, **self._samples)

    @property
    def are_watched(self) -> bool:
        """Whether there are callbacks."""
        return self._root is not None

    def begin_epoch(self) -> None:
        """Call the callbacks before an epoch."""
        if self._root is not None:
            self._epoch = self._root.subcontext(task_name="epoch")
            self._epoch.call_on_fit_task_begin(estimator=self._estimator, **self._samples)

    def end_epoch(self, attributes: Callable[[], dict[str, Any]]) -> bool:
        """Call the callbacks after an epoch.

        Parameters
        ----------
        attributes : callable
            It gives the attributes of an estimator that predicts from the present parameters.

        Returns
        -------
        bool
            Whether a callback ends the fit.
        """
        if self._root is None:
            return False
        stops = self._epoch.call_on_fit_task_end(
            estimator=self._estimator, reconstruction_attributes=attributes, **self._samples
        )
        return bool(stops)

    def end(self) -> None:
        """Call the callbacks after the fit."""
        if self._root is not None:
            self._root.call_on_fit_task_end(estimator=self._estimator, reconstruction_attributes=dict, **self._samples)

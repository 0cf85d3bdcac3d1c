"""The bar of ``progress=True``, by tqdm, which is imported only if one asks for it."""

from __future__ import annotations

from typing import Any, Self


class Bar:
    """Shows how far a fit is. Use it in a ``with`` block.

    Parameters
    ----------
    is_shown : bool
        If False, nothing happens.
    n : int
        The iterations or epochs that may come.
    unit : str

    Raises
    ------
    ModuleNotFoundError
        If tqdm is missing.
    """

    def __init__(self, is_shown: bool, n: int, unit: str) -> None:
        self._bar: Any = None
        if is_shown:
            try:
                from tqdm.auto import tqdm
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError("progress: tqdm is missing: pip install tqdm", name="tqdm") from error
            self._bar = tqdm(total=n, unit=unit)

    def show(self, n: int, loss: float, val_loss: float | None) -> None:
        """Go on by n iterations."""
        if self._bar is not None:
            losses = {"loss": loss} if val_loss is None else {"loss": loss, "val_loss": val_loss}
            self._bar.set_postfix({name: f"{value:.6g}" for name, value in losses.items()}, refresh=False)
            self._bar.update(n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

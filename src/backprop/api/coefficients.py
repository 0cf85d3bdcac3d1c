"""The coefficients of a differential equation, c u + b . grad u + D : Hess u = f: which are accepted, and as rows.

The compiled calls take directions of x and, for all samples or for each, a row of coefficients: c; b along each
direction; and those of a form of second derivatives, which are e_jj = D_jj alone, or also e_jk = D_jk + D_kj for j < k.
So the antisymmetric part of D counts for nothing. The directions are those axes that b or e use in some sample. A
*pattern* says which they are: it has an entry for each of b and e, 1 if some sample uses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from backprop import _core
from backprop.api.array_likes import as_array, describe
from backprop.api.conversion import BLOCK, as_it_came, by_tiles

Array = npt.NDArray[Any]
Pattern = npt.NDArray[np.int8]
Mask = npt.NDArray[np.bool_]


class Coefficients(NamedTuple):
    """Accepted c, b and D, each for all samples, or with an axis of samples in front."""

    c: Array  # ()
    b: Array  # (n_0,)
    D: Array  # (n_0, n_0)
    dtype: np.dtype[Any]  # of the network

    @property
    def n_in(self) -> int:
        """n_0."""
        return int(self.b.shape[-1])

    @property
    def by_sample(self) -> dict[str, Array]:
        """Those that have a value for each sample."""
        return {name: array for name, array, ndim in self._all if array.ndim > ndim}

    @property
    def shared(self) -> dict[str, Array]:
        """Those that all samples share."""
        return {name: array for name, array, ndim in self._all if array.ndim == ndim}

    @property
    def _all(self) -> tuple[tuple[str, Array, int], ...]:
        return ("c", self.c, 0), ("b", self.b, 1), ("D", self.D, 2)

    def pattern(self, n_samples: int, kept: Mask | None) -> Pattern:
        """Which entries of b and e some sample uses. Only the rows kept count, whose numbers must be finite."""
        for name, array in self.shared.items():
            refuse_not_finite(name, array, self.dtype)
        for name, array in self.by_sample.items():
            if len(array) != n_samples:
                raise ValueError(f"{name}: expected shape {(n_samples, *array.shape[1:])}, got {array.shape}")
            refuse_not_finite(name, array, self.dtype, kept, is_by_sample=True)
        used = np.zeros(1 + n_entries(self.n_in), bool)
        for start, block in self._blocks():
            rows = slice(None) if kept is None or not self.by_sample else kept[start : start + len(block)]
            with _core.DefaultFloatMode():  # in other modes a subnormal number may count as 0
                used |= (block[rows] != 0).any(axis=0)
                are_finite = bool(np.isfinite(block[rows]).all())
            if not are_finite:
                raise ValueError(f"D: expected numbers D_jk + D_kj that are finite in {self.dtype}, got others")
        return used[1:].astype(np.int8)

    def rows(self, pattern: Pattern) -> Array:
        """The coefficients along the directions of a pattern: (n_samples, K), or (1, K) if all samples share them."""
        columns = _columns(pattern, self.n_in)
        shape = max(map(len, self.by_sample.values()), default=1), len(columns)
        try:
            rows = np.empty(shape, self.dtype)
        except (MemoryError, ValueError) as error:
            raise MemoryError(f"the coefficients of shape {shape} do not fit into memory") from error
        for start, block in self._blocks():
            rows[start : start + len(block)] = block[:, columns]
        return rows

    def _blocks(self) -> Iterator[tuple[int, Array]]:
        """c, b and e of some samples, in the dtype of the network, and the number of the first one.

        If all samples share the coefficients, it is one row.
        """
        n_in = self.n_in
        width = 1 + n_entries(n_in)
        n_rows, n_together = max(map(len, self.by_sample.values()), default=1), max(1, BLOCK // width)
        j, k = np.triu_indices(n_in)
        for start in range(0, n_rows, n_together):
            some = slice(start, min(start + n_together, n_rows))
            c, b, D = (array[some] if array.ndim > ndim else array[None] for _, array, ndim in self._all)
            block = np.empty((some.stop - start, width), self.dtype)
            with np.errstate(all="ignore"), _core.DefaultFloatMode():
                mirrored = D[:, k, j].astype(np.float64)
                mirrored[:, j == k] = 0
                block[:, 0], block[:, 1 : 1 + n_in], block[:, 1 + n_in :] = c, b, D[:, j, k] + mirrored
            yield start, block


def n_entries(n_in: int) -> int:
    """The number of entries of b and e: the length of a pattern."""
    return n_in + n_in * (n_in + 1) // 2


def accepted(c: object, b: object, D: object, n_in: int, dtype: np.dtype[Any]) -> Coefficients:
    """Accept c, b and D, but for the number of samples and for numbers that are not finite."""
    of_c, of_b, of_D = (as_array(0.0 if x is None else x, name) for x, name in ((c, "c"), (b, "b"), (D, "D")))
    if of_c.ndim > 1:
        cure = "; c[:, 0] makes it flat" if of_c.shape[1:] == (1,) else ""
        raise ValueError(f"c: expected a number or shape (n_samples,), got {of_c.shape}{cure}")
    if of_b.ndim == 0 and (n_in == 1 or of_b == 0):
        of_b = np.broadcast_to(of_b, n_in)
    if of_b.ndim not in (1, 2) or of_b.shape[-1] != n_in:
        got = describe(b) if of_b.ndim == 0 else str(of_b.shape)
        cure = "; for one input write b[:, None]" if n_in == 1 and of_b.ndim == 1 else ""
        raise ValueError(f"b: expected 0, shape ({n_in},) or (n_samples, {n_in}), got {got}{cure}")
    if of_D.ndim == 0:
        of_D = np.where(np.eye(n_in, dtype=bool), of_D, np.zeros_like(of_D))
    if of_D.ndim not in (2, 3) or of_D.shape[-2:] != (n_in, n_in):
        cure = f"; a number for each sample is D[:, None, None] * np.eye({n_in})" if of_D.ndim == 1 else ""
        cure = "; a diagonal is np.diag(D)" if of_D.shape == (n_in,) else cure
        raise ValueError(
            f"D: expected a number, shape ({n_in}, {n_in}) or (n_samples, {n_in}, {n_in}), got {of_D.shape}{cure}"
        )
    return Coefficients(of_c, of_b, of_D, dtype)


def right_hand_side(value: object, n_samples: int, dtype: np.dtype[Any], kept: Mask | None) -> Array:
    """Accept f as (n_samples, 1), finite in the rows kept. A large f may keep another dtype or layout."""
    array = as_array(value, "f")
    if array.shape not in ((), (n_samples,), (n_samples, 1)):
        raise ValueError(f"f: expected a number, shape ({n_samples},) or ({n_samples}, 1), got {array.shape}")
    if array.ndim == 0:
        refuse_not_finite("f", array, dtype)
        return np.full((n_samples, 1), array, dtype)
    refuse_not_finite("f", array.reshape(n_samples), dtype, kept, is_by_sample=True)
    return by_tiles(array.reshape(n_samples, 1), dtype, "f")


def refuse_not_finite(
    name: str, array: Array, dtype: np.dtype[Any], kept: Mask | None = None, *, is_by_sample: bool = False
) -> None:
    """Refuse numbers that are not finite in the dtype of the network; of those by sample, in the rows kept."""
    if not is_by_sample:
        array = array[None]
    n_together = max(1, BLOCK // max(1, array[:1].size))
    for start in range(0, len(array), n_together):
        given = array[start : start + n_together]
        with np.errstate(all="ignore"), _core.DefaultFloatMode():
            numbers = given.astype(dtype, copy=False)
            bad = ~np.isfinite(numbers)
        if kept is not None:
            bad[~kept[start : start + n_together]] = False
        if bad.any():
            row, *entry = at = tuple(map(int, np.argwhere(bad)[0]))
            places = [f"row {start + row}"] * is_by_sample + [f"entry {entry}"] * bool(entry)
            text = f" in {', '.join(places)}" if places else ""
            raise ValueError(f"{name}: expected finite numbers, got {as_it_came(given[at], numbers[at])}{text}")


# Directions -----------------------------------------------------------------------------------------------------------


def directions(pattern: Pattern, n_in: int, dtype: np.dtype[Any]) -> tuple[Array, Literal["diagonal", "symmetric"]]:
    """The axes that a pattern uses, (k, n_0) with k >= 1, and the name of the form along them."""
    axes, is_diagonal = _axes(pattern, n_in)
    return np.eye(n_in, dtype=dtype)[axes], "diagonal" if is_diagonal else "symmetric"


def _axes(pattern: Pattern, n_in: int) -> tuple[Array, bool]:
    """The numbers of the axes that a pattern uses, and whether it uses only the diagonal of e."""
    of_b, of_e = pattern[:n_in] != 0, np.flatnonzero(pattern[n_in:])
    j, k = (indices[of_e] for indices in np.triu_indices(n_in))
    of_b[j] = of_b[k] = True
    axes = np.flatnonzero(of_b)
    return (axes if len(axes) else np.zeros(1, np.intp)), bool((j == k).all())


def _columns(pattern: Pattern, n_in: int) -> Array:
    """The columns of c, b and e that belong to the directions of a pattern, in the order of the calls."""
    axes, is_diagonal = _axes(pattern, n_in)
    j, k = np.triu_indices(n_in)
    are_along = np.isin(j, axes) & np.isin(k, axes) & ((j == k) | (not is_diagonal))
    return np.concatenate([[0], 1 + axes, 1 + n_in + np.flatnonzero(are_along)])

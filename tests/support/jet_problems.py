"""Operands of the kernels of jets, in buffers of NaN, and results in buffers of 7: what lies beside them must stay."""

import numpy as np
from kernel_functions import CONSTANTS

FORMS = ("FIRST_ALONE", "EACH", "DIAGONAL", "SYMMETRIC")


def address(array):
    return None if array is None else array.ctypes.data


class Operand:
    """Matrices (n_rows, n; ld), `block` apart, in a buffer of NaN."""

    def __init__(self, rng, dtype, n_blocks, n_rows, n, ld, block):
        self.buffer = np.full(max(n_blocks, 1) * block + 8, np.nan, dtype)
        strides = [reals * self.buffer.itemsize for reals in (block, ld, 1)]
        self.rows = np.ndarray((n_blocks, n_rows, n), dtype, self.buffer, 0, strides)
        self.rows[...] = rng.standard_normal((n_blocks, n_rows, n))
        self.address, self.gap = address(self.buffer), np.nan

    @property
    def exact(self):
        return self.rows.astype(np.longdouble)

    def copy(self):
        """The same entries in a buffer of 7: a store beside the entries shows, also of what comes from NaN."""
        other = object.__new__(Operand)
        other.buffer, other.gap = np.full_like(self.buffer, 7), 7
        other.rows = np.ndarray(self.rows.shape, self.rows.dtype, other.buffer, 0, self.rows.strides)
        other.rows[...] = self.rows
        other.address = address(other.buffer)
        return other

    def gaps_are_kept(self):
        """Whether nothing was written beside the entries."""
        kept = self.rows.copy()
        self.rows[...] = self.gap
        same = np.array_equal(self.buffer, np.full_like(self.buffer, self.gap), equal_nan=True)
        self.rows[...] = kept
        return same


class Problem:
    """Operands of a layer: k directions of n_rows samples, n units."""

    def __init__(self, dtype, form, k, n, n_rows=3, shared=False, coefficients="by row", with_s=True, seed=0):
        rng = np.random.default_rng([seed, k, n])
        self.form, self.k, self.n, self.n_rows = form, k, n, n_rows
        self.ld, self.n_seconds = n + 5, {"FIRST_ALONE": 0, "EACH": k}.get(form, 1)
        self.block = n_rows * self.ld + 7
        layout = n_rows, n, self.ld, self.block
        self.g = Operand(rng, dtype, 3, *layout)
        self.g_at = [self.g.address + i * self.block * self.g.buffer.itemsize for i in range(3)]
        d_layout = (n_rows, n, 0, n + 1) if shared else layout
        self.d, self.t_d = Operand(rng, dtype, k, *d_layout), Operand(rng, dtype, k, *d_layout)
        self.d_strides = (0, n + 1) if shared else (self.ld, self.block)
        self.s, self.t_s = (Operand(rng, dtype, self.n_seconds, *layout) if with_s else None for _ in range(2))
        self.h, self.t_h = Operand(rng, dtype, 1, *layout), Operand(rng, dtype, 1, *layout)
        self.D, self.S = Operand(rng, dtype, k, *layout), Operand(rng, dtype, self.n_seconds, *layout)
        n_e = {"DIAGONAL": k, "SYMMETRIC": k * (k + 1) // 2}.get(form, 0)
        e = rng.standard_normal((n_rows, max(n_e, 1))).astype(dtype)
        self.e, self.ld_e = (np.pad(e, ((0, 0), (0, 2)), constant_values=np.nan), e.shape[1] + 2)
        if coefficients == "one row":
            e[1:], self.ld_e = e[0], 0
        if coefficients is None:
            e[...], self.e, self.ld_e = 1, None, 99
        self.matrices = np.zeros((n_rows, self.n_seconds, k, k), np.longdouble)  # form_t(d) = d . matrix_t d, symmetric
        if form == "EACH":
            self.matrices[:, range(k), range(k), range(k)] = 1
        elif form == "DIAGONAL":
            self.matrices[:, 0, range(k), range(k)] = e
        elif form == "SYMMETRIC":
            upper = np.triu_indices(k)
            self.matrices[:, 0, upper[0], upper[1]] = e
            self.matrices = (self.matrices + self.matrices.swapaxes(2, 3)) / 2

    def head(self):
        """The first arguments of each function."""
        return self.n_rows, self.n, self.k, CONSTANTS[self.form], address(self.e), self.ld_e

    def directions(self, d, s):
        return d.address, *self.d_strides, s and s.address

    def exact(self, absolute=False):
        """g', g'', g''' (1, n_rows, n), d, s, M and the rest in longdouble, or their magnitudes."""
        zeros = np.zeros((self.n_seconds, self.n_rows, self.n), np.longdouble)
        found = {"g": self.g.exact[:, None], "M": self.matrices}
        for name in ("d", "t_d", "h", "t_h", "D", "S"):
            found[name] = getattr(self, name).exact
        for name in ("s", "t_s"):
            found[name] = zeros if getattr(self, name) is None else getattr(self, name).exact
        return {name: np.abs(value) if absolute else value for name, value in found.items()}

"""Break the compiled code and the validation on purpose, one line at a time, and see whether the tests notice.

    python tools/mutants.py                 # all mutations; the process exits with 1 where one survives
    python tools/mutants.py --only bias     # those with "bias" in their names
    python tools/mutants.py --jobs 2        # two at once
    python tools/mutants.py --list

Each mutation is made in a copy of the tree, built there for one instruction set, and judged by the tests below. Lines
that only v4 compiles (half vectors) are built and tested for v4, and left out with a word where the CPU lacks it. A
mutation that crashes or fails a test is killed; one that does not build proves nothing and counts as a survivor. The
unchanged copy must pass first. It is built with -O1: the bits are those of -O3, since no contraction is allowed at
either, and the builds take half as long.

Left out, since no result changes, or less than its rounding:

- other splits in `next_rows` and `next_panel`, another TILE_BYTES, PACK_COLUMNS, COPY_ROWS or FAR_BYTES, the stride
  that avoids 2 KiB: speed alone;
- another FEW_INPUTS: lanes over units or over inputs, the chains are the same;
- another KEPT_VECTORS, GRADIENT_BYTES or STREAM_BYTES: the same products are stored in another order, or another way;
- another ROW_BLOCK, or `n >= ROW_BLOCK` where a row's exponentials are computed again: they are equal;
- panels of W and x that are not copied where they end beyond a row: what is read there falls into unused lanes;
- a tail taken as whole in the forward product and in the hidden sum of inner layers: the lanes in excess fall into
  padding;
- numbers of threads, strips and slots, the order of memory accesses and locks of the pool: no result changes, or only
  in a race that a test cannot force;
- signals that workers do not block: the caller polls for them all the same; and a thread that is not tried again with a
  larger stack: fewer compute, with the same bits;
- the end of the list of chunks in `find_starts`, beyond which only weights go that another thread makes more of while
  the list is made;
- what 1 + t rounds off in `bp_log1p`: half an ulp, less than the error of the exponentials that t is a sum of;
- zeros beyond the last column of a panel: these lanes are never stored;
- limits (gelu beyond 40, silu below -1500) that the formula beside them reaches as well.
"""

import argparse
import concurrent.futures
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import built_copy
from built_copy import ROOT

PACKAGE = Path("src", "backprop")
TREE = ["src", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"]
TESTS = [  # those that fail soonest come first
    "tests/recursion/test_worked_example.py",
    "tests/kernels/test_losses.py",
    "tests/recursion/test_hard_inputs.py",
    "tests/kernels/test_kernels.py",
    "tests/kernels/test_activations.py",
    "tests/kernels/test_second_derivatives.py",
    "tests/calls/test_arrays.py",
    "tests/recursion/test_exactness.py",
    "tests/api/test_bad_input.py",
    "tests/api/test_network.py",
    "tests/schedule/test_threads.py::test_the_bits_do_not_depend_on_the_thread_count",
    "tests/schedule/test_threads.py::test_the_bits_of_wide_layers_do_not_depend_on_the_thread_count",
    "tests/schedule/test_threads.py::test_the_bits_do_not_depend_on_who_calls",
    "tests/schedule/test_threads.py::test_products_cut_for_signals_have_the_bits_of_whole_ones",
    "tests/recursion/test_bits.py",
    "tests/schedule/test_signals.py::test_cut_work_has_the_bits_of_whole_work",
    "tests/api/test_ensemble.py",
    "tests/derivatives/test_second_sweep.py",
    "tests/calls/test_quick_calls.py",
    "tests/derivatives/test_hessp.py",
    "tests/derivatives/test_derivatives.py",
]
LIMIT = 900  # seconds for a build or a run of the tests; a mutant that loops for ever is killed then

BLOCK, PRODUCTS, LOSSES, ACTIVATIONS, SECOND, CURVATURE, SUMS, ROWS = (
    f"_kernels_{part}.pxi"
    for part in ("block", "products", "losses", "activations", "second", "curvature", "sums", "rows")
)
VECTOR, ELEMENTARY_H, ROWS_H = (f"_kernels_{part}.h" for part in ("vector", "elementary", "rows"))
ELEMENTARY = "_kernels_elementary.pxi"
TWO_SUM, FLOAT_MODE = "_two_sum.h", "_float_mode.h"
TABLE = "_kernel_table.pxd"
CORE, INSPECT, WORKSPACE = "_core.pyx", "_core_inspect.pxi", "_core_workspace.pxi"
CALLS, QUICK, PLAN, RUN, THREADS = (f"_core_{part}.pxi" for part in ("calls", "quick", "plan", "run", "threads"))
TILES, ADDING = "_core_tiles.pxi", "_core_sums.pxi"
SWEEPS, ENSEMBLE = "_core_sweeps.pxi", "_core_ensemble.pxi"
MODES_OF_SUMS, MODES_OF_ROWS = "_core_modes_of_sums.pxi", "_core_modes_of_rows.pxi"
NORMS = "_core_norms.pxi"
NAMES = "_other_names.py"
LINEARIZATION, VALIDATE, LIKES = "_core_linearization.pxi", "_validate.py", "_array_likes.py"
FREE_LISTS, SIGNALS = "_core_free_lists.pxi", "_core_signals.pxi"
POOL, SAVING, OBJECTIVE, OWN = "_pool.c", "saving.py", "objective.py", "custom.py"
MEMBERS = "ensemble.py"
FIRST_TESTS = {  # of a file, before those above: they notice soonest, or nobody else does
    FLOAT_MODE: ["tests/schedule/test_float_mode.py"],
    POOL: ["tests/pool/test_pool.py", "tests/pool/test_faults.py", "tests/schedule/test_float_mode.py"],
    SAVING: ["tests/files/test_saving.py"],
    OBJECTIVE: ["tests/derivatives/test_hessp.py", "tests/api/test_network.py"],
    OWN: ["tests/api/test_custom_activation.py"],
    TILES: ["tests/calls/test_written_meanwhile.py"],
    LOSSES: ["tests/kernels/test_losses.py"],
    ACTIVATIONS: ["tests/kernels/test_activations.py"],
    SECOND: ["tests/kernels/test_second_derivatives.py"],
    CURVATURE: ["tests/kernels/test_second_derivatives.py", "tests/derivatives/test_second_sweep.py"],
    ROWS: ["tests/derivatives/test_second_sweep.py"],
    ROWS_H: ["tests/derivatives/test_second_sweep.py"],
    SWEEPS: ["tests/derivatives/test_second_sweep.py"],
    MODES_OF_SUMS: ["tests/derivatives/test_second_sweep.py"],
    MODES_OF_ROWS: ["tests/derivatives/test_second_sweep.py"],
    NORMS: ["tests/recursion/test_any_size.py", "tests/derivatives/test_second_sweep.py"],
    LINEARIZATION: ["tests/derivatives/test_hessp.py"],
    ENSEMBLE: ["tests/api/test_ensemble.py"],
    MEMBERS: ["tests/api/test_ensemble.py"],
    PLAN: ["tests/derivatives/test_empty_batches.py", "tests/api/test_ensemble.py"],
    QUICK: ["tests/calls/test_quick_calls.py"],
    INSPECT: ["tests/api/test_bad_input.py", "tests/calls/test_written_meanwhile.py"],
    VALIDATE: ["tests/api/test_bad_input.py", "tests/api/test_labels.py", "tests/derivatives/test_empty_batches.py"],
    NAMES: ["tests/api/test_other_names.py"],
    LIKES: ["tests/calls/test_array_likes.py", "tests/calls/test_frames.py", "tests/api/test_bad_input.py"],
}


class Mutation(NamedTuple):
    """`old` becomes `new` in a file of the package; `old` occurs exactly once."""

    name: str
    file: str
    old: str
    new: str
    simd: str = ""  # where the line is compiled for one instruction set alone


# fmt: off
MUTATIONS = [Mutation(*row) for row in [
    # (2) a = W h + b
    ("bias of a wide layer skipped", BLOCK,
     "                b[c] = load_first(bias + c * LANES, n_last)\n"
     "            else:\n"
     "                b[c] = load(bias + c * LANES)\n",
     "                b[c] = broadcast(0)\n            else:\n                b[c] = broadcast(0)\n"),
    ("bias of the last columns skipped", BLOCK,
     "b[c] = load_first(bias + c * LANES, n_last)", "b[c] = broadcast(0)"),
    ("half vector: bias skipped", BLOCK,
     "half_b = half_load(bias + n_vectors * LANES, n_last)", "half_b = half_broadcast(0)", "v4"),
    ("half vector: bias of the panel's start", BLOCK,
     "half_b = half_load(bias + n_vectors * LANES, n_last)", "half_b = half_load(bias, n_last)", "v4"),
    ("bias of a narrow layer skipped", PRODUCTS,
     "(a[r * ld_a + u] if add else 0 if b == NULL else b[u]) + tree_sum(chain[r][u])", "tree_sum(chain[r][u])"),
    ("packing: a remainder of columns from one column of W", PRODUCTS,
     "        for j in range(whole_columns, n_columns):\n"
     "            for k in range(k_start, k_end):\n"
     "                packed[k * width + j] = W[j * n_in + k]",
     "        for j in range(whole_columns, n_columns):\n"
     "            for k in range(k_start, k_end):\n"
     "                packed[k * width + j] = W[j * n_in]"),
    ("packed panels not advanced", PRODUCTS,
     "            packed += n_in * p.width\n", "            packed += 0\n"),
    ("panels to keep packed into one another", PRODUCTS, "if packing != PACK_ONCE:", "if packing == PACKED:"),
    ("packed once where more tiles follow", ADDING,
     "packing_of(work, tile.n_rows == request.n_kept)", "packing_of(work, True)"),
    ("packed once where more tiles of forward follow", ADDING,
     "packing_of(work, n_rows == request.n_samples)", "packing_of(work, True)"),
    ("packing on threads: panels not advanced", PRODUCTS, "        packed += n_in * width\n", "        packed += 0\n"),
    ("packing on threads: the first panel of a task lost", THREADS,
     "first + p.column, first + p.column + p.n)", "first + p.column + 1, first + p.column + p.n)"),
    ("tasks of a layer numbered from the next one on", THREADS,
     "if run.first_task[middle] <= index:", "if run.first_task[middle] < index:"),
    ("packing: the last inputs of a panel lost", PRODUCTS, "whole_in = n_in // 4 * 4\n", "whole_in = n_in\n"),
    ("weights never packed", ADDING,
     "tile.packing = packing_of(work, n_rows == request.n_samples)", "tile.packing = PACKED"),
    ("a block of three rows computes two", BLOCK,
     "elif n_rows == 3:\n        block(3,", "elif n_rows == 3:\n        block(2,"),
    ("a block of five rows computes four", BLOCK,
     "elif n_rows == 5 and BLOCK_ROWS >= 5:\n        block(5,",
     "elif n_rows == 5 and BLOCK_ROWS >= 5:\n        block(4,"),
    ("last lane of the last vector lost", BLOCK,
     "p.n_last = n_left - (p.n_vectors - 1) * LANES\n", "p.n_last = n_left - (p.n_vectors - 1) * LANES - 1\n"),
    ("panel of more vectors than a block has", BLOCK,
     "2 * BLOCK_VECTORS if HAS_HALF else BLOCK_VECTORS", "2 * BLOCK_VECTORS if HAS_HALF else BLOCK_VECTORS + 1"),
    ("panel of more vectors than a block has, with half ones", BLOCK,
     "2 * BLOCK_VECTORS if HAS_HALF else BLOCK_VECTORS",
     "2 * BLOCK_VECTORS + 2 if HAS_HALF else BLOCK_VECTORS", "v4"),
    ("panel wider than its vectors", BLOCK,
     "p.width = <int>(units * unit)\n", "p.width = <int>((units + 1) * unit)\n"),
    ("panel of two whole vectors computes one", BLOCK,
     "blocks_of_panel(t[0], 2, WHOLE,", "blocks_of_panel(t[0], 1, WHOLE,"),
    ("panel of two partial vectors computes one", BLOCK,
     "blocks_of_panel(t[0], 2, PARTIAL,", "blocks_of_panel(t[0], 1, PARTIAL,"),
    ("half vector: forgotten after two vectors", BLOCK,
     "blocks_of_panel(t[0], 2, HALF,", "blocks_of_panel(t[0], 2, WHOLE,", "v4"),
    ("half vector: alone, it is not computed", BLOCK,
     "blocks_of_panel(t[0], 0, HALF,", "blocks_of_panel(t[0], 0, WHOLE,", "v4"),
    ("half vector: never taken", BLOCK, "if HAS_HALF and units % 2:", "if HAS_HALF and units % 2 > 1:", "v4"),
    ("half vector: a lane too few", BLOCK,
     "p.n_last = min(n_left - p.n_vectors * LANES, unit)",
     "p.n_last = min(n_left - p.n_vectors * LANES, unit - 1)", "v4"),
    ("half vector: lanes counted from the panel's start", BLOCK,
     "p.n_last = min(n_left - p.n_vectors * LANES, unit)", "p.n_last = min(n_left, unit)", "v4"),
    ("half vector: columns of the panel's start", BLOCK,
     "cdef const real* B_half = B + n_vectors * LANES", "cdef const real* B_half = B", "v4"),
    ("half vector: stored at the panel's start", BLOCK,
     "cdef real* C_half = C + n_vectors * LANES", "cdef real* C_half = C", "v4"),
    ("half vector: all rows stored in the first one's place", BLOCK,
     "half_store(C_half + r * c_row, half_chain[r], n_last)", "half_store(C_half, half_chain[r], n_last)", "v4"),
    ("half vector: each chain of rows overwrites", BLOCK,
     "half_chain[r] = half_load(C_half + r * c_row, n_last) + half_chain[r]", "half_chain[r] = half_chain[r]", "v4"),
    ("half vector: g' product missing", BLOCK,
     "half_load(factor + r * c_row + n_vectors * LANES, n_last) * half_chain[r]", "half_chain[r]", "v4"),
    ("half vector: masked load takes a lane too few", VECTOR,
     "BP_CAT(_mm256_maskz_loadu_, BP_SUFFIX)((1u << n) - 1, p)",
     "BP_CAT(_mm256_maskz_loadu_, BP_SUFFIX)((1u << (n - 1)) - 1, p)", "v4"),
    ("half vector: masked store writes a lane too many", VECTOR,
     "BP_CAT(_mm256_mask_storeu_, BP_SUFFIX)(p, (1u << n) - 1, v)",
     "BP_CAT(_mm256_mask_storeu_, BP_SUFFIX)(p, (2u << n) - 1, v)", "v4"),
    ("masked load of v4 takes a lane too few", VECTOR,
     "uint32_t mask = n > 0 ? (1u << n) - 1 : 0;", "uint32_t mask = n > 0 ? (1u << (n - 1)) - 1 : 0;", "v4"),
    ("masked load of v3 takes a lane too many", VECTOR,
     "lanes + 8 - (n > 0 ? n : 0)", "lanes + 8 - (n > 0 ? n + 1 : 0)"),
    ("tree sum forgets a half", VECTOR, "sum = h[0] + h[1];", "sum = h[0];"),
    ("tree sum forgets a quarter", VECTOR,
     "memcpy(q, &sum, 32);\n    q[0] = q[0] + q[1];\n", "memcpy(q, &sum, 32);\n"),
    ("squares of rows: a half forgotten", ROWS_H, "        h[0] += h[1];\n", ""),
    ("squares of rows: a lane forgotten", ROWS_H, "sums[r] = q[0][0] + q[0][1];", "sums[r] = q[0][0];"),
    ("squares of rows: the last column forgotten", ROWS_H,
     "bp_first_of_eight(a + r * ld + j, n - j)", "bp_first_of_eight(a + r * ld + j, n - j - 1)"),
    ("tree sum of float64 forgets a lane", VECTOR, "return q[0][0] + q[0][1];", "return q[0][0];"),
    ("tree sum of float32 takes a lane twice", VECTOR,
     "(q[0][0] + q[0][2]) + (q[0][1] + q[0][3])", "(q[0][0] + q[0][2]) + (q[0][1] + q[0][1])"),
    ("tree sum of float32 in another order", VECTOR,
     "(q[0][0] + q[0][2]) + (q[0][1] + q[0][3])", "(q[0][0] + q[0][1]) + (q[0][2] + q[0][3])"),
    ("narrow layer: last outputs in pairs of one", PRODUCTS, "            j += 2\n", "            j += 3\n"),
    ("narrow layer: inputs after the last whole vectors lost", PRODUCTS,
     "        left = n_in - k - p * LANES\n", "        left = 0\n"),
    # (3) g and g'
    ("g in the place of g'", ACTIVATIONS,
     "store_first(a + j, g_prime, n - j)", "store_first(a + j, load_first(h + j, n - j), n - j)"),
    ("relu' at 0 is 1", ACTIVATIONS,
     "g_prime[0] = where_less(zero, a, broadcast(1), where_equal(a, a, zero, a))",
     "g_prime[0] = where_less(a, zero, zero, where_equal(a, a, broadcast(1), a))"),
    ("relu' hides NaN", ACTIVATIONS,
     "g_prime[0] = where_less(zero, a, broadcast(1), where_equal(a, a, zero, a))",
     "g_prime[0] = where_less(zero, a, broadcast(1), zero)"),
    ("relu hides NaN", ACTIVATIONS, "return where_less(a, zero, zero, a)", "return where_less(zero, a, a, zero)"),
    ("tanh' as 1 - h^2", ACTIVATIONS,
     "g_prime[0] = vfma(-c, c * broadcast(UNSHIFT), c) * broadcast(4 * UNSHIFT)",
     "g_prime[0] = vfma(-q, q, broadcast(1))"),
    ("tanh' without its factor 4", ACTIVATIONS,
     "c * broadcast(UNSHIFT), c) * broadcast(4 * UNSHIFT)", "c * broadcast(UNSHIFT), c) * broadcast(UNSHIFT)"),
    ("sigma' as sigma (1 - sigma)", ACTIVATIONS,
     "g_prime[0] = vfma(-shifted, c, shifted) * broadcast(UNSHIFT)",
     "c = where_less(a, broadcast(0), c, broadcast(1) - c)\n    g_prime[0] = c * (broadcast(1) - c)"),
    ("hard functions: g' at the lower corner", ACTIVATIONS,
     "inside = where_less(broadcast(low), a, inside, where_equal(a, a, below, a))",
     "inside = where_less(a, broadcast(low), below, inside)"),
    ("selu' at 0 is the right piece", ACTIVATIONS,
     "g_prime[0] = where_less(zero, a, p.scale.hi, scale(slope.hi + slope.lo, n))",
     "g_prime[0] = where_less(a, zero, scale(slope.hi + slope.lo, n), p.scale.hi)"),
    ("leaky_relu ignores its slope", ACTIVATIONS,
     "where_less(zero, a, a, vfma(p.alpha.hi, a,", "where_less(zero, a, a, vfma(broadcast(<real>0.01), a,"),
    ("elu' without alpha", ACTIVATIONS,
     "cdef pair slope = pair_product(pair_plus(broadcast(1), m), p.alpha)",
     "cdef pair slope = pair_plus(broadcast(1), m)"),
    ("tanh: what r lost to its rounding", ACTIVATIONS, "d.lo = vfma(e.power, e.low, d.lo)", "d.lo = d.lo"),
    ("gelu: what a coefficient lost to its rounding", ELEMENTARY,
     "step.lo = (step.lo + broadcast(MILLS_LOW[0])) + value.lo", "step.lo = step.lo + value.lo"),
    ("gelu' without a phi(a)", ACTIVATIONS,
     "slope = pair_product(phi, pair_sum(ratio, make_pair(-x, zero)))", "slope = pair_product(phi, ratio)"),
    ("link not applied by forward", ADDING,
     "activation(plan, work, &tile, L, plan.link, False, clock)", "activation(plan, work, &tile, L, 0, False, clock)"),
    # (4) the losses
    ("sign of the squared error's slope", LOSSES, "slope[0] = 2 * d\n", "slope[0] = -2 * d\n"),
    ("factor 2 of the squared error's slope", LOSSES, "slope[0] = 2 * d\n", "slope[0] = d\n"),
    ("huber: constant of the outer piece", LOSSES,
     "return parameter * (fabs(d) - 0.5 * parameter)", "return parameter * fabs(d)"),
    ("quantile: tau and 1 - tau swapped", LOSSES,
     "slope[0] = 1 - parameter if d > 0 else -parameter if d < 0 else d",
     "slope[0] = parameter if d > 0 else parameter - 1 if d < 0 else d"),
    ("hinge: slope at the margin", LOSSES,
     "slope[0] = -y if d > 0 else 0 if d <= 0 else d", "slope[0] = -y if d >= 0 else 0 if d < 0 else d"),
    ("binary cross-entropy: sigma(a) - y, which cancels", LOSSES,
     "slope[0] = (1 - y) * sigmoid_from_t(z, t) - y * sigmoid_from_t(-z, t)", "slope[0] = sigmoid_from_t(z, t) - y"),
    ("binary cross-entropy: 0 times inf", LOSSES, "(0 if y == 1 else (1 - y) * z)", "((1 - y) * z)"),
    ("poisson: 0 times -inf", LOSSES, "(y * z if y != 0 else 0)", "(y * z)"),
    ("cross-entropy: label off by one in the loss", LOSSES, "1 if k == label else 0)", "1 if k == label + 1 else 0)"),
    ("cross-entropy: label off by one in the gradient", LOSSES, "a[label] = <real>(weight", "a[0] = <real>(weight"),
    ("cross-entropy: the top counted twice", LOSSES,
     "            if start + k != top:\n", "            if start + k >= 0:\n"),
    ("cross-entropy: place of the top within its block", LOSSES,
     "            if start + k != top:\n", "            if k != top:\n"),
    ("cross-entropy: place of the label within its block", LOSSES,
     "elif start + k != label:", "elif k != label:"),
    ("cross-entropy: a class lost between two blocks", LOSSES,
     "                others = others + e[k]\n        start += size\n",
     "                others = others + e[k]\n        start += size + 1\n"),
    ("cross-entropy: the first block's logits for all in the loss", LOSSES,
     "exp_differences(size, a + start, a_top, e)\n        for k in range(size):\n            if start",
     "exp_differences(size, a, a_top, e)\n        for k in range(size):\n            if start"),
    ("cross-entropy: the first block's logits for all in the gradient", LOSSES,
     "exp_differences(size, a + start, a_top, e)\n        for k in range(size):\n            p =",
     "exp_differences(size, a, a_top, e)\n        for k in range(size):\n            p ="),
    ("cross-entropy: two blocks not computed again", LOSSES,
     "        if n > ROW_BLOCK:\n            exp_differences(size, a + start, a_top, e)",
     "        if n > 2 * ROW_BLOCK:\n            exp_differences(size, a + start, a_top, e)"),
    ("cross-entropy: a row of one class too many kept", LOSSES,
     "        if n > ROW_BLOCK:\n            exp_differences(size, a + start, a_top, e)",
     "        if n > ROW_BLOCK + 1:\n            exp_differences(size, a + start, a_top, e)"),
    ("cross-entropy: gradients of labels in the first block's place", LOSSES,
     "a[start + k] = <real>(weight * (p - eps / n))", "a[k] = <real>(weight * (p - eps / n))"),
    ("cross-entropy: targets of the first block for all", LOSSES,
     "(eps / n + (1 - eps) * y[start + k])", "(eps / n + (1 - eps) * y[k])"),
    ("exponentials of a row without its top", ELEMENTARY_H,
     "bp_exp((double)a[k] - top)", "bp_exp((double)a[k] - 0 * top)"),
    ("exp of a loss: odd powers of two lose a factor", ELEMENTARY_H,
     "* bp_double_power_of_two(half) * bp_double_power_of_two(n - half)",
     "* bp_double_power_of_two(half) * bp_double_power_of_two(half)"),
    ("exp of a loss: the low part of ln 2 dropped", ELEMENTARY_H, "low = -n * BP_DOUBLE_LN2[1];", "low = 0;"),
    ("log1p of a loss: a power of two lost", ELEMENTARY_H, "        power = k;\n", "        power = k - 1;\n"),
    ("softmax: the smallest logit as the top", LOSSES,
     "if not a[k] <= a[top] and a[top] == a[top]:", "if not a[k] >= a[top] and a[top] == a[top]:"),
    ("softmax: all of its sum in the numerator", LOSSES,
     "p[start + k] = <real>(e[k] / total)", "p[start + k] = <real>e[k]"),
    ("softmax: the second block in the first one's place", LOSSES,
     "p[start + k] = <real>(e[k] / total)", "p[k] = <real>(e[k] / total)"),
    ("softmax: two blocks not computed again", LOSSES,
     "        if n > ROW_BLOCK:\n            exp_differences(size, a + start, a[top], e)",
     "        if n > 2 * ROW_BLOCK:\n            exp_differences(size, a + start, a[top], e)"),
    ("softmax: a class lost between two blocks", LOSSES,
     "            total = total + e[k]\n        start += size\n",
     "            total = total + e[k]\n        start += size + 1\n"),
    ("label smoothing over n - 1", LOSSES, "target = eps / n + (1 - eps)", "target = eps / (n - 1) + (1 - eps)"),
    ("smoothing lost at the other labels", LOSSES,
     "a[start + k] = <real>(weight * (p - eps / n))", "a[start + k] = <real>(weight * p)"),
    ("sample weights ignored", LOSSES,
     "if weight_kind == WEIGHT_PER_SAMPLE:\n            w = weight[s] * weight_scale",
     "if weight_kind == WEIGHT_PER_SAMPLE:\n            w = weight_scale"),
    ("weights by entry: the first of the row for all", LOSSES, "w = weight[s * n_out + j]", "w = weight[s * n_out]"),
    ("weights in the loss, not in its slope", LOSSES,
     "                slope = w * slope\n", "                slope = slope\n"),
    ("g' of the output layer missing", LOSSES, "slope = w * slope * z[s * ld + j]", "slope = w * slope"),
    ("an entry of weight 0 keeps what was there", LOSSES,
     "                slope = 0\n", "                slope = z[s * ld + j]\n"),
    ("a target of weight 0 is looked at", LOSSES, "            if w == 0:\n", "            if w < 0:\n"),
    ("dL/dh of the output layer from no ones", CORE,
     "fill_with_ones(p.n, grad_h", "fill_with_ones(0, grad_h"),
    # g'', and the curvature of the losses
    ("g'' of elu at 0 is the left piece", SECOND,
     "where_less(a, zero, scale(curve.hi + curve.lo, n), where_equal(a, a, zero, a))",
     "where_less(zero, a, zero, scale(curve.hi + curve.lo, n))"),
    ("g'' of elu without alpha", SECOND,
     "pair_product(exp_reduced(exactly(where_less(zero, a, zero, a)), &n), p.alpha)",
     "exp_reduced(exactly(where_less(zero, a, zero, a)), &n)"),
    ("g'' of a linear piece hides NaN", SECOND,
     "return where_equal(a, a, broadcast(0), a)\n", "return broadcast(0)\n"),
    ("g'' of gelu: 1 - a^2", SECOND, "pair_sum(exactly(broadcast(2)), minus(square))",
     "pair_sum(exactly(broadcast(1)), minus(square))"),
    ("g'' of gelu: the low part of a^2 dropped", SECOND, "cdef pair square = two_product(x, x)\n",
     "cdef pair square = exactly(x * x)\n"),
    ("g'' of gelu_tanh without w''", SECOND, "times_power(triple, 4)", "times_power(triple, 2)"),
    ("g'' of gelu_tanh: w' not squared", SECOND,
     "pair_product(cx, pair_product(slope, slope))", "pair_product(cx, slope)"),
    ("g'' of silu as 2 sigma' alone", SECOND,
     "pair_sum(times_power(e.d, 2), pair_product(exactly(-x), one_minus_t))", "times_power(e.d, 2)"),
    ("g'' of mish: a coefficient of the right piece", SECOND,
     "where_less(a, zero, broadcast(-3), broadcast(2)),", "where_less(a, zero, broadcast(-3), broadcast(3)),"),
    ("g'' of mish: t instead of t^2 right of 0", SECOND,
     "where_less(a, zero, e.n, e.n + e.n))", "where_less(a, zero, e.n, e.n))"),
    ("g'' of mish: 2^2n below the range of a power", SECOND,
     "clamp(a, EXP_LOWEST, <real>-0.5 * EXP_LOWEST)", "clamp(a, EXP_LOWEST, -EXP_LOWEST)"),
    ("g'' of softsign at 0 is -2", SECOND,
     "where_equal(a, zero, zero, with_sign(vabs(cube.hi + cube.lo), -a))",
     "with_sign(vabs(cube.hi + cube.lo), -a)"),
    ("g'' of softsign over the square", SECOND,
     "pair_product(r, pair_product(r, times_power(r, 2)))", "pair_product(r, times_power(r, 2))"),
    ("g'' of sigmoid: 1 - t cancels", SECOND,
     "pair_product(pair_plus(broadcast(factor), times_power(m, factor)), t_minus_1)",
     "pair_product(pair_plus(broadcast(factor), times_power(m, factor)), exactly(d.hi - broadcast(2)))"),
    ("g'' of tanh without its sign", SECOND,
     "return with_sign(bend_of_sigmoid(broadcast(-2) * vabs(a), 8), -a)",
     "return bend_of_sigmoid(broadcast(-2) * vabs(a), 8)"),
    ("g'' of hardswish at its corners", SECOND, "between(a, -3, 3, broadcast(1)",
     "between(a, <real>-3.001, <real>3.001, broadcast(1)"),
    ("cubes without the remainder", SECOND,
     "return quotient(numerator, pair_product(d, pair_product(d, d)), r * r * r)", "return numerator.hi * r * r * r"),
    ("huber: curvature at the kink", CURVATURE, "fabs(d) < parameter", "fabs(d) <= parameter"),
    ("curvature of the squared error: 1", CURVATURE, "        return 2\n", "        return 1\n"),
    ("curvature hides a NaN target", CURVATURE, "    if d != d:\n        return d\n", ""),
    ("curvature of binary cross-entropy: t/(1 + t)", CURVATURE, "t / ((1 + t) * (1 + t))", "t / (1 + t)"),
    ("curvature: weights by sample ignored", CURVATURE,
     "            w = weight[s] * weight_scale\n        for j", "            w = weight_scale\n        for j"),
    ("curvature: weights by entry, the first of the row for all", CURVATURE,
     "w = weight[s * n_out + j]", "w = weight[s * n_out]"),
    ("curvature: an entry of weight 0 is looked at", CURVATURE, "            if w == 0:\n", "            if w < 0:\n"),
    ("curvature: a row of weight 0 is looked at", CURVATURE,
     "        if w == 0:\n            for k", "        if w < 0:\n            for k"),
    ("curvature of cross-entropy: t not shifted", CURVATURE,
     "a_top = a[top], t_top = t[top], others", "a_top = a[top], t_top = 0, others"),
    ("curvature of cross-entropy: the first block's logits for all", CURVATURE,
     "exp_differences(size, a + start, a_top, e)\n        for k in range(size):\n            if start",
     "exp_differences(size, a, a_top, e)\n        for k in range(size):\n            if start"),
    ("curvature of cross-entropy: two blocks not computed again", CURVATURE,
     "        if n > ROW_BLOCK:\n", "        if n > 2 * ROW_BLOCK:\n"),
    ("curvature of cross-entropy: infinite logits hidden", CURVATURE,
     "        total = a_top - a_top\n", "        total = total\n"),
    ("curvature of cross-entropy: probabilities' sum taken as 0", CURVATURE,
     "target_sum = target_sum + (parameter", "target_sum = 0 * (parameter"),
    ("softmax product: t not shifted", CURVATURE, "        t_top = t[top]\n", "        t_top = 0\n"),
    ("softmax product: without the mean", CURVATURE,
     "<real>(<double>p[k] * ((t[k] - t_top) - mean))", "<real>(<double>p[k] * (t[k] - t_top))"),
    ("multiply_add without its sum", SECOND,
     "load_first(s + start, rest) * load_first(x + start, rest)", "broadcast(0)"),
    ("multiply_add: each row from the first one's place", SECOND,
     "start = row * ld + j", "start = j"),
    # (5), (6)
    ("hidden sum: W by its other stride", PRODUCTS,
     "        t.b_k = ld_W\n", "        t.b_k = n_next\n"),
    ("hidden sum: one unit of the next layer lost", PRODUCTS,
     "product(n_rows, n_next, n_next, grad_a_next", "product(n_rows, n_next - 1, n_next, grad_a_next"),
    ("hidden sum: partial panels taken as whole", PRODUCTS,
     "        p = next_panel(n - j)\n", "        p = next_panel(n - j)\n        p.tail = WHOLE\n"),
    ("g' product missing", CORE,
     "tile, i + 1), grad_a, grad_a, TIMES,", "tile, i + 1), grad_a, grad_a, OVERWRITE,"),
    ("g' product missing beside g'", SWEEPS,
     "work.a[i], work.grad_a[i], TIMES, clock)", "work.a[i], work.grad_a[i], OVERWRITE, clock)"),
    ("g' product with the wrong panel of g'", PRODUCTS, "t.factor = g_prime + j", "t.factor = g_prime"),
    ("g' product with the first rows of g'", BLOCK, "t.factor + (C - t.C)", "t.factor"),
    ("curve of tanh forgotten in the sweep", SWEEPS,
     "        if with_curve and curve_of_h(plan, work, tile, i, clock):\n            return 1\n", ""),
    ("g' product as a sum", BLOCK,
     "chain[r][c] = load(factor + r * c_row + c * LANES) * chain[r][c]",
     "chain[r][c] = load(C + r * c_row + c * LANES) + chain[r][c]"),
    ("g' product of its own adds", PRODUCTS,
     "g_prime[s * ld + j] = g_prime[s * ld + j] * grad_h", "g_prime[s * ld + j] = g_prime[s * ld + j] + grad_h"),
    ("hidden_gradient keeps the last term alone", CORE,
     "grad_h[s, j] += grad_a_next[s, m] * W_next[m, j]", "grad_h[s, j] = grad_a_next[s, m] * W_next[m, j]"),
    ("preactivation_gradient adds", CORE, "g_prime[s, j] *= grad_h[s, j]", "g_prime[s, j] += grad_h[s, j]"),
    # (7), (8)
    ("weight gradient: partial panels taken as whole", PRODUCTS,
     "        p = next_panel(n_in - j)\n", "        p = next_panel(n_in - j)\n        p.tail = WHOLE\n"),
    ("sums over rows: each chain overwrites", BLOCK, "NULL, C, t.c_row, ADD)", "NULL, C, t.c_row, OVERWRITE)"),
    ("sums over rows: each tile overwrites", PRODUCTS,
     "t.epilogue = ADD if add else OVERWRITE", "t.epilogue = OVERWRITE"),
    ("sums over rows: later chains from the first one's gradients", BLOCK, "K, A + k * a_k, t.a_row", "K, A, t.a_row"),
    ("sums over rows: later chains from the first one's inputs", BLOCK,
     "a_k, t.B + k * t.b_k, t.b_k", "a_k, t.B, t.b_k"),
    ("a sum not divided", BLOCK, "if t.divisor != 0 and t.divisor != 1:", "if t.divisor < 0:"),
    ("the last columns of a sum not divided", BLOCK,
     "load_first(C + r * c_row + j, n - j), divisor, reciprocal)", "load_first(C + r * c_row + j, n - j), 1, 1)"),
    ("half vector: not divided", BLOCK, "(1 if tail != HALF else 0)) * LANES + n_last", "1) * LANES + n_last", "v4"),
    ("every divisor a power of two", VECTOR, "return !(bits << 12) && x >= 1", "return x >= 1"),
    ("division of float32 in v3: the low half for both", VECTOR,
     "_mm256_extractf128_ps(sum, 1)", "_mm256_extractf128_ps(sum, 0)"),
    ("division of float32 in v4: the low half for both", VECTOR,
     "_mm512_extractf32x8_ps(sum, 1)", "_mm512_extractf32x8_ps(sum, 0)", "v4"),
    ("division of float64 without its correction", VECTOR, "bp_where_equal(e, e, bp_fma(e, r, q), q)", "q"),
    ("division of an infinite float64 sum: NaN", VECTOR,
     "bp_where_equal(e, e, bp_fma(e, r, q), q)", "bp_fma(e, r, q)"),
    ("division of an infinite sum by scalars: NaN", VECTOR,
     "(e == e ? q + e * reciprocal : q)", "(q + e * reciprocal)"),
    ("weight gradient: chain of 64 rows cut to 63", PRODUCTS,
     "product(n_out, n_rows, CHAIN_ROWS, grad_a", "product(n_out, n_rows, CHAIN_ROWS - 1, grad_a"),
    ("few inputs: each chain overwrites", PRODUCTS, "if add or s > 0:", "if add:"),
    ("few inputs: each tile overwrites", PRODUCTS, "if add or s > 0:", "if s > 0:"),
    ("few inputs: sums by the wrong stride", PRODUCTS,
     "total = sums[j * p.width + v]", "total = sums[v * n_in + j]"),
    ("few inputs: later chains added to the first panel's sums", PRODUCTS,
     "total = grad_W[(u + v) * ld_W + j] + total", "total = grad_W[v * ld_W + j] + total"),
    ("few inputs: the second panel in the first one's place", PRODUCTS,
     "grad_W[(u + v) * ld_W + j] = total", "grad_W[v * ld_W + j] = total"),
    ("few inputs: each chain divided", PRODUCTS, "if divisor != 0 and s + chain == n_rows:", "if divisor != 0:"),
    ("few inputs: not divided", PRODUCTS, "total = divide_scalar(total, divisor, 1 / divisor)", "total = total"),
    ("few inputs: the last unit of a panel lost", PRODUCTS,
     "for v in range(min(n_out - u, <Py_ssize_t>p.width)):\n                for j",
     "for v in range(min(n_out - u, <Py_ssize_t>p.width) - 1):\n                for j"),
    ("few inputs: h of the first chain for all", PRODUCTS,
     "product(n_in, chain, chain, h + s * ld_h,", "product(n_in, chain, chain, h,"),
    ("bias gradient: each tile overwrites", PRODUCTS,
     "sum_over_rows(n_rows, 1, &one, 0, add, divisor)", "sum_over_rows(n_rows, 1, &one, 0, False, divisor)"),
    ("bias gradient: not divided", PRODUCTS,
     "sum_over_rows(n_rows, 1, &one, 0, add, divisor)", "sum_over_rows(n_rows, 1, &one, 0, add, 0)"),
    ("far rows: a whole block of gradients copied from its row's start", PRODUCTS,
     "copy_block(copied + u * n_rows + s * m, grad_a + s * ld_a + u)",
     "copy_block(copied + u * n_rows + s * m, grad_a + s * ld_a)"),
    ("far rows: copied gradients in the wrong order", PRODUCTS,
     "copied[u * n_rows + s * m + j] = grad_a[s * ld_a + u + j]",
     "copied[u * n_rows + s * m + j] = grad_a[s * ld_a + u]"),
    ("far rows: the panel copied from its start", PRODUCTS,
     "copy_panel(n_next, p.width, n - j, t.B, ld_W, scratch)",
     "copy_panel(n_next, p.width, n - j, W_next, ld_W, scratch)"),
    ("far rows: the panel of h copied from its start", PRODUCTS,
     "copy_panel(n_rows, p.width, n_in - j, t.B, ld_h, copied_h)",
     "copy_panel(n_rows, p.width, n_in - j, h, ld_h, copied_h)"),
    ("bias gradient not computed", CORE,
     "            if bias_gradient(plan, tile, i, grad_a, 0, plan.sizes[i], grad, add, divisor, clock):\n"
     "                return 1\n", ""),
    ("h of the wrong layer in the weight gradient", CORE,
     "weight_gradient(plan, tile, i, grad_a, input_of(plan, work, tile, i), 0,",
     "weight_gradient(plan, tile, i, grad_a, output_of(plan, work, tile, i), 0,"),
    # Sums over samples, and threads
    ("tiles of a chunk overwrite one another", ADDING,
     "if is_open else done > 0\n", "if is_open else False\n"),
    ("each tile of a chunk divided", ADDING,
     "end = divisor if done + tile.n_rows == n_rows else 0\n", "end = divisor\n"),
    ("each of many chunks divided", ADDING,
     "request.divisor if totals.wide == NULL else 0, &loss", "request.divisor, &loss"),
    ("loss of a chunk's last tile alone", ADDING,
     "            loss[0] += work.row_loss[s]\n",
     "            loss[0] = work.row_loss[s] + (loss[0] if s > 0 else 0)\n"),
    ("chunks overwrite one another", ADDING, "totals, k, done == 0, clock)", "totals, k, True, clock)"),
    ("the first chunk adds to what was there", ADDING, "totals, k, done == 0, clock)", "totals, k, False, clock)"),
    ("cut products: panels of W^T of the first part", CORE,
     "packed + before * layer.n_in, packs", "packed, packs"),
    ("cut products: panels of later rows packed into the place of one", CORE,
     "packs = PACK_AND_KEEP if p.row == 0 else PACKED", "packs = packing"),
    ("cut products: biases of the first part", CORE, "NULL if b == NULL else b + before", "b"),
    ("cut products: columns of W of the first part", CORE,
     "params + next_layer.W + p.column * plan.itemsize", "params + next_layer.W"),
    ("cut products: a stump at the end", SIGNALS,
     "if piece.n >= piece.columns + piece.column_step:", "if piece.n > piece.columns:"),
    ("cut rows: gradients by sample without the biases of the last columns", MODES_OF_ROWS,
     "    if p.is_cut:", "    if False:"),
    ("cut rows: losses of the first rows", CORE,
     "if p.n_rows < tile.n_rows:\n            part", "if False:\n            part"),
    ("chains of 1024 rows, in one register", TABLE, "CHAIN_ROWS = 64 ", "CHAIN_ROWS = 1024 "),
    ("chains of 128 rows", TABLE, "CHAIN_ROWS = 64 ", "CHAIN_ROWS = 128 "),
    ("chunks of 512 rows", TABLE, "CHUNK_ROWS = 1024 ", "CHUNK_ROWS = 512 "),
    ("error of the two-term sums dropped", SUMS,
     "wide_error[p] = wide_error[p] + error", "wide_error[p] = wide_error[p]"),
    ("two_sum finds no error", TWO_SUM, "*error = (a - (s - b_part)) + (b - b_part);", "*error = 0;"),
    ("float32 sums of chunks in float32", SUMS,
     "wide[p] = wide[p] + <double>partial[p]", "wide[p] = <real>(wide[p] + <double>partial[p])"),
    ("gradient NaN after an overflow", SUMS,
     "total = total if total == total else wide[p]", "total = total"),
    ("loss NaN after an overflow", ADDING, "if totals.loss_error == totals.loss_error:", "if True:"),
    ("gradient of one chunk not divided", ADDING,
     "request.divisor if totals.wide == NULL else 0, &loss", "0, &loss"),
    ("what is kept by layers not divided", SUMS,
     "out[p] = divide_scalar(partial[p], divisor, reciprocal)", "out[p] = partial[p]"),
    ("float32 gradient of many chunks divided by n - 1", SUMS,
     "out[p] = <real>(wide[p] * reciprocal)", "out[p] = <real>(wide[p] / (divisor - 1))"),
    ("float64 gradient of many chunks divided by n - 1", SUMS,
     "out[p] = divide_scalar(<real>total, divisor, reciprocal)", "out[p] = <real>(total / (divisor - 1))"),
    ("quick calls: out may overlap x", QUICK,
     "or overlap(<cnp.ndarray>out, x) or", "or"),
    ("quick calls: out may overlap v", QUICK, " or overlap(<cnp.ndarray>out, operand)):", "):"),
    ("quick calls: out may overlap the weights", QUICK, "or overlap(<cnp.ndarray>out, weight) or", "or"),
    ("quick calls: out may overlap the network's own parameters", QUICK,
     "own.address, own.n_bytes)", "NULL, 0)"),
    ("quick calls: labels not looked at", QUICK,
     "return bad_label(<const Py_ssize_t*>data, cnp.PyArray_SIZE(<cnp.ndarray>y), n_out, request.weight,\n"
     "                         clock) < 0",
     "return True"),
    ("quick calls: number of threads not looked at", QUICK,
     "type(n_threads) is int and 1 <= n_threads <= MOST_THREADS", "type(n_threads) is int"),
    ("quick calls: a read-only out is written", QUICK,
     "            or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out)\n", ""),
    ("quick calls: rows of weight 0 in calls by sample", QUICK,
     " or (call.sums == NULL and call.rows != NULL and sums.n_kept < n_samples):", ":"),
    ("quick calls: shapes not looked at", QUICK,
     "            and has_shape(plan, <cnp.ndarray>array, letters, n_samples, n_networks))", "            and True)"),
    ("chunks on threads overwrite one another", THREADS,
     "totals, k, c == 0, clock)", "totals, k, True, clock)"),
    ("chunks on threads start at the wrong row", THREADS,
     "    if run.starts != NULL:\n        row = run.starts[c]\n", ""),
    ("strips: rows of the wrong place", TILES,
     "part.x = tile.x + first * plan.sizes[0] * plan.itemsize", "part.x = tile.x"),
    ("strips: labels of the wrong place", TILES, "part.labels = tile.labels + first", "part.labels = tile.labels"),
    ("strips: each group overwrites", THREADS, "else in_chunk > 0\n", "else False\n"),
    ("strips: loss of the last group alone", THREADS,
     "chunk_loss += run.work.row_loss[s]", "chunk_loss = run.work.row_loss[s]"),
    ("strips: bias gradient not computed", THREADS,
     "    bias_gradient(run.plan, &group, i, grad_a, first, units, run.sums, run.add, divisor, clock)\n",
     "    pass\n"),
    ("strips: a single chunk not divided", THREADS, "run.divisor = request.divisor", "run.divisor = 0"),
    ("strips: each group of a single chunk divided", THREADS,
     "if run.totals.wide == NULL and in_chunk + run.group.n_rows == n_rows:", "if run.totals.wide == NULL:"),
    ("errors of sums added at the wrong place", ADDING,
     "wide_error = totals.wide_error + start\n    plan.kernels.accumulate",
     "wide_error = totals.wide_error\n    plan.kernels.accumulate"),
    ("threads: tiles of forward from the first row", THREADS,
     "    cdef Py_ssize_t row = index * run.tile_rows\n", "    cdef Py_ssize_t row = 0\n"),
    ("not divided by the number of outputs", CALLS,
     "request.divisor *= plan.sizes[plan.n_layers]", "request.divisor *= 1"),
    ("weights by entry divided by the number of outputs", CALLS,
     "if plan.loss != CROSS_ENTROPY and request.weight_kind != WEIGHT_PER_ENTRY:",
     "if plan.loss != CROSS_ENTROPY:"),
    # Layers, tiles and rows
    ("biases read from the weights", WORKSPACE, "layer.b = offset * plan.itemsize", "layer.b = layer.W"),
    ("offsets in float32's bytes", WORKSPACE, "layer.W = offset * plan.itemsize", "layer.W = offset * 4"),
    ("rows of weight 0 computed", CALLS,
     "weight, request.weight_scale, request.divisor, request.n_kept = weights",
     "weight, request.weight_scale, request.divisor, _ = weights"),
    ("a row is skipped for its first entry's weight", TILES,
     "if request.weight[row * n_out + j] != 0:", "if request.weight[row * n_out] != 0:"),
    ("weights of skipped rows not closed up", TILES,
     "memcpy(work.weight + s * weight_width, request.weight + row * weight_width,",
     "memcpy(work.weight + s * weight_width, request.weight + s * weight_width,"),
    ("labels of skipped rows not closed up", TILES,
     "sizeof(Py_ssize_t)), 1, work.labels + s)", "sizeof(Py_ssize_t)), 1, work.labels)"),
    ("the second tile reads the first one's x", TILES,
     "tile.x = rows_of_source(request.x, &request.x_source, row, n_in * plan.itemsize)", "tile.x = request.x"),
    ("kept rows at their place in the tile", CORE, "arrays[i] + tile.rows[s] * n", "arrays[i] + s * n"),
    ("kept grad_a not divided", CORE,
     "keep(plan, tile, request.keep_grad_a, i, grad_a, plan.layers[i].ld, request.divisor, clock)",
     "keep(plan, tile, request.keep_grad_a, i, grad_a, plan.layers[i].ld, 1, clock)"),
    ("kept dL/dx not divided", CORE,
     "keep(plan, tile, request.keep_grad_h, 0, work.grad_h, plan.sizes[0], request.divisor, clock)",
     "keep(plan, tile, request.keep_grad_h, 0, work.grad_h, plan.sizes[0], 1, clock)"),
    ("a small workspace for a large batch", FREE_LISTS,
     "if link[0].capacity >= rows and link[0].n_scratch >= n_scratch", "if link[0].n_scratch >= n_scratch"),
    ("a workspace that was used counts as packed", FREE_LISTS, "    work.is_packed = False\n", ""),
    ("sums over chunks not set to zero", RUN, "    totals.loss = 0\n", ""),
    ("Ctrl-C unheard", SIGNALS, "raised = check_signals()", "raised = 0"),
    ("beyond the samples where weights become 0 meanwhile", TILES,
     "while s < n_rows and row < request.n_samples:", "while s < n_rows:"),
    # The floating-point unit's mode, and the pool
    ("calls compute in the caller's mode", FLOAT_MODE, "        bp_change_float_mode(BP_DEFAULT_MODE);", "        ;"),
    ("a fork's child keeps its parent's threads", POOL, "if (on_fork(after_fork_in_child))", "if (0)"),
    ("workers have any x87 mode", POOL, "            bp_set_x87(x87);", "            ;"),
    ("a thread that was not made counts", POOL,
     "        pool.skip_creation = SKIP_CREATION;\n        return;\n", ""),
    # The other derivatives
    ("an ensemble's tiles are those of the largest member", ENSEMBLE,
     "    run.work[worker].tile_rows = rows_of_tile(run.plan, run.requests[m].n_kept, OF_GRADIENT)\n", ""),
    ("an infinite output of weight 0 in second derivatives", SWEEPS,
     "            if tile.weight[s * n_out + k] == 0:\n", "            if False:\n"),
    ("norms: squares that overflow", NORMS,
     "if plan.itemsize == 8 and not 1e-280 <= work.row_norm[s] <= 1e300:",
     "if plan.itemsize == 8 and not 1e-280 <= work.row_norm[s]:"),
    ("norms: squares that underflow", NORMS,
     "if plan.itemsize == 8 and not 1e-280 <= work.row_norm[s] <= 1e300:",
     "if plan.itemsize == 8 and not work.row_norm[s] <= 1e300:"),
    ("Jacobians: g' of another output", SWEEPS,
     "(<double*>work.grad_a[L])[place] *= (<double*>work.a[L])[place]",
     "(<double*>work.grad_a[L])[place] *= (<double*>work.a[L])[place - k]"),
    # In Python: objectives, files, activations of one's own
    ("l2 of the biases, not of the weights", OBJECTIVE,
     "for W, _ in _params.unflatten(self._is_weight", "for _, W in _params.unflatten(self._is_weight"),
    ("l2 missing in hessp", OBJECTIVE, "product += self._l2 * self", "product += 0 * self"),
    ("one gradient for all who ask", OBJECTIVE, "        return loss, grad.copy()\n", "        return loss, grad\n"),
    ("fixed parameters move", OBJECTIVE, "            whole = np.zeros(net.n_params, net.dtype)\n",
     "            whole = np.ones(net.n_params, net.dtype)\n"),
    ("a file is not flushed before it has its name", SAVING, "    os.fsync(file)\n", ""),
    ("the folder is not flushed", SAVING, "                _flush_directory(directory)\n", "                pass\n"),
    ("what was written stays when a save fails", SAVING,
     "                os.unlink(temporary, dir_fd=directory)\n", "                pass\n"),
    ("a newer format is read", SAVING, "    if version > FORMAT:\n", "    if False:\n"),
    ("addresses are pickled", OWN, "isinstance(f, bare) or type(f)", "isinstance(f, bare) and type(f)"),
    ("a wrong derivative accepted", OWN, "    if wrong.any():\n", "    if False:\n"),
    ("norms: the biases forgotten", NORMS, "of_grad_a[s] * (1 + of_h[s])", "of_grad_a[s] * of_h[s]"),
    ("clipping: by the square of the norm", NORMS,
     "else request.max_norm / norm", "else request.max_norm / norm / norm"),
    ("samples' own losses divided by n_samples", CALLS,
     "request.weight_scale = 1 if plan.loss == CROSS_ENTROPY",
     "request.weight_scale = 1.0 / request.n_samples if plan.loss == CROSS_ENTROPY"),
    ("samples' own losses as sums over outputs", CALLS, "else 1.0 / plan.sizes[plan.n_layers]", "else 1.0"),
    ("an ensemble packs the first network's weights for all", ENSEMBLE,
     "    run.work[worker].is_packed = False\n", ""),
    ("an ensemble's gradients in the first one's place", PLAN,
     "cnp.PyArray_BYTES(out) + m * plan.n_params", "cnp.PyArray_BYTES(out) + 0 * plan.n_params"),
    ("an ensemble reads one-hot rows as labels", PLAN,
     "if own_y and plan.loss == CROSS_ENTROPY and n_networks == n_samples == plan.sizes[plan.n_layers]:", "if False:"),
    ("an ensemble takes one of two meanings", MEMBERS,
     "return n_samples > 1 and shape ==", "return False and shape =="),
    ("sums of no samples are what was there", PLAN,
     "memset(cnp.PyArray_DATA(out), 0, cnp.PyArray_NBYTES(out))", "pass"),
    ("norms: the rest of a row left out", ROWS_H,
     "    if (j < n)\n        for (int r = 0", "    if (0)\n        for (int r = 0"),
    ("norms: one row four times", ROWS,
     "square_sums_of_rows(4, n, a + s * ld, ld, sums + s)", "square_sums_of_rows(4, n, a + s * ld, 0, sums + s)"),
    ("outer products: a vector stored beyond the end", ROWS, "if whole + LANES <= n_left:", "if True:"),
    ("outer products: no grad_b behind them", ROWS,
     "store_first(gradient + j, load_first(grad_a + j, n_out - j), n_out - j)", "pass"),
    ("outer products: the second without its last vector", ROWS, "product = vfma(g_2, last_2, product)", "pass"),
    ("outer products: the second without its kept vectors", ROWS, "product = vfma(g_2, row_2[c], product)", "pass"),
    ("outer products: the second of a long row forgotten", ROWS, "product = vfma(g_2, load(h_2 + j), product)", "pass"),
    ("gradients of more rows than the tile has", MODES_OF_ROWS,
     "(ld * plan.itemsize)), tile.n_rows - s)", "(ld * plan.itemsize)), tile.n_rows)"),
    ("past the caches: from the next line on", ROWS_H, "from + i, (size_t)(n - i)", "from + i, (size_t)0"),
    ("past the caches: whole lines where they are not", ROWS_H,
     "(ptrdiff_t)(-(uintptr_t)to % 64 / sizeof(bp_real))", "(ptrdiff_t)0"),
    ("past the caches: all outputs in the first one's place", MODES_OF_ROWS,
     " + (ld - plan.n_params) * plan.itemsize", ""),
    ("past the caches: pieces of several outputs", MODES_OF_ROWS,
     "if ld > plan.n_params or s == tile.n_rows - 1:", "if s == tile.n_rows - 1:"),
    ("R{grad_a} without g'' grad_h t_a", SWEEPS,
     "plan.kernels.multiply_add(p.n_rows, p.n, work.curve[i]", "plan.kernels.multiply_add(p.n_rows, p.n, work.a[i]"),
    ("R{grad_h} without V^T grad_a", SWEEPS,
     "if v != NULL and hidden_sum(", "if False and hidden_sum("),
    ("R{grad_W} without grad_a t_h^T", SWEEPS,
     "if lower != NULL and weight_gradient(", "if False and weight_gradient("),
    ("hessp: rows of another theta kept", LINEARIZATION,
     "            memset(self.kept.is_filled, 0, self.kept.n_rows)\n", ""),
    ("hessp: a tile kept beyond the end", LINEARIZATION, "tile.rows[0] + tile.n_rows > kept.n_rows", "False"),
    ("hessp: all tiles kept in one place", LINEARIZATION,
     "kept.rows + tile.rows[0] * bytes_of_kept_row(plan)", "kept.rows"),
    ("hessp: half a tile counts as kept", MODES_OF_SUMS, "is_filled[0] = not stopped", "is_filled[0] = True"),
    ("hessp: the workspace keeps the place of a tile", MODES_OF_SUMS,
     "lay_out_kept(plan, work.capacity, aligned(work.block), work)", "pass"),
    ("hessp: W never packed", SWEEPS,
     "PACKED if work.is_packed or work.is_v_packed else PACK_AND_KEEP\n    for", "PACKED\n    for"),
    # What is looked at before
    ("label n_out accepted", INSPECT, "if not 0 <= labels[s] < n_out", "if not 0 <= labels[s] <= n_out"),
    ("label -1 accepted", INSPECT, "if not 0 <= labels[s] < n_out", "if not labels[s] < n_out"),
    ("labels of weight 0 refused", INSPECT,
     "if not 0 <= labels[s] < n_out and (weight == NULL or weight[s] != 0):", "if not 0 <= labels[s] < n_out:"),
    ("binary target 2 accepted", INSPECT, "return 0 <= y <= 1", "return y >= 0"),
    ("hinge target 0 accepted", INSPECT, "return y == 1 or y == -1", "return -1 <= y <= 1"),
    ("negative counts accepted", INSPECT, "return y >= 0  # poisson", "return y == y  # poisson"),
    ("probabilities that sum to less accepted", INSPECT,
     "if not -tolerance <= total - 1 <= tolerance", "if not total - 1 <= tolerance"),
    ("infinite weights accepted", INSPECT,
     "if not (weight[p] >= 0 and isfinite(weight[p])):", "if not weight[p] >= 0:"),
    ("weights not scaled in their sum", INSPECT, "weight[q] * sums.scale, &sums.total", "weight[q], &sums.total"),
    ("rows of weight 0 counted as kept", INSPECT, "n_kept += not empty\n", "n_kept += 1\n"),
    ("validation: the mean of no samples accepted", VALIDATE, "if of_mean and array.shape[:1] == (0,):", "if False:"),
    ("validation: more columns than inputs accepted", VALIDATE,
     "if array.shape[1] != n_in:", "if array.shape[1] < n_in:"),
    ("validation: more parameters accepted", VALIDATE,
     "array = as_array(value, name)\n    if array.shape != (n_params,):",
     "array = as_array(value, name)\n    if array.size < n_params:"),
    ("validation: rows beside the samples unchecked", VALIDATE,
     "if array.shape != (n_samples, *shape):", "if array.shape[1:] != shape:"),
    ("validation: a row of y for each sample unchecked", VALIDATE,
     "if array.shape not in shapes:\n        if array.ndim",
     "if array.size != n_samples * n_out:\n        if array.ndim"),
    ("validation: the mask of an array dropped", LIKES, "if isinstance(value, np.ma.MaskedArray):", "if False:"),
    ("validation: masks in lists dropped", LIKES, "if kind in (list, tuple) and", "if kind in (list, tuple) or"),
    ("validation: the mask of an object's array dropped", LIKES,
     "_ask(np.asanyarray, value, name)", "_ask(np.asarray, value, name)"),
    ("validation: masks in sequences dropped", LIKES, "if _is_sequence(value):", "if False:"),
    ("validation: the mask of an activation's result dropped", OWN, "type(result) is np.ndarray", "True"),
    ("validation: missing values in frames accepted", LIKES, "if column.missing >= 0:", "if column.missing > 0:"),
    ("validation: columns of text accepted", LIKES,
     "if not column.is_numeric or column.array.ndim != 1:", "if column.array.ndim != 1:"),
    ("validation: columns in another order", LIKES, "array[:, j] = ", "array[:, -j] = "),
    ("validation: complex numbers accepted", LIKES,
     'array.dtype.kind not in "biuf":', 'array.dtype.kind not in "biufc":'),
    ("hints: names of other functions lead to ours", NAMES,
     "if key in meanings and meanings[key] is None:", "if False:"),
    ("hints: one of several that are equally near", NAMES, "if len(nearest) != 1:", "if not nearest:"),
    ("hints: swapped letters are two slips", NAMES, "min(row[j], last[j - 2] + 1)", "min(row[j], last[j - 2] + 2)"),
    ("validation: booleans as labels of three classes", VALIDATE,
     'array.dtype.kind == "b" and n_out != 2', 'array.dtype.kind == "b" and n_out < 2'),
    ("labels of members that may be one-hot rows accepted", PLAN, "n_networks == n_samples == plan", "0 == plan"),
    ("validation: bool is a number", VALIDATE,
     "if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral",
     "if not isinstance(value, numbers.Integral"),
    ("validation: infinity is finite", VALIDATE, "is_accepted = 0 <= result < np.inf", "is_accepted = 0 <= result"),
    ("validation: arrays in any order", VALIDATE,
     'np.require(array, dtype, ["C", "A"])', 'np.require(array, dtype, ["A"])'),
    ("validation: a bad label unheeded", VALIDATE,
     "row = _core.first_bad_label(part, n_out, part_weight)\n        if row >= 0:",
     "row = _core.first_bad_label(part, n_out, part_weight)\n        if row > 0:"),
    ("validation: a bad target unheeded", VALIDATE, "if bad is not None:", "if bad is not None and bad[0]:"),
    ("validation: a sum of probabilities unheeded", VALIDATE,
     "row = _core.first_bad_sum(y, tolerance, weight)\n        if row >= 0:",
     "row = _core.first_bad_sum(y, tolerance, weight)\n        if row > 0:"),
    ("validation: float32's tolerance of sums for float64", VALIDATE, '"float64": 1e-6', '"float64": 1e-4'),
    ("validation: labels of weight 0 looked at", VALIDATE,
     "weight = None if weights is None else weights.array\n    if loss", "weight = None\n    if loss"),
    ("validation: all weights 0 accepted", VALIDATE, "if n_kept == 0 and n_samples > 0:", "if False:"),
    ("validation: weights by output for cross_entropy", VALIDATE,
     'if loss.name == "cross_entropy" else [(n_samples,), (n_samples, n_out)]',
     'if False else [(n_samples,), (n_samples, n_out)]'),
    ("validation: negative weights of slopes accepted", VALIDATE,
     "(np.isfinite(weight) & (weight >= 0)).all()", "np.isfinite(weight).all()"),
    ("validation: out of another dtype", VALIDATE,
     "if array.dtype != dtype or not array.dtype.isnative:", "if array.dtype.itemsize != dtype.itemsize:"),
    ("validation: out of more dimensions", VALIDATE,
     'if array.shape != shape:\n        raise ValueError(f"out:',
     'if array.size != np.prod(shape):\n        raise ValueError(f"out:'),
    ("validation: out with strides", VALIDATE, "if not array.flags.c_contiguous:", "if False:"),
    ("validation: out at an odd address", VALIDATE, "if not array.flags.aligned:", "if False:"),
    ("validation: out that is read-only", VALIDATE, "if not array.flags.writeable:", "if False:"),
    ("validation: out that overlaps", VALIDATE,
     "np.may_share_memory(array, other) and np.shares_memory(array, other)", "array is other"),
    ("validation: the mask of free parameters is the caller's", VALIDATE, "return array.copy()", "return array"),
    ("validation: no free parameter", VALIDATE, "if not array.any():", "if False:"),
]]
# fmt: on


def run(command, tree, simd):
    """Exit status and output of a command in the tree, whose package comes first on the path; -1 if it takes long."""
    try:
        done = subprocess.run(
            command, cwd=tree, env=built_copy.environment(tree, simd), capture_output=True, text=True, check=False,
            timeout=LIMIT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1, f"no end after {LIMIT} s"
    return done.returncode, done.stdout + done.stderr


def supported_simd(tree, simd):
    """The instruction sets of this CPU, by the package in the tree."""
    code = "from backprop import _core; print(*_core.supported_simd())"
    status, output = run([sys.executable, "-c", code], tree, simd)
    if status:
        raise SystemExit(f"the unchanged tree cannot be imported:\n{output}")
    return output.split()


def judge(tree, simd, tests):
    return run([sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests], tree, simd)


def last_failure(output):
    """The test that failed, or the last line."""
    lines = output.strip().splitlines() or ["no output"]
    failed = [line.split(" - ")[0] for line in lines if line.startswith(("FAILED", "ERROR", "Fatal Python error"))]
    return (failed or lines)[-1][:120]


def pristine_copy(directory, simd, tests):
    """An unchanged copy of the tree, built and tested.

    Copies of it keep its times, so that only what changed is built.
    """
    tree = directory / f"pristine_{simd}"
    built_copy.copy(tree, TREE, {'"-O3"': '"-O1"'})
    status, output = built_copy.build(tree, simd)
    if status:
        raise SystemExit(f"the unchanged tree does not build:\n{output}")
    status, output = run([sys.executable, "-c", "import backprop; print(backprop.__file__)"], tree, simd)
    if status or not output.strip().startswith(str(tree)):
        raise SystemExit(f"expected backprop from {tree}, got {output}")
    start = time.monotonic()
    status, output = judge(tree, simd, tests)
    if status:
        raise SystemExit(f"the unchanged tree fails its tests: {last_failure(output)}")
    print(f"the unchanged tree passes with {simd}, {time.monotonic() - start:.0f} s", flush=True)
    return tree


def check_mutations(mutations):
    """Each old text occurs once in its file, and the names are unique."""
    for mutation in mutations:
        n = (ROOT / PACKAGE / mutation.file).read_text().count(mutation.old)
        if n != 1 or mutation.old == mutation.new:
            raise SystemExit(f"{mutation.name}: expected its text once in {mutation.file}, got it {n} times")
    if len({mutation.name for mutation in mutations}) != len(mutations):
        raise SystemExit("expected unique names of mutations")


def verdict_of(mutation, pristine, directory, simd, tests):
    """Whether it is killed, and by what."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        tree = Path(name, "mutant")
        shutil.copytree(pristine, tree)
        path = tree / PACKAGE / mutation.file
        path.write_text(path.read_text().replace(mutation.old, mutation.new))
        status, output = built_copy.build(tree, simd)
        if status:
            return False, "does not build: " + last_failure(output)
        first = FIRST_TESTS.get(mutation.file, [])
        status, output = judge(tree, simd, first + [test for test in tests if test not in first])
    if status == 0:
        return False, ""
    return True, last_failure(output) if status == 1 else f"status {status}: {last_failure(output)}"


def try_mutation(mutation, *arguments):
    """The same with the seconds that it took; prints a line."""
    start = time.monotonic()
    killed, by = verdict_of(mutation, *arguments)
    print(f"{'killed  ' if killed else 'SURVIVED'} {mutation.name}", flush=True)
    return mutation, killed, by, time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", help="mutations whose name contains this; may be repeated")
    parser.add_argument("--simd", default="v3", help="the instruction set of all mutations that name none (v3)")
    parser.add_argument("--jobs", type=int, default=1, help="so many at once (1)")
    parser.add_argument("--list", action="store_true", help="print the mutations and stop")
    parser.add_argument("tests", nargs="*", default=TESTS, help="arguments for pytest (a list of test files)")
    arguments = parser.parse_args()
    check_mutations(MUTATIONS)
    chosen = [mutation for mutation in MUTATIONS if any(part in mutation.name for part in arguments.only or [""])]
    if arguments.list or not chosen:
        print(*(f"{mutation.file:<28} {mutation.name}" for mutation in chosen), sep="\n")
        return 0
    tests = [test for test in arguments.tests if not test.endswith(".py") or (ROOT / test).exists()]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        pristine = {arguments.simd: pristine_copy(directory, arguments.simd, tests)}
        supported = supported_simd(pristine[arguments.simd], arguments.simd)
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            running = []
            for mutation in chosen:
                simd = mutation.simd or arguments.simd
                if simd not in supported:
                    print(f"left out {mutation.name}: the CPU lacks {simd}", flush=True)
                    continue
                if simd not in pristine:
                    pristine[simd] = pristine_copy(directory, simd, tests)
                running.append(pool.submit(try_mutation, mutation, pristine[simd], directory, simd, tests))
        rows = [future.result() for future in running]
    width = max(len(mutation.name) for mutation in chosen)
    print(f"\n{'mutation':<{width}}  {'file':<26}  {'verdict':<8}  {'s':>4}  by")
    for mutation, killed, by, seconds in rows:
        verdict = "killed" if killed else "SURVIVED"
        print(f"{mutation.name:<{width}}  {mutation.file:<26}  {verdict:<8}  {seconds:4.0f}  {by}")
    n_killed = sum(killed for _, killed, _, _ in rows)
    print(f"\n{n_killed} of {len(rows)} killed")
    return int(n_killed < len(rows))


if __name__ == "__main__":
    sys.exit(main())

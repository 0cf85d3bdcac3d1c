"""A model of many ranks, on paper, from what 2 ranks took on one machine. It measures nothing.

    T(p) = ceil(u / p) r t  +  ceil(log2 p) a  +  2 (1 - 1/p) s / b

p ranks have one thread each. u is the number of units of the data set, r the rows of a unit, and t the time of a row in
one rank. s is the number of bytes that a reduction adds up. The latency a and the bandwidth b are those of the line
a + s / b through the times of 2 ranks, for which the formula is that line. The line has the least sum of squares of
relative errors. The logarithm counts the steps of a tree, and the last term is that of a reduction in which each rank
adds its share of the numbers (Rabenseifner 2004). Networks and MPI libraries differ from this. The model shows from how
many ranks on the reduction, or the number of units, begins to matter.
"""

from math import ceil, log2

import numpy as np

RANKS = (1, 2, 4, 16, 64, 256, 1024, 4096)


def fit_line(n_bytes, seconds):
    """Latency in seconds and bandwidth in bytes per second of a + s / b, and the largest relative error of the line."""
    n_bytes, seconds = np.asarray(n_bytes, float), np.asarray(seconds, float)
    scaled = np.column_stack([1 / seconds, n_bytes / seconds])  # of which the sum is 1 if the line meets the time
    (latency, per_byte), *_ = np.linalg.lstsq(scaled, np.ones(len(seconds)))
    if latency < 0 or per_byte <= 0:  # noise of few calls
        latency, per_byte = 0.0, float((seconds / n_bytes).mean())
    error = np.abs(scaled @ [latency, per_byte] - 1).max()
    return float(latency), float(1 / per_byte), float(error)


def seconds_of(n_ranks, n_rows, unit_rows, row_seconds, n_bytes, latency, bandwidth):
    """T(p), as above."""
    n_units = ceil(n_rows / unit_rows)
    rows = min(n_rows, ceil(n_units / n_ranks) * unit_rows)
    reduction = ceil(log2(n_ranks)) * latency + 2 * (1 - 1 / n_ranks) * n_bytes / bandwidth
    return rows * row_seconds + reduction


def table(n_rows, unit_rows, row_seconds, n_bytes, latency, bandwidth):
    """For each number of ranks: seconds and speed-up for n_rows and for a thousand times as many; weak efficiency.

    In weak scaling each rank has n_rows / 2, the rows of the measured weak scaling.
    """

    def seconds(n_ranks, rows):
        return seconds_of(n_ranks, rows, unit_rows, row_seconds, n_bytes, latency, bandwidth)

    rows = []
    for p in RANKS:
        row = {"ranks": p}
        for name, n in (("few", n_rows), ("many", 1000 * n_rows)):
            row[name] = {"rows": n, "seconds": seconds(p, n), "speed_up": seconds(1, n) / seconds(p, n)}
        share = n_rows // 2
        row["weak"] = {"rows": share, "efficiency": seconds(1, share) / seconds(p, p * share)}
        rows.append(row)
    return rows

"""More than one machine: ranks of MPI beside threads, the reduction, parts and blocks; and a model of many ranks.

    python benchmarks/machines.py                                # some two minutes
    python benchmarks/machines.py --rows 4000000 --json machines.json
    python benchmarks/machines.py --short        # few rows and rounds of everything: seconds

It starts `mpiexec` itself: `pip install '.[mpi]' mpich` installs what it needs. The ranks run on this machine, with one
thread each. Before anything is timed, all ways must give loss and gradient with one SHA-256. README.md in this folder
says what each number means.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import machine
import numpy as np
import rank_model
import report
import same_bits

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from launcher import OPEN_MPI, find_mpiexec, what_is_missing

ROWS, ROUNDS = 1_000_000, 7
PART_ROWS, PARTS, BLOCKS = 200_000, (1, 16), (65_536, 4096, 1000)
CHECKED_ROWS = (50_000, 300)  # the second is one unit
GOAL, GOAL_SECONDS = 1.9, 3e-3  # of two ranks over one; of the reduction of 10^5 parameters
LIMIT = 900  # seconds
MEASURES = "median times; ratios in the same round, their median and, in brackets, the ratio of least times"


# Ranks ----------------------------------------------------------------------------------------------------------------


def on_ranks(n_ranks, *arguments):
    """What ranks with these arguments of `--inside` have kept.

    Raises
    ------
    RuntimeError
        If they fail, or take too long.
    """
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder, "kept.json")
        command = [find_mpiexec(), "-n", str(n_ranks), sys.executable, "-m", "mpi4py", __file__, "--inside", str(kept)]
        process = subprocess.Popen(
            [*command, *map(str, arguments)],
            env=os.environ | machine.thread_environment(1) | OPEN_MPI,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            printed, _ = process.communicate(timeout=LIMIT)
        except BaseException as error:
            process.send_signal(signal.SIGTERM)  # mpiexec passes it on
            printed, _ = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        if process.returncode or not kept.exists():
            raise RuntimeError(f"{n_ranks} ranks ended with {process.returncode}:\n{printed[-3000:]}")
        return json.loads(kept.read_text())


def inside(options):
    """On each rank: do one part, and let rank 0 keep what it found."""
    import rank_timings

    if options.part == "bits":
        found = rank_timings.compare_bits(CHECKED_ROWS, n_splits=2 if options.short else 5)
    elif options.part == "scaling":
        found = [rank_timings.measure_scaling(dtype, options.rows, options.rounds) for dtype in same_bits.DTYPES]
    else:
        counts = rank_timings.COUNTS[: 2 if options.short else None]
        found = {"library": rank_timings.library(), "n_params": options.n_params}
        found["n_bytes"] = rank_timings.Reduction(options.n_params).check_and_count()
        found["counts"] = [rank_timings.measure_reduction(n, 0.05 if options.short else 2.0) for n in counts]
    if rank_timings.COMM.rank == 0:
        Path(options.inside).write_text(json.dumps(found))
    return 0


# Bits -----------------------------------------------------------------------------------------------------------------


def compare_bits(with_mpi, short):
    """The one SHA-256 of all ways, by dtype and number of rows."""
    found, n_ways = {}, 0
    for dtype in same_bits.DTYPES:
        for n_rows in CHECKED_ROWS:
            net, x, y = same_bits.make(n_rows, dtype)
            rng = np.random.default_rng(0)
            ways = {f"{n} threads": same_bits.with_threads(net, x, y, n) for n in (1, 2, 3, 8)}
            ways |= {f"{n} parts": same_bits.by_parts(net, x, y, n, rng) for n in (1, 5, 20)}
            ways |= {f"blocks of {n}": same_bits.streamed(net, x, y, n) for n in (4096, 1000)}
            found[f"{dtype} {n_rows}"], n_ways = same_bits.expect_one(net, ways), len(ways)
    kinds = f"threads, parts and blocks: {n_ways} ways"
    if with_mpi:
        counts = (1, 2, 3) if short else (1, 2, 3, 4)
        for n_ranks in counts:
            others = on_ranks(n_ranks, "--part", "bits", *["--short"] * short)
            if others != found:
                raise same_bits.DifferentBitsError(f"{n_ranks} ranks have {others}, one process has {found}")
        kinds += f"; {', '.join(map(str, counts))} ranks, each with splits of the rows"
    print(f"\nOne SHA-256 of loss and gradient of {same_bits.NETWORK}, by {kinds}")
    for line in fingerprint_lines(found):
        print(f"  {line}")
    return found


def fingerprint_lines(found):
    """A line for each dtype and number of rows."""
    return [f"{dtype}, {int(n):,} rows: {sha}" for (dtype, n), sha in ((key.split(), found[key]) for key in found)]


# Parts and blocks -----------------------------------------------------------------------------------------------------


def measure_parts(n_rows, n_rounds):
    """Seconds of parts and of streamed blocks, and of what they replace, in turns: one process, one thread."""
    found = []
    for dtype in same_bits.DTYPES:
        net, x, y = same_bits.make(n_rows, dtype)
        ways = {"plain call": same_bits.with_threads(net, x, y, 1)}
        ways |= {f"partial_sums, {n} part{'s' * (n > 1)}": same_bits.by_parts(net, x, y, n) for n in PARTS}
        ways["objective"] = net.objective(x, y, n_threads=1)
        ways |= {f"objective, blocks of {n:,} rows": same_bits.streamed(net, x, y, n) for n in BLOCKS}
        sha = same_bits.expect_one(net, ways)
        seconds = same_bits.time_in_turns(net, ways, n_rounds)
        found.append({"dtype": dtype, "rows": n_rows, "sha256": sha, "seconds": seconds})
    return found


# What follows from the times ------------------------------------------------------------------------------------------


def ratio(seconds, above, below):
    """The median over rounds of the ratio of two ways' times, and the ratio of their least times."""
    pairs = zip(seconds[above], seconds[below], strict=True)
    return median(a / b for a, b in pairs), min(seconds[above]) / min(seconds[below])


def scaling_rows(scaling):
    """One row of text for each dtype, below a head."""
    heads = ["dtype", "rows", "1 thread ms", "2 threads ms", "1 rank ms", "2 ranks ms"]
    heads += ["threads 1 / 2", "ranks 1 / 2", "1 rank / 1 thread", "weak, rows a rank", "weak efficiency"]
    rows = [heads]
    for entry in scaling:
        seconds, n_rows = entry["seconds"], entry["rows"]
        times = [f"{1e3 * median(seconds[way]):,.1f}" for way in ("1 thread", "2 threads", "1 rank", "2 ranks")]
        ratios = [ratio(seconds, *pair) for pair in (("1 thread", "2 threads"), ("1 rank", "2 ranks"))]
        ratios += [ratio(seconds, "1 rank", "1 thread")]
        texts = [f"{typical:.2f} ({least:.2f})" for typical, least in ratios]
        texts[1] += "*" * (ratios[1][0] < GOAL)
        typical, least = ratio(seconds, "1 rank, its share", "2 ranks")
        rows.append([entry["dtype"], f"{n_rows:,}", *times, *texts, f"{n_rows // 2:,}"])
        rows[-1].append(f"{typical:.2f} ({least:.2f})")
    return rows


def reduction_rows(reduction):
    """One row of text for each number of parameters, below a head."""
    rows = [["parameters", "bytes", "plain bytes", "bytes / plain", "us", "plain us", "us / plain us"]]
    for entry in reduction["counts"]:
        ours, plain = (median(entry["seconds"][name]) for name in ("ours", "plain"))
        sizes = [f"{entry['bytes']:,}", f"{entry['plain_bytes']:,}", f"{entry['bytes'] / entry['plain_bytes']:.2f}"]
        mark = "*" * (entry["n_params"] == 100_000 and ours > GOAL_SECONDS)
        times = [report.number(1e6 * ours) + mark, report.number(1e6 * plain), f"{ours / plain:.2f}"]
        rows.append([f"{entry['n_params']:,}", *sizes, *times])
    return rows


def parts_rows(parts):
    """One row of text for each way, below a head; the ratios are to the plain call, or to the objective in memory."""
    heads = [f"{entry['rows']:,} rows, {entry['dtype']}" for entry in parts]
    rows = [["way", *(f"{head}, {what}" for head in heads for what in ("ms", "ratio"))]]
    for way in parts[0]["seconds"]:
        rows.append([way])
        against = "objective" if way.startswith("objective,") else "plain call"
        for entry in parts:
            typical, least = ratio(entry["seconds"], way, against)
            rows[-1] += [f"{1e3 * median(entry['seconds'][way]):,.1f}", f"{typical:.3f} ({least:.3f})"]
    return rows


def make_model(scaling, reduction):
    """The model of each dtype, from the time of a row in one rank and the line through the times of the reduction."""
    n_bytes = [entry["bytes"] for entry in reduction["counts"]]
    latency, bandwidth, error = rank_model.fit_line(
        n_bytes, [median(entry["seconds"]["ours"]) for entry in reduction["counts"]]
    )
    model = {"latency": latency, "bandwidth": bandwidth, "error": error, "n_bytes": reduction["n_bytes"]}
    model["dtypes"] = {}
    for entry in scaling:
        row_seconds = median(entry["seconds"]["1 rank"]) / entry["rows"]
        rows = rank_model.table(
            entry["rows"], entry["unit_rows"], row_seconds, reduction["n_bytes"], latency, bandwidth
        )
        facts = {"unit_rows": entry["unit_rows"], "row_seconds": row_seconds, "ranks": rows}
        model["dtypes"][entry["dtype"]] = facts
    return model


def model_lines(model):
    """What the model is, and what it was made of."""
    times = ", ".join(f"t = {1e6 * facts['row_seconds']:.3f} us ({dtype})" for dtype, facts in model["dtypes"].items())
    unit_rows = " and ".join(str(n) for n in sorted({facts["unit_rows"] for facts in model["dtypes"].values()}))
    return (
        "A model on paper, not a measurement: T(p) = ceil(u / p) r t + ceil(log2 p) a + 2 (1 - 1/p) s / b "
        f"for p ranks of one thread and u units of r = {unit_rows} rows, with {times}, s = {model['n_bytes']:,} bytes, "
        f"a = {1e6 * model['latency']:.1f} us and b = {1e-9 * model['bandwidth']:.2f} GB/s of 2 ranks on one machine; "
        f"the line a + s / b misses the measured times by at most {100 * model['error']:.0f} %."
    )


def model_rows(facts):
    """One row of text for each number of ranks, below a head, of one dtype."""
    first = facts["ranks"][0]
    rows = [["ranks"]]
    for name in ("few", "many"):
        rows[0] += [f"{first[name]['rows']:,} rows: ms", "speed-up"]
    rows[0].append(f"{first['weak']['rows']:,} rows a rank: efficiency")
    for row in facts["ranks"]:
        rows.append([f"{row['ranks']:,}"])
        for name in ("few", "many"):
            rows[-1] += [report.number(1e3 * row[name]["seconds"]), report.number(row[name]["speed_up"])]
        rows[-1].append(f"{row['weak']['efficiency']:.3f}")
    return rows


def made_up():
    """Invented results for `tables.py --short`."""
    ways = {
        name: [1.0, 1.2] if name[0] == "1" else [0.5, 0.55] for name in ("1 thread", "2 threads", "1 rank", "2 ranks")
    }
    ways["1 rank, its share"] = [0.5, 0.5]
    scaling = [{"dtype": "float32", "rows": 10**6, "n_params": 13_301, "unit_rows": 5120, "seconds": ways}]
    counts = [
        {"n_params": n, "bytes": 25 * n, "plain_bytes": 8 * n, "seconds": {"ours": [1e-8 * n], "plain": [1e-9 * n]}}
        for n in (1000, 100_000)
    ]
    reduction = {"library": "MPICH 5.0.2, mpi4py 4.1.2", "n_bytes": 332_583, "counts": counts}
    parts = [{"dtype": "float32", "rows": 200_000, "seconds": {"plain call": [0.1], "partial_sums, 1 part": [0.1]}}]
    results = {"sha256": {"float32 50000": 64 * "0"}, "parts": parts, "scaling": scaling, "reduction": reduction}
    return results | {"model": make_model(scaling, reduction)}


# ----------------------------------------------------------------------------------------------------------------------


def measure(options, with_mpi):
    """Everything, printed as it comes."""
    about = machine.describe()
    print(f"{about['cpu']}, {about['cpus']} CPUs, {about['simd']}, load {about['load'][0]:.2f}, {about['date']}")
    print(f"caches: {machine.caches_text(about['caches'])}")
    if about["cpus"] < 2:
        print("one CPU: two ranks share it")
    results = {"kind": "machines", "machine": about}
    results["sha256"] = compare_bits(with_mpi, options.short)
    results["parts"] = measure_parts(options.part_rows, options.rounds)
    print(f"\nParts and blocks, one process, one thread: {MEASURES}; to the plain call, or to the objective in memory")
    print(report.aligned(parts_rows(results["parts"]), left=1), flush=True)
    if not with_mpi:
        return results
    results["scaling"] = on_ranks(2, "--part", "scaling", "--rows", options.rows, "--rounds", options.rounds)
    print(f"\nScaling, ranks of one thread: {MEASURES}")
    print(report.aligned(scaling_rows(results["scaling"]), left=1), flush=True)
    n_params = results["scaling"][0]["n_params"]
    results["reduction"] = on_ranks(2, "--part", "reduction", "--n-params", n_params, *["--short"] * options.short)
    library = results["reduction"]["library"]
    print(f"\nReduction by MAX and SUM on 2 ranks, beside a plain Allreduce, medians; {library}")
    print(report.aligned(reduction_rows(results["reduction"]), left=0), flush=True)
    results["model"] = make_model(results["scaling"], results["reduction"])
    print(f"\n{model_lines(results['model'])}")
    for dtype, facts in results["model"]["dtypes"].items():
        print(f"\n{dtype}, model\n{report.aligned(model_rows(facts), left=0)}")
    return results


def main():
    """Compare, measure, print; the exit status is 1 if bits differ, or if ranks fail."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS, help=f"of the strong scaling (default {ROWS:,})")
    parser.add_argument("--part-rows", type=int, default=PART_ROWS, help=f"of parts and blocks (default {PART_ROWS:,})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each way (default {ROUNDS})")
    parser.add_argument("--json", metavar="FILE", help="write everything measured")
    parser.add_argument("--short", action="store_true", help="few rows and rounds of everything: seconds")
    parser.add_argument("--inside", metavar="FILE", help=argparse.SUPPRESS)  # on a rank: what it found
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--n-params", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        return inside(options)
    if options.short:
        options.rows, options.part_rows, options.rounds = 20_000, 20_000, 2
    if min(options.rows, options.part_rows, options.rounds) < 2:
        parser.error("--rows, --part-rows, --rounds: expected at least 2")
    missing = what_is_missing()
    if missing:
        print(f"without ranks: {missing}")
    try:
        results = measure(options, not missing)
    except (same_bits.DifferentBitsError, RuntimeError) as error:
        print(f"ERROR {error}")
        return 1
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    return int(bool(missing) and os.environ.get("BACKPROP_REQUIRE_PEERS") == "1")


if __name__ == "__main__":
    sys.exit(main())

"""Call everything with random arguments: compare each answer with the NumPy reference, and check each refusal.

    python tools/fuzz/fuzz.py --sets 1000000         # two processes; exits with 1 if anything is wrong
    python tools/fuzz/fuzz.py --replay SEED          # one round again, call by call
    python tools/fuzz/fuzz.py --minutes 30 --first 5000000
    python tools/fuzz/fuzz.py --short                # a few hundred sets

A round is one random network with data. A set is one call on it, with arguments in random forms (arguments.py), of
which one or two may be wrong. A set passes if

- all arguments are good, and the call returns what the NumPy reference computes from the same numbers; if these are the
  round's own, it returns the bits that plain arrays give;
- or an argument is wrong, and the call raises TypeError, ValueError or MemoryError with a message that names it;
- and in both cases inputs, params and the memory around out are unchanged, and after a refusal also out.

Rounds run in separate processes. Each writes the seed before a round, and the call before a set, to a mapped file. If a
process crashes, or does nothing for a minute, the seed is known, and the next process continues after it.
"""

import argparse
import faulthandler
import mmap
import os
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rounds import SETS_PER_ROUND, Round

SILENCE = 60  # seconds without a new set before a process counts as hung
SHORT_ROUNDS = 3
JOURNAL = struct.Struct("qqqqq")  # seed, set, accepted, refused, findings


# Processes ------------------------------------------------------------------------------------------------------------


def make_warnings_errors():
    """Except for the one that a process gives once, whichever call comes first."""
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", ".* network that is linear in pieces", RuntimeWarning)


def work(journal, first, last, step):
    """Run the rounds first, first + step, ... before last, with a journal in a mapped file."""
    make_warnings_errors()
    faulthandler.enable()
    with open(journal, "r+b") as file:
        mapped = mmap.mmap(file.fileno(), JOURNAL.size)
    counts = dict(zip((True, False, str), JOURNAL.unpack(mapped[:])[2:], strict=True))
    for seed in range(first, last, step):
        round_ = Round(seed)
        mapped[:] = JOURNAL.pack(seed, 0, *counts.values())
        for outcome in round_.run():
            if isinstance(outcome, str):
                print(f"seed {seed}, {outcome}", flush=True)
            counts[str if isinstance(outcome, str) else outcome] += 1
            mapped[:] = JOURNAL.pack(seed, round_.index + 1, *counts.values())
    return 0


def watch(process, journal):
    """Wait for a process, and kill it if its journal does not change; return whether it hung."""
    last, since = b"", time.monotonic()
    while True:
        try:
            process.wait(0.5)
            return False
        except subprocess.TimeoutExpired:
            now = journal.read_bytes()
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > SILENCE:
                process.kill()
                process.wait()
                return True


def fuzz(first, n_sets, n_processes, minutes=None, program=__file__):
    """Run rounds from the seed `first` on, print findings and counts, and return whether all was right."""
    last = first + -(-n_sets // SETS_PER_ROUND)
    start, crashes = time.monotonic(), []
    end = None if minutes is None else start + 60 * minutes

    def one(k, directory):
        journal = directory / str(k)
        journal.write_bytes(JOURNAL.pack(first + k, 0, 0, 0, 0))
        seed = first + k
        while seed < last and (end is None or time.monotonic() < end):
            stop = last if end is None else min(last, seed + 200 * n_processes)
            command = [sys.executable, program, "--work", str(journal), str(seed), str(stop), str(n_processes)]
            process = subprocess.Popen(command)
            hung = watch(process, journal)
            reached, index, *_ = JOURNAL.unpack(journal.read_bytes())
            if process.returncode:
                what = "hung" if hung else f"ended with {process.returncode}"
                crashes.append(f"seed {reached}, set {index}: {what}")
                print(crashes[-1], flush=True)
                seed = reached + n_processes
            else:
                seed += n_processes * len(range(seed, stop, n_processes))
        return JOURNAL.unpack(journal.read_bytes())[2:]

    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(n_processes) as pool:
        counts = list(pool.map(lambda k: one(k, Path(name)), range(n_processes)))
    accepted, refused, findings = (sum(column) for column in zip(*counts, strict=True))
    n, seconds = accepted + refused + findings, time.monotonic() - start
    print(
        f"{n:,} argument sets from seed {first} in {seconds:.0f} s ({n / seconds:,.0f} a second): {accepted:,} accepted"
        f" and equal to the reference, {refused:,} refused, {findings} wrong, {len(crashes)} crashes"
    )
    return not findings and not crashes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=100_000, help="argument sets")
    parser.add_argument("--first", type=int, default=0, help="the first round's seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, help="stop after this time, whatever --sets says")
    parser.add_argument("--replay", type=int, metavar="SEED", help="one round, call by call")
    parser.add_argument("--short", action="store_true", help=f"{SHORT_ROUNDS} rounds in one process")
    parser.add_argument("--work", nargs=4, metavar=("JOURNAL", "FIRST", "LAST", "STEP"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work[0], *map(int, options.work[1:]))
    if options.replay is not None:
        make_warnings_errors()
        faulthandler.enable()
        round_ = Round(options.replay)
        print(round_.net)
        for outcome in round_.run():
            print(outcome, *(round_.description if isinstance(outcome, bool) else ()), flush=True)
        return 0
    if options.short:
        options.sets, options.processes = SHORT_ROUNDS * SETS_PER_ROUND, 1
    return int(not fuzz(options.first, options.sets, options.processes, options.minutes))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())

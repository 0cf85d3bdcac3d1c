"""Loss and gradient of all parameters, or all other derivatives: backprop, its peers and the limit of the machine.

    python benchmarks/run.py --quick
    python benchmarks/run.py --json results.json --plot results.png
    python benchmarks/run.py --derivatives
    python benchmarks/run.py --short           # two small cases, to see that everything works: seconds

README.md in this folder says what each column means.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import derivatives
import machine
import report
from cases import CASES, QUICK, select

from backprop.demo import figure_file

WORKER = Path(__file__).with_name("worker.py")
SHORT = ("1-1@1", "digits-64-100-10@200")
SHORT_PEERS = ("numpy", "torch", "jax", "sklearn")  # torch.compile takes minutes, and CI has no mlpfile
PEERS = ("numpy", "torch", "compile", "jax", "sklearn", "mlpfile")


def arguments(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Time loss and gradient of dense networks: backprop and its peers. See README.md in this folder."
    )
    parser.add_argument("--derivatives", action="store_true", help="the other derivatives instead, on one thread")
    parser.add_argument("--quick", action="store_true", help="few cases, one thread, no torch.compile: two minutes")
    parser.add_argument("--short", action="store_true", help="two small cases, to see that everything works: seconds")
    parser.add_argument("--cases", help="names, beginnings of names or shell patterns, with commas between them")
    parser.add_argument("--threads", help="numbers of threads with commas between them, or all (default 1,2,all)")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="only this dtype")
    parser.add_argument("--peers", help=f"some of {','.join(PEERS)}; of derivatives {','.join(derivatives.PEERS)}")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which is slow to start")
    parser.add_argument("--ours-only", action="store_true", help="no peers: times, rates and %% of the peak")
    parser.add_argument("--budget", type=float, help="seconds of timing per cell (default 4; quick 1.5; ours only 0.5)")
    parser.add_argument("--json", metavar="FILE", help="write everything measured")
    parser.add_argument("--plot", type=figure_file, metavar="FILE", help="draw the ratios to the best peer")
    options = parser.parse_args(argv)
    cases, quick = (derivatives.CASES, derivatives.QUICK) if options.derivatives else (CASES, select(QUICK))
    if options.short:
        options.quick, options.budget = True, 0.02
        quick = select(derivatives.SHORT if options.derivatives else SHORT, cases)
    known = derivatives.PEERS if options.derivatives else PEERS
    try:
        chosen = select(options.cases.split(","), cases) if options.cases else quick if options.quick else cases
        options.with_memory = options.derivatives and (chosen is cases or options.short)
        options.cases = chosen
    except ValueError as error:
        parser.error(str(error))
    n_cpus = len(os.sched_getaffinity(0))
    words = (
        options.threads or ("1" if options.quick or options.ours_only or options.derivatives else "1,2,all")
    ).split(",")
    try:
        asked = {n_cpus if word == "all" else int(word) for word in words}
    except ValueError:
        parser.error(f"--threads: expected positive integers or all, got {options.threads!r}")
    if min(asked) < 1:
        parser.error(f"--threads: expected positive integers or all, got {options.threads!r}")
    options.too_many = sorted(n for n in asked if n > n_cpus)
    options.threads = sorted(n for n in asked if n <= n_cpus)
    if options.derivatives and options.plot:
        parser.error("--plot: there is no chart of --derivatives")
    options.peers = chosen_peers(options, known, parser)
    if options.budget is None:
        options.budget = 0.5 if options.ours_only else 1.5 if options.quick else 4.0
    options.dtypes = [options.dtype] if options.dtype else ["float32", "float64"]
    if options.short and options.derivatives:
        options.dtypes = options.dtypes[:1]
    return options


def chosen_peers(options, known, parser):
    """The peers that the options ask for."""
    names = options.peers.split(",") if options.peers else list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"--peers: expected some of {','.join(known)}, got {','.join(unknown)}")
    if options.no_compile or (options.quick and not options.peers):
        names = [name for name in names if name != "compile"]
    if options.short and not options.peers and not options.derivatives:
        names = [name for name in names if name in SHORT_PEERS]
        print(f"short: without {', '.join(name for name in known if name not in names)}")
    return [] if options.ours_only else names


class Run:
    """All that the workers of one run report."""

    def __init__(self, options, library):
        self.options, self.library = options, library
        self.cells, self.limits, self.failures = [], [], []
        self.missing = {}  # peer -> reason

    def time(self, n_threads):
        """Time all cells with n_threads. If a worker dies, its cell is lost, and a new worker continues."""
        todo = [(case.name, dtype) for case in self.options.cases for dtype in self.options.dtypes]
        while todo:
            code, at = self._worker(n_threads, todo)
            if code == 0:
                return
            place = "before the first cell" if at is None else " ".join(at)
            self.failures.append(
                f"{place}, {n_threads} thread{'s' * (n_threads > 1)}: the timing process ended with status {code}"
            )
            todo = [] if at is None else todo[todo.index(at) + 1 :]

    def _worker(self, n_threads, todo):
        job = {
            "derivatives": self.options.derivatives,
            "threads": n_threads,
            "cpus": machine.choose_cpus(n_threads),
            "cells": todo,
            "peers": [name for name in self.options.peers if name not in self.missing],
            "budget": self.options.budget,
            "peak": self.library,
        }
        process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | machine.thread_environment(n_threads),
        )
        try:
            process.stdin.write(json.dumps(job))
            process.stdin.close()
            return self._listen(process, n_threads)
        finally:
            process.kill()  # if this process was interrupted; no harm if it has ended

    def _listen(self, process, n_threads):
        """Read the events of a worker; return its exit status and the cell that it was at."""
        at = None
        for line in process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # a line that a library printed
            if not isinstance(event, dict) or "event" not in event:
                continue
            kind = event.pop("event")
            if kind == "start":
                at = (event["case"], event["dtype"])
            elif kind == "missing":
                self.missing[event["peer"]] = event["reason"]
            elif kind == "limits":
                self.limits.append(event | {"threads": n_threads})
            elif kind == "cell":
                self.cells.append((derivatives if self.options.derivatives else report).complete(event))
                self._progress(self.cells[-1])
        return process.wait(), at

    def _progress(self, cell):
        total = len(self.options.cases) * len(self.options.dtypes) * len(self.options.threads)
        ratio = "" if cell["ratio"] is None else f", {cell['ratio']:.2f} x {report.LABELS[cell['best_peer']]}"
        wrong = f"; ERROR in {', '.join(cell['errors'])}" if cell["errors"] else ""
        us = report.number(1e6 * cell["seconds"]["ours"])
        place = f"{cell['threads']} thr. {cell['dtype']} {cell['case']}"
        print(f"[{len(self.cells)}/{total}] {place}: {us} us{ratio}{wrong}", file=sys.stderr, flush=True)


def main(argv=None):
    """Run, print the report, write the files; return the exit status."""
    options = arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the worker ends too
    about = machine.describe()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(options, machine.compile_peak(folder))
        for n_threads in options.threads:
            run.time(n_threads)
    notes = [f"{name} is left out: {reason}" for name, reason in run.missing.items()]
    notes += [f"{n} threads are left out: this machine has fewer CPUs" for n in options.too_many]
    if os.environ.get("BACKPROP_REQUIRE_PEERS") == "1":
        run.failures += [f"{name} is missing, and BACKPROP_REQUIRE_PEERS is 1" for name in run.missing]
    parts = about, run.limits, run.cells, options.peers, notes, run.failures
    memory = None
    if options.derivatives:
        text, wrong = report.whole(*parts, "all other derivatives", derivatives.section)
        if options.with_memory:
            n_samples = 20_000 if options.short else 1_000_000
            memory, lines = derivatives.measure_memory(options.dtypes, options.threads, n_samples)
            text, wrong = text + "\n" + lines, wrong or "ERROR" in lines
    else:
        text, wrong = report.whole(*parts)
    print(text)
    if options.json:
        result = {"machine": about, "limits": run.limits, "cells": run.cells, "missing": run.missing}
        if memory is not None:
            result["memory"] = memory
        Path(options.json).write_text(json.dumps(result | {"failures": run.failures}, indent=1) + "\n")
    if options.short and len(run.cells) < len(options.cases) * len(options.dtypes):
        wrong = True  # a cell that was not timed
    if options.plot and any(cell["ratio"] is not None for cell in run.cells):
        import plots

        plots.draw(options.plot, about, run.cells)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

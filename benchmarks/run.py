"""Loss and gradient of all parameters, other derivatives, or fits: backprop, its peers and the limit of the machine.

    python benchmarks/run.py --quick
    python benchmarks/run.py --json results.json --plot results.png
    python benchmarks/run.py --simd v3,v4      # both instruction sets; the peers of v3 are held to AVX2
    python benchmarks/run.py --derivatives     # or --training
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
import held
import machine
import report
import training
from cases import CASES, QUICK, select

from backprop import _core
from backprop.demo import figure_file

WORKER = Path(__file__).with_name("worker.py")
SHORT = ("1-1@1", "digits-64-100-10@200")
SHORT_PEERS = ("numpy", "torch", "jax", "sklearn")  # torch.compile takes minutes, and CI has no mlpfile
PEERS = ("numpy", "torch", "compile", "jax", "sklearn", "mlpfile")
OTHERS = {"derivatives": derivatives, "training": training}  # each has CASES, QUICK, SHORT, PEERS, complete, section


def arguments(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Time loss and gradient of dense networks: backprop and its peers. See README.md in this folder."
    )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--derivatives", action="store_true", help="the other derivatives instead, on one thread")
    kinds.add_argument("--training", action="store_true", help="fits instead")
    parser.add_argument("--quick", action="store_true", help="few cases, one thread, no torch.compile: two minutes")
    parser.add_argument("--short", action="store_true", help="two small cases, to see that everything works: seconds")
    parser.add_argument("--cases", help="names, beginnings of names or shell patterns, with commas between them")
    parser.add_argument("--threads", help="numbers of threads with commas between them, or all (default 1,2,all)")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="only this dtype")
    parser.add_argument(
        "--simd", default=_core.simd, help=f"some of {','.join(_core.supported_simd())}, of ours (default {_core.simd})"
    )
    parser.add_argument(
        "--against",
        choices=("held", "free", "both"),
        default="held",
        help="compare our v3 with peers held to AVX2 (default), with peers that may use all that the CPU has, or both",
    )
    parser.add_argument("--peers", help=f"some of {'; or of '.join(','.join(names) for names in known_peers())}")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which is slow to start")
    parser.add_argument("--ours-only", action="store_true", help="no peers: times, rates and %% of the peak")
    parser.add_argument("--budget", type=float, help="seconds of timing per cell (default 4; quick 1.5; ours only 0.5)")
    parser.add_argument("--check", action="store_true", help="the exit status is 1 too if a target is missed")
    parser.add_argument("--json", metavar="FILE", help="write everything measured")
    parser.add_argument("--plot", type=figure_file, metavar="FILE", help="draw the ratios to the best peer")
    options = parser.parse_args(argv)
    options.kind = "derivatives" if options.derivatives else "training" if options.training else "run"
    other = OTHERS.get(options.kind)
    known = other.PEERS if other else PEERS
    choose_cases(options, other, parser)
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
    if other and options.plot:
        parser.error(f"--plot: there is no chart of --{options.kind}")
    options.peers = chosen_peers(options, known, parser)
    options.settings = chosen_settings(options, parser)
    if options.budget is None:
        options.budget = 0.5 if options.ours_only else 1.5 if options.quick else 4.0
    options.dtypes = [options.dtype] if options.dtype else ["float32", "float64"]
    if options.short and other:
        options.dtypes = options.dtypes[:1]
    options.n_cells = len(options.cases) * len(options.dtypes) * len(options.threads) * len(options.settings)
    return options


def choose_cases(options, other, parser):
    """Set the cases that the options ask for, and whether what is measured besides them is asked for too."""
    cases, quick = (other.CASES, other.QUICK) if other else (CASES, select(QUICK))
    if options.short:
        options.quick, options.budget = True, 0.02
        quick = select(other.SHORT if other else SHORT, cases)
    try:
        chosen = select(options.cases.split(","), cases) if options.cases else quick if options.quick else cases
    except ValueError as error:
        parser.error(str(error))
    options.with_more = other is not None and (chosen is cases or options.short)
    options.cases = chosen


def known_peers():
    """The peers of each kind."""
    return [PEERS, *(other.PEERS for other in OTHERS.values())]


def chosen_peers(options, known, parser):
    """The peers that the options ask for."""
    names = options.peers.split(",") if options.peers else list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"--peers: expected some of {','.join(known)}, got {','.join(unknown)}")
    if options.no_compile or (options.quick and not options.peers):
        names = [name for name in names if name not in ("compile", "func_compile")]
    if options.short and not options.peers and options.kind == "run":
        names = [name for name in names if name in SHORT_PEERS]
        print(f"short: without {', '.join(name for name in known if name not in names)}")
    return [] if options.ours_only else names


def chosen_settings(options, parser):
    """The instruction sets of ours, each with whether the peers are held to AVX2: (simd, peers_held)."""
    names = options.simd.split(",")
    unknown = [name for name in names if name not in _core.supported_simd()]
    if unknown:
        parser.error(f"--simd: expected some of {','.join(_core.supported_simd())}, got {','.join(unknown)}")
    settings = []
    for name in names:
        if name == held.SIMD and options.peers and held.cpu_has_more():
            settings += [(name, True)] * (options.against != "free") + [(name, False)] * (options.against != "held")
        else:
            settings.append((name, False))  # all that the CPU has is what our kernels use, or there are no peers
    return settings


class Run:
    """All that the workers of one run report."""

    def __init__(self, options, library):
        self.options, self.library = options, library
        self.cells, self.limits, self.failures, self.settings = [], [], [], []
        self.missing = {}  # peer -> reason

    def time(self, setting):
        """Time all cells of a setting, unless the peers are to be held to AVX2 and one of them is not."""
        simd, peers_held = setting
        try:
            uses = held.ask(self.options.peers, self._environment(1, setting)) if self.options.peers else {}
        except RuntimeError as error:
            self.failures.append(f"{simd}: the instruction sets of the peers are unknown: {error}")
            return
        entry = {"simd": simd, "peers_held": peers_held, "uses": uses}
        self.settings.append(entry)
        wrong = held.complaints(uses) if peers_held else []
        self.failures += [f"{report.setting_text(entry)}: {text}" for text in wrong]
        for n_threads in [] if wrong else self.options.threads:
            self._time(setting, n_threads)

    def _time(self, setting, n_threads):
        """Time all cells with n_threads. If a worker dies, its cell is lost, and a new worker continues."""
        todo = [(case.name, dtype) for case in self.options.cases for dtype in self.options.dtypes]
        while todo:
            code, at = self._worker(setting, n_threads, todo)
            if code == 0:
                return
            place = "before the first cell" if at is None else " ".join(at)
            threads = f"{n_threads} thread{'s' * (n_threads > 1)}"
            self.failures.append(f"{place}, {setting[0]}, {threads}: the timing process ended with status {code}")
            todo = [] if at is None else todo[todo.index(at) + 1 :]

    @staticmethod
    def _environment(n_threads, setting):
        environment = os.environ | machine.thread_environment(n_threads) | {"BACKPROP_SIMD": setting[0]}
        return environment | (held.environment(environment) if setting[1] else {})

    def _worker(self, setting, n_threads, todo):
        job = {
            "kind": self.options.kind,
            "simd": setting[0],
            "peers_held": setting[1],
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
            env=self._environment(n_threads, setting),
        )
        try:
            process.stdin.write(json.dumps(job))
            process.stdin.close()
            return self._listen(process, setting, n_threads)
        finally:
            process.kill()  # if this process was interrupted; no harm if it has ended

    def _listen(self, process, setting, n_threads):
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
                self.limits.append(event | {"threads": n_threads, "simd": setting[0]})
            elif kind == "cell":
                self.cells.append(OTHERS.get(self.options.kind, report).complete(event))
                self._progress(self.cells[-1])
        return process.wait(), at

    def _progress(self, cell):
        total = self.options.n_cells
        best = report.LABELS.get(cell["least_best_peer"])
        ratio = f", {cell['least_ratio']:.2f} x {best} by least times, {cell['ratio']:.2f} by medians" if best else ""
        wrong = f"; ERROR in {', '.join(cell['errors'])}" if cell["errors"] else ""
        us = report.number(1e6 * cell["seconds"]["ours"])
        place = f"{cell['simd']} {cell['threads']} thr. {cell['dtype']} {cell['case']}"
        print(f"[{len(self.cells)}/{total}] {place}: {us} us{ratio}{wrong}", file=sys.stderr, flush=True)


def main(argv=None):
    """Run, print the report, write the files; return the exit status."""
    options = arguments(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the worker ends too
    about = machine.describe()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(options, machine.compile_peak(folder))
        for setting in options.settings:
            run.time(setting)
    notes = [f"{name} is left out: {reason}" for name, reason in run.missing.items()]
    notes += [f"{n} threads are left out: this machine has fewer CPUs" for n in options.too_many]
    if os.environ.get("BACKPROP_REQUIRE_PEERS") == "1":
        run.failures += [f"{name} is missing, and BACKPROP_REQUIRE_PEERS is 1" for name in run.missing]
    result = {"kind": options.kind, "machine": about, "settings": run.settings}
    result |= {"limits": run.limits, "cells": run.cells, "missing": run.missing, "failures": run.failures}
    other = OTHERS.get(options.kind)
    parts = (other.TITLE, other.section) if other else ()
    text, wrong = report.whole(result | {"notes": notes}, run.cells, options.peers, *parts)
    if options.with_more:
        more, lines, is_wrong = other.measure_more(options)
        result, text, wrong = result | more, f"{text}\n{lines}", wrong or is_wrong
    if options.check:
        wrong = wrong or any(cell["met"] is False for cell in run.cells) or result.get("met") is False
    print(text)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    if options.short and len(run.cells) < options.n_cells:
        wrong = True  # a cell that was not timed
    if options.plot and any(cell["ratio"] is not None for cell in run.cells):
        import plots

        plots.draw(options.plot, about, run.cells)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

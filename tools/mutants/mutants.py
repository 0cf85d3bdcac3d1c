"""Break the compiled code and the validation on purpose, one line at a time, and see if the tests notice.

    python tools/mutants/mutants.py                        # all mutations; exits with 1 if one survives
    python tools/mutants/mutants.py --only bias            # those with "bias" in their ids
    python tools/mutants/mutants.py --kind validation      # or compiled, or python
    python tools/mutants/mutants.py --file losses          # those whose line stands in a file with this in its path
    python tools/mutants/mutants.py --jobs 2               # two at once
    python tools/mutants/mutants.py --list                 # what each mutation is
    python tools/mutants/mutants.py --locate               # where each line stands now
    python tools/mutants/mutants.py --check                # those that fit no line, or several, and what is near
    python tools/mutants/mutants.py --follow               # write down the functions that lines have moved to
    python tools/mutants/mutants.py --short                # --check, and one mutation without a build

The mutations are data, in mistakes/; catalogue.py says what each key means.

Each mutation is made in a copy of the tree, built there for one instruction set, and judged by the tests below. Lines
that are compiled for v4 alone (half vectors) are built and tested for v4; if the CPU lacks it, a line says so. A
mutation is killed if a test fails or crashes. One that does not build proves nothing, and counts as a survivor. The
unchanged copy must pass all these tests first.

The copy is built with -O1, because the bits are those of -O3 (no contraction is allowed at either) and the builds take
half as long. If all mutations that are chosen are in Python files, nothing is built: the copy gets the modules of the
installed package.

These mistakes are left out, because no result changes, or by less than its rounding:

- other splits in `next_rows`, `next_panel`, `blocks_of_chain` and `blocks_of_chains`, other LARGE_BYTES, PACK_ROWS,
  COPIED_ROWS, COPY_ROWS, UNITS_BYTES or FAR_BYTES, the stride that avoids 2 KiB: they change speed alone;
- another FEW_INPUTS: the chains are the same with lanes over units and over inputs;
- another KEPT_VECTORS, GRADIENT_BYTES or STREAM_BYTES: the same products are stored in another order, or another way;
- another ROW_BLOCK, or `n >= ROW_BLOCK` for the exponentials of a row that are computed again: they are equal;
- other FEW_ROWS, or products of few rows by the blocks: the chains are the same;
- numbers of threads, strips and slots, the order of memory accesses and the locks of the pool: no result changes, or
  only in a race that a test cannot force;
- workers that do not block signals: the caller polls for them all the same;
- a thread that is not tried again with a larger stack: fewer threads compute, with the same bits;
- the end of the list of chunks in `find_starts`: only weights can lie beyond it that another thread sets while the list
  is made;
- what 1 + t rounds off in `bp_log1p`: half an ulp, less than the error of the exponentials in t;
- zeros beyond the last column of a panel: these lanes are never stored;
- limits (gelu beyond 40, silu below -1500) that the formula beside them reaches too.
"""

import argparse
import concurrent.futures
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "builds"))

import built_copy
import catalogue
import locate
from built_copy import ROOT, test_path

PACKAGE = Path("src", "backprop")
TESTS = [  # the modules, in any folder of tests/, that judge a mutation; those that fail soonest come first
    "test_worked_example",
    "test_losses",
    "test_hard_inputs",
    "test_kernels",
    "test_products",
    "test_activations",
    "test_second_derivatives",
    "test_arrays",
    "test_exactness",
    "test_bad_input",
    "test_network",
    "test_threads::test_the_bits_do_not_depend_on_the_thread_count",
    "test_threads::test_the_bits_of_wide_layers_do_not_depend_on_the_thread_count",
    "test_threads::test_the_bits_do_not_depend_on_who_calls",
    "test_threads::test_products_cut_for_signals_have_the_bits_of_whole_ones",
    "test_bits",
    "test_signals::test_cut_work_has_the_bits_of_whole_work",
    "test_ensemble",
    "test_second_sweep",
    "test_quick_calls",
    "test_hessp",
    "test_derivatives",
]
LIMIT = 900  # seconds for a build or a run of the tests: a mutant that loops for ever is killed then
SHORT = "swapped-letters-are-two-slips"  # a mutation of Python that its first test kills in a second


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
    """Exit status and output of pytest."""
    return run([sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--all", *tests], tree, simd)


def last_failure(output):
    """The test that failed, or the last line."""
    lines = output.strip().splitlines() or ["no output"]
    failed = [line.split(" - ")[0] for line in lines if line.startswith(("FAILED", "ERROR", "Fatal Python error"))]
    return (failed or lines)[-1][:120]


def pristine_copy(directory, simd, tests, is_built=True):
    """An unchanged copy of the tree, built and tested; or with the installed package's modules, instead of a build.

    Copies of it keep its times, so that only what changed is built.
    """
    tree = directory / f"pristine_{simd}"
    built_copy.copy(tree, {'"-O3"': '"-O1"'} if is_built else {})
    if not is_built:
        built_copy.take_installed(tree)
    else:
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


def in_order(mutation, tests):
    """The tests that notice the mutation soonest, then the others."""
    first = [test_path(test) for test in mutation.first_tests]
    return first + [test for test in tests if test not in first]


def verdict_of(mutation, pristine, directory, simd, tests):
    """Whether it is killed, and by what."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        tree = Path(name, "mutant")
        shutil.copytree(pristine, tree)
        source, text = mutation.apply(locate.read_sources(tree / PACKAGE))
        (tree / PACKAGE / source.path).write_text(text, encoding="utf-8")
        if source.path.suffix != ".py":
            status, output = built_copy.build(tree, simd)
            if status:
                return False, "does not build: " + last_failure(output)
        status, output = judge(tree, simd, in_order(mutation, tests))
    if status == 0:
        return False, ""
    return True, last_failure(output) if status == 1 else f"status {status}: {last_failure(output)}"


def try_mutation(mutation, *arguments):
    """The same with the seconds that it took; prints a line."""
    start = time.monotonic()
    killed, by = verdict_of(mutation, *arguments)
    print(f"{'killed  ' if killed else 'SURVIVED'} {mutation.id}", flush=True)
    return mutation, killed, by, time.monotonic() - start


def try_all(mutations, simd, n_jobs, tests, is_built):
    """Try mutations and print a table; the exit status. Without a build they are mutations of Python alone."""
    every_test = list(dict.fromkeys(test for mutation in mutations for test in in_order(mutation, tests)))
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        pristine = {simd: pristine_copy(directory, simd, every_test, is_built)}
        supported = supported_simd(pristine[simd], simd)
        with concurrent.futures.ThreadPoolExecutor(n_jobs) as pool:
            running = []
            for mutation in mutations:
                its_simd = mutation.simd or simd
                if its_simd not in supported:
                    print(f"left out {mutation.id}: the CPU lacks {its_simd}", flush=True)
                    continue
                if its_simd not in pristine:
                    pristine[its_simd] = pristine_copy(directory, its_simd, every_test)
                running.append(pool.submit(try_mutation, mutation, pristine[its_simd], directory, its_simd, tests))
        rows = [future.result() for future in running]
    width = max(len(mutation.id) for mutation in mutations)
    print(f"\n{'mutation':<{width}}  {'kind':<10}  {'verdict':<8}  {'s':>4}  by")
    for mutation, killed, by, seconds in rows:
        verdict = "killed" if killed else "SURVIVED"
        print(f"{mutation.id:<{width}}  {mutation.kind:<10}  {verdict:<8}  {seconds:4.0f}  {by}")
    n_killed = sum(killed for _, killed, _, _ in rows)
    print(f"\n{n_killed} of {len(rows)} killed")
    return int(n_killed < len(rows))


def check(mutations, sources):
    """Print what does not fit; the exit status."""
    complaints = [text for mutation in mutations if (text := catalogue.complaint(mutation, sources))]
    print(*complaints, f"{len(mutations) - len(complaints)} of {len(mutations)} mutations fit one place", sep="\n")
    return int(bool(complaints))


def follow(mutations, sources):
    """Write down where lines have moved to, then check the rest; the exit status."""
    for mutation in mutations:
        function = catalogue.moved_to(mutation, sources)
        if function is not None:
            catalogue.set_function(mutation, function)
            print(f"{mutation.id}: from {mutation.function} to {function}")
    return check(catalogue.read(), sources)


def short(mutations, sources):
    """All that a build is not needed for: each mutation fits, and one of Python is made and killed."""
    status = check(mutations, sources)
    from backprop import _core

    (mutation,) = [mutation for mutation in mutations if mutation.id == SHORT]
    tests = [test_path(test) for test in mutation.first_tests]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        pristine = pristine_copy(directory, _core.simd, tests, is_built=False)
        _, killed, by, _ = try_mutation(mutation, pristine, directory, _core.simd, tests)
    print(f"by {by}; mutations of compiled code need a build of their own, and are not tried in the short form")
    return status or int(not killed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", help="mutations whose id contains this; may be repeated")
    parser.add_argument("--kind", choices=("compiled", "python", "validation"), help="mutations of one kind")
    parser.add_argument("--file", help="mutations whose line stands in a file with this in its path")
    parser.add_argument("--simd", help="the instruction set of mutations that name none (v3, or the CPU's best)")
    parser.add_argument("--jobs", type=int, default=1, help="so many at once (1)")
    parser.add_argument("--list", action="store_true", help="print what the mutations are, and stop")
    parser.add_argument("--locate", action="store_true", help="print where the lines stand now, and stop")
    parser.add_argument("--check", action="store_true", help="print the mutations that do not fit one line, and stop")
    parser.add_argument("--follow", action="store_true", help="write down the functions that lines have moved to")
    parser.add_argument("--short", action="store_true", help="--check, and one mutation that needs no build")
    parser.add_argument("tests", nargs="*", help="arguments for pytest (default: a list of test modules)")
    arguments = parser.parse_args()
    mutations, sources = catalogue.read(), locate.read_sources(ROOT / PACKAGE)
    if arguments.short:
        return short(mutations, sources)
    chosen = [
        mutation
        for mutation in mutations
        if any(part in mutation.id for part in arguments.only or [""])
        and arguments.kind in (None, mutation.kind)
        and (not arguments.file or any(arguments.file in str(p.source.path) for p in mutation.find(sources)))
    ]
    if not chosen:
        parser.error("expected options that choose some mutation, got none; --list prints them all")
    if arguments.list:
        print(*(f"{mutation.kind:<10} {mutation.id}: {mutation.mistake}" for mutation in chosen), sep="\n")
        return 0
    if arguments.locate:
        print(*(f"{mutation.id}: {place}" for mutation in chosen for place in mutation.find(sources)), sep="\n")
    if arguments.follow:
        return follow(chosen, sources)
    status = check(chosen, sources)
    if status or arguments.check or arguments.locate:
        return status
    tests = arguments.tests or [test_path(test) for test in TESTS]
    if all(place.source.path.suffix == ".py" for mutation in chosen for place in mutation.find(sources)):
        from backprop import _core

        return try_all(chosen, arguments.simd or _core.simd, arguments.jobs, tests, is_built=False)
    return try_all(chosen, arguments.simd or built_copy.usual_simd(), arguments.jobs, tests, is_built=True)


if __name__ == "__main__":
    sys.exit(main())

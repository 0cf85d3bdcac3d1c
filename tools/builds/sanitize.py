"""Run the tests on a build that watches memory, undefined behaviour or threads, and count its reports.

    python tools/builds/sanitize.py address                       # AddressSanitizer and UBSan over the whole suite
    python tools/builds/sanitize.py thread                        # ThreadSanitizer over the tests that use threads
    python tools/builds/sanitize.py address --short               # what .ci/run does: little more than a minute each
    python tools/builds/sanitize.py thread tests/pool             # arguments of pytest
    python tools/builds/sanitize.py address --keep /tmp/tree      # the tree stays there, for the next build
    python tools/builds/sanitize.py thread --run python tools/pool/stress.py crowd --n 50    # any other command

The package is built for one instruction set in a copy of the tree, with line numbers of the Cython files. Python and
NumPy are not rebuilt, so the sanitizer's library is preloaded: it sees their allocations, copies and locks, but not
their loads and stores. Child processes are watched like their parents. Each report is printed (equal ones once) with
the number of times it was made. The exit status is 1 if there was a report, or if a test failed.
"""

import argparse
import collections
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import built_copy

SUPPRESSIONS = Path("tools", "builds", "thread_sanitizer.supp")

# The bits of each level are those of -O3. -O1 is built in half the time, and runs at half the speed.
LEVELS = {"short": "-O1", "whole": "-O2"}
REPLACEMENTS = {
    '"-g0"': '"-g"',
    'include_path=["src"]': 'include_path=["src"], emit_linenums=True',
}
# Undefined behaviour traps, and AddressSanitizer reports the trap: UBSan's own library writes to stderr only, which
# tests catch. UBSan's checks of each pointer are left out, because AddressSanitizer makes most of them, and because the
# build then takes half the time.
UNDEFINED = "-fsanitize=undefined,float-cast-overflow -fsanitize-undefined-trap-on-error"
UNCHECKED = "-fno-sanitize=alignment,null,object-size,pointer-overflow"
FLAGS = {"address": f"-fsanitize=address {UNDEFINED} {UNCHECKED}", "thread": "-fsanitize=thread"}
# libstdc++ is preloaded too: AddressSanitizer looks for __cxa_throw when the process starts, and a library that is
# loaded later (SciPy's, PyTorch's) could not throw otherwise.
LIBRARIES = {"address": ["libasan.so", "libstdc++.so.6"], "thread": ["libtsan.so", "libstdc++.so.6"]}
ADDRESS = {
    "detect_leaks": 0,  # Python frees much at the end only; tests/support/fault_injection.py counts our blocks
    "allocator_may_return_null": 1,  # a MemoryError, which tests of huge sizes expect
    "abort_on_error": 1,  # so that faulthandler prints where Python is
    "handle_segv": 2,  # 2: faulthandler must not take over these signals
    "handle_sigbus": 2,
    "handle_sigfpe": 2,
    "handle_sigill": 2,  # undefined behaviour
    "check_initialization_order": 1,
    "strict_init_order": 1,
}
THREAD = {
    "halt_on_error": 0,
    "exitcode": 66,
    "die_after_fork": 0,  # else a child of a process with threads could make none
    "history_size": 4,
    "second_deadlock_stack": 1,
    "allocator_may_return_null": 1,
}
REPORT = re.compile(r"(?:ERROR|WARNING|FATAL): \w+Sanitizer: |Sanitizer: CHECK failed")

SLOWNESS = {"address": 10, "thread": 20}  # of a gradient, in times of a plain build (tests/support/slowness.py)

# Tests that a sanitizer breaks, by the reason.
LEFT_OUT = {
    "the time until signals are handled, which a sanitizer makes longer": [
        "test_pool::test_signals_are_heard_inside_long_products",
        "test_derivatives_pool::test_signals_are_heard_within_the_products_of_a_wide_layer",
        "test_faults::test_short_forms_of_the_stress_test[interrupts-10]",
        "test_signals::test_handlers_run_all_along",
    ],
    "resident memory, to which a sanitizer adds its own": [
        "test_exactness::test_memory_does_not_grow_with_the_samples",
        "test_exactness::test_memory_of_derivatives_does_not_grow_with_the_samples",
        "test_hessp::test_memory_is_bounded_and_may_be_short",
        "test_memory::test_normal_equations",
        "test_memory::test_a_network_gives_back_what_many_threads_took",
        "test_memory::test_a_file_of_another_dtype_or_order",
        "test_memory::test_calls_on_a_file_of_another_dtype",
    ],
    "a process that kills itself, which is a report here": [
        "test_fuzz::test_a_crash_is_reported_with_its_seed_and_the_rest_goes_on",
    ],
    "limits on addresses, of which a sanitizer takes terabytes": ["test_saving::test_under_a_limit_of_memory"],
    "the tools themselves, which build and time without a sanitizer": ["test_short_forms"],
}

# Modules in any folder of tests/, or tests in them.
SHORT = {
    "address": [
        *(f"test_{name}" for name in ("worked_example", "hard_inputs", "bad_input", "custom_activation")),
        "test_fuzz::test_arguments_at_random[0]",
        "test_pool::test_exit_while_a_thread_computes",
        "test_faults::test_a_call_that_looks_for_signals_when_the_interpreter_has_gone",
    ],
    "thread": [
        "test_pool::test_64_callers_at_once_and_few_threads_left",
        "test_pool::test_fork_before_after_and_nested",
        "test_pool::test_exit_while_a_thread_computes",
        "test_derivatives_pool::test_forks_and_a_crowd_of_callers[hvp]",
        "test_threads::test_the_bits_do_not_depend_on_who_calls",
    ],
}
OF_THREADS = ("pool", "threads", "derivatives_pool", "hessp", "ensemble", "faults", "float_mode")


def tests_of(kind, is_short):
    """Arguments for pytest."""
    if is_short:
        return list(map(built_copy.test_path, SHORT[kind]))
    return ["tests", "docs"] if kind == "address" else [built_copy.test_path(f"test_{name}") for name in OF_THREADS]


def library(name):
    """The path of a run-time library of the compiler."""
    compiler = shlex.split(os.environ.get("CC", "gcc"))
    try:
        path = subprocess.run(
            [*compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"needs GCC, or CC that names it: {error}") from None
    if not Path(path).is_absolute():
        raise SystemExit(f"{shlex.join(compiler)} has no {name}: GCC and its sanitizers' libraries are needed")
    return path


def settings(options, logs):
    return ":".join(f"{name}={value}" for name, value in {**options, "log_path": logs / "report"}.items())


def watched(kind, tree, simd, logs):
    """The variables of a watched process, and the words before its command."""
    variables = built_copy.environment(tree, simd)
    variables["LD_PRELOAD"] = " ".join(library(name) for name in LIBRARIES[kind])
    variables["BACKPROP_TEST_SLOWNESS"] = str(SLOWNESS[kind])
    variables["PYTHONUNBUFFERED"] = "1"  # each test is printed when it ends
    if kind == "address":
        variables["ASAN_OPTIONS"] = settings(ADDRESS, logs)
        variables["PYTHONMALLOC"] = "malloc"  # each object in a separate block, whose ends are watched
        return variables, []
    variables["TSAN_OPTIONS"] = settings({**THREAD, "suppressions": tree / SUPPRESSIONS}, logs)
    # GCC's library expects the address ranges of Linux before 6.6: no random addresses, then.
    return variables, ["setarch", "-R"] if shutil.which("setarch") else []


def reports_in(logs):
    """The reports: {summary: the texts with this summary}."""
    found = collections.defaultdict(list)
    for path in sorted(logs.iterdir()):
        text = path.read_text(errors="replace")
        starts = [match.start() for match in REPORT.finditer(text)]
        for start, end in zip(starts, [*starts, len(text)][1:], strict=True):
            report = text[text.rfind("\n", 0, start) + 1 : end]
            summary = re.search(r"^SUMMARY: (.*)$", report, re.MULTILINE)
            found[summary[1] if summary else report.splitlines()[0]].append(report)
    return found


def run(command, tree, variables):
    """Run a command in the tree: its exit status and the last line that it printed."""
    last = ""
    with subprocess.Popen(
        command, cwd=tree, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    return process.returncode, last


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=FLAGS)
    parser.add_argument("--short", action="store_true", help="a selection of the tests")
    parser.add_argument("--simd", help="the instruction set (v3, or the CPU's best if it lacks that)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make the tree here, and keep it")
    parser.add_argument(
        "--run", nargs=argparse.REMAINDER, metavar="COMMAND", help="run the rest of the line, not pytest"
    )
    parser.add_argument("--gdb", action="store_true", help="start gdb with the command, ready to run")
    arguments, tests = parser.parse_known_args()
    arguments.simd = arguments.simd or built_copy.usual_simd()
    if all(argument.startswith("-") for argument in tests):
        tests += tests_of(arguments.kind, arguments.short)
    left_out = [f"--deselect={built_copy.test_path(test)}" for some in LEFT_OUT.values() for test in some]
    one_process = ["-p", "no:xdist", "-p", "no:cacheprovider"]
    command = arguments.run or [sys.executable, "-m", "pytest", *one_process, "--all", *left_out, *tests]
    with tempfile.TemporaryDirectory() as name:
        tree = arguments.keep.resolve() if arguments.keep else Path(name, "tree")
        logs = tree / "reports"
        shutil.rmtree(logs, ignore_errors=True)
        start = time.monotonic()
        level = LEVELS["short" if arguments.short else "whole"]
        built_copy.copy(tree, {**REPLACEMENTS, '"-O3"': f'"{level}", "-fno-omit-frame-pointer"'})
        logs.mkdir()
        flags = FLAGS[arguments.kind]
        failed, output = built_copy.build(tree, arguments.simd, CFLAGS=flags, LDFLAGS=flags)
        if failed:
            raise SystemExit(f"the tree does not build:\n{output}")
        print(f"built with {flags} for {arguments.simd} in {time.monotonic() - start:.0f} s", flush=True)
        variables, before = watched(arguments.kind, tree, arguments.simd, logs)
        if arguments.gdb:
            preload = shlex.quote(f"LD_PRELOAD={variables.pop('LD_PRELOAD')}")  # not for gdb itself
            first = [f"set exec-wrapper env {preload}", "set breakpoint pending on"]
            gdb = ["gdb", *(part for setting in first for part in ("-ex", setting)), "--args", *command]
            return subprocess.run(gdb, cwd=tree, env=variables, check=False).returncode
        status, last = run([*before, *command], tree, variables)
        reports = reports_in(logs)
    for summary, texts in reports.items():
        print(f"\n{len(texts)} times: {summary}\n{texts[0][:6000]}")
    n_reports = sum(map(len, reports.values()))
    print(f"\n{arguments.kind}: {n_reports} reports, {time.monotonic() - start:.0f} s; status {status}: {last}")
    return int(bool(n_reports or status))


if __name__ == "__main__":
    sys.exit(main())

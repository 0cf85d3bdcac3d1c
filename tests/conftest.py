"""The two suites, and how their tests are spread over processes.

`pytest` runs the short suite, `pytest --all` also the tests marked `long`. Two workers of pytest-xdist share the tests;
those marked `alone` run at the end, when nothing else does. See "Test and lint" in CONTRIBUTING.md.
"""

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # BLAS's threads of two workers would wait for each other, busily
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

N_WORKERS = 2
# Files that take long start first, so that none runs at the end beside an idle worker.
FIRST_FILES = [
    "test_short_forms",
    "test_faults",
    "test_state_machine",
    "test_examples",
    "test_derivatives",
    "test_threads",
    "test_bits",
    "test_c_api",
    "test_fuzz",
    "test_handed_out",
    "test_cli",
    "test_memory",
    "test_recipes",
    "test_saving",
    "test_exactness",
    "test_after_import",
    "test_checking_kinks",
    "test_hessp",
    "test_written_meanwhile",
    "test_any_size",
]
N_LEFT_OUT = pytest.StashKey()
ALONE_FILE = pytest.StashKey()


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="also run the tests that are marked as long")


def pytest_configure(config):
    config.stash[N_LEFT_OUT] = 0
    config.addinivalue_line("markers", "long(reason): takes long, and tells little that other tests do not: for --all")
    config.addinivalue_line("markers", "alone: must not share the CPUs: threads, forks, signals or time are tested")


def pytest_report_header(config):
    return "suite: all tests" if config.option.all else "suite: short; the long tests are run by --all"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if not config.option.all and not any("::" in argument for argument in config.args):
        long = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if not item.get_closest_marker("long")]
        if long:
            config.hook.pytest_deselected(items=long)
        config.stash[N_LEFT_OUT] = len(long)
    alone = [item for item in items if item.get_closest_marker("alone")]
    items[:] = [item for item in items if not item.get_closest_marker("alone")] + alone
    if is_worker(config):
        config.workeroutput["n_left_out"] = config.stash[N_LEFT_OUT]
        Path(config.workerinput["alone_file"]).write_text("\n".join(item.nodeid for item in alone), encoding="utf-8")


def pytest_terminal_summary(terminalreporter, config):
    if config.stash[N_LEFT_OUT]:
        terminalreporter.write_line(
            f"{config.stash[N_LEFT_OUT]} long tests are left out; `pytest --all` runs them too."
        )


# Workers --------------------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Use two workers for whole folders, unless the command line says how many."""
    options = config.option
    if is_worker(config) or not config.pluginmanager.hasplugin("xdist"):
        return
    watched = options.usepdb or options.trace or options.capture == "no" or options.collectonly
    if options.numprocesses is None and options.dist == "no" and not watched and has_folders(config):
        options.numprocesses = N_WORKERS if count_cpus() > 1 else 0


def is_worker(config):
    return hasattr(config, "workerinput")


def has_folders(config):
    return any(Path(argument.split("::")[0]).is_dir() for argument in config.args)


def count_cpus():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from alone_last import AloneLast

    return AloneLast(config, log, FIRST_FILES, alone_file(config))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["alone_file"] = str(alone_file(node.config))


def alone_file(config):
    """The file in which the workers list the tests that run alone: xdist sends the controller only names."""
    if ALONE_FILE not in config.stash:
        folder = tempfile.TemporaryDirectory()
        config.add_cleanup(folder.cleanup)
        config.stash[ALONE_FILE] = Path(folder.name) / "alone"
    return config.stash[ALONE_FILE]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Take over the number of tests that a worker left out; it is the same for all workers."""
    n_left_out = getattr(node, "workeroutput", {}).get("n_left_out", 0)
    if n_left_out and not node.config.stash[N_LEFT_OUT]:
        node.config.stash[N_LEFT_OUT] = n_left_out
        node.config.hook.pytest_deselected(items=[SimpleNamespace()] * n_left_out)

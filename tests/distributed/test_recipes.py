"""The programs of the page "More than one machine": all of them run, and print the fingerprint of one plain call."""

import itertools
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib

import pytest
from places import ROOT
from ranks import OPEN_MPI, mpiexec, run_on_ranks
from required_peers import require_peer

if not (ROOT / "docs").is_dir():
    pytest.skip("docs/ is in the repository alone", allow_module_level=True)
PAGE = (ROOT / "docs" / "machines.rst").read_text(encoding="utf-8")
BLOCKS = [  # language, file name, text
    (language, name, re.sub("^   ", "", text, flags=re.MULTILINE).strip() + "\n")
    for language, name, text in re.findall(
        r"^\.\. code-block:: (\w+)\n(?:   :caption: (\S+)\n)?((?:\n|   .*\n)+)", PAGE, re.MULTILINE
    )
]
PROGRAMS = {name: text for _, name, text in BLOCKS if name}
ROWS = "N_ROWS = 200_000\n"  # in model.py
COMMANDS = [line for language, name, text in BLOCKS if language == "bash" and not name for line in text.splitlines()]
FAILURES = {  # the command, and what it prints
    command.strip(): printed
    for (_, _, command), (language, _, printed) in itertools.pairwise(BLOCKS)
    if language == "text"
}
RUNS = [command for command in COMMANDS if not command.startswith("pip ") and command not in FAILURES]
LIMIT = 120  # seconds; each takes a few


PLAIN = """
from scipy.optimize import minimize

import model

net = model.make_network()
x, y = model.read(slice(None))
fun = net.objective(x, y)
print(model.fingerprint(*fun(net.params)))
start = net.params.copy()
net.fit(x, y, max_iter=20)
print(model.fingerprint(*fun(net.params)))
net.params = start
net.params = minimize(fun, net.params, jac=True, method="L-BFGS-B", options={"maxiter": 20}).x
print(model.fingerprint(*fun(net.params)))
"""


ONE_UNIT = pytest.param(300, marks=pytest.mark.long("the programs again, on one unit"))


@pytest.fixture(scope="module", params=[200_000, ONE_UNIT], ids=lambda n: f"{n} rows")
def folder(request, tmp_path_factory):
    """A folder with all programs, and the data that `model.py` writes; 300 rows are one unit."""
    folder = tmp_path_factory.mktemp("machines")
    assert ROWS in PROGRAMS["model.py"]
    for name, text in PROGRAMS.items():
        (folder / name).write_text(text.replace(ROWS, f"N_ROWS = {request.param}\n"))
    run(folder, "model.py")
    return folder


@pytest.fixture(scope="module")
def plain(folder):
    """The lines of one process without MPI: the fingerprints of the plain call, after `fit`, and after `minimize`."""
    (folder / "plain.py").write_text(PLAIN)
    return run(folder, "plain.py")


def run(folder, *command, launcher=sys.executable, env=None):
    """The lines that `python command...` prints in the folder."""
    done = subprocess.run(
        [launcher, *command],
        cwd=folder,
        env=os.environ | {"BACKPROP_NUM_THREADS": "1"} | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def require_what_is_imported(program):
    for name in ("dask", "joblib"):
        if re.search(rf"^from {name}\b", PROGRAMS[program], re.MULTILINE):
            require_peer(name if name == "joblib" else "distributed")


def test_every_block_of_the_page_is_run():
    assert {language for language, _, _ in BLOCKS} == {"python", "bash", "text"}
    assert len(PAGE.split(".. code-block::")) == len(BLOCKS) + 1
    assert all(name for language, name, _ in BLOCKS if language == "python")
    words = {word for command in [*RUNS, *FAILURES] for word in command.split()}
    assert set(PROGRAMS) - words == {"job.sh"}


@pytest.mark.parametrize("command", RUNS)
def test_commands_print_the_fingerprints_of_one_process(folder, plain, command):
    launcher, *words = command.split()
    if launcher == "mpiexec":
        done = run_mpiexec(folder, words)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
    else:
        assert launcher == "python"
        require_what_is_imported(words[0])
        lines = run(folder, *words)
    programs = " ".join(PROGRAMS.get(word, "") for word in words)
    fits = plain[1:2] * ("net.fit" in programs) + plain[2:] * ("minimize" in programs)
    expected = [lines[1]] * 2 if words[0] == "weighted.py" else plain[:1] + fits
    assert lines == expected
    assert all(re.fullmatch(r"[0-9a-f]{64}", line) for line in lines)


def run_mpiexec(folder, words):
    """Run `mpiexec -n k python ...`, whose words come after `mpiexec`."""
    n_ranks = int(words[words.index("-n") + 1])
    return run_on_ranks(n_ranks, *words[words.index("python") + 1 :], cwd=folder)


@pytest.mark.parametrize("command", FAILURES)
def test_what_ranks_print_if_one_fails(folder, command):
    done = run_mpiexec(folder, command.split()[1:])
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == FAILURES[command].splitlines()


def test_the_job_of_slurm(folder, plain, tmp_path):
    """The lines for Slurm are comments to the shell, and `srun` is `mpiexec` here."""
    options = dict(re.findall(r"^#SBATCH --(\S+)=(\S+)$", PROGRAMS["job.sh"], re.MULTILINE))
    n_ranks = int(options["nodes"]) * int(options["ntasks-per-node"])
    skip_options = 'while [ "${1#--}" != "$1" ]; do shift; done'
    put_program(tmp_path / "srun", f'{skip_options}\nexec {mpiexec()} -n {n_ranks} "$@"')
    put_program(tmp_path / "python", f'exec {sys.executable} "$@"')
    path = f"{tmp_path}:{os.environ['PATH']}"
    lines = run(
        folder,
        "job.sh",
        launcher="bash",
        env={"PATH": path, "SLURM_CPUS_PER_TASK": options["cpus-per-task"], **OPEN_MPI},
    )
    assert lines == plain[:2]


def put_program(path, line):
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    assert shutil.which(path.name, path=str(path.parent))


DASK = """
import functools
import os
import pathlib
import signal

from dask.distributed import Client, LocalCluster

import backprop
import model
import weighted
from with_dask import total


def die_once(rows, theta, start, marker):
    if rows.start == start and not pathlib.Path(marker).exists():
        pathlib.Path(marker).write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
    return model.sums_of(rows, theta)


if __name__ == "__main__":
    net = model.make_network()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        for n in (1, 5, 20):
            blocks = backprop.row_blocks(net, model.N_ROWS, n)
            print(model.fingerprint(*total(client, model.sums_of, blocks, net.params).result()))
        before = set(client.run(os.getpid).values())
        ninth_from_the_end = [rows for rows in blocks if rows.stop > rows.start][-9:][0]  # the only one of 300 rows
        dying = functools.partial(die_once, start=ninth_from_the_end.start, marker="marker")
        print(model.fingerprint(*total(client, dying, blocks, net.params).result()))
        assert int(pathlib.Path("marker").read_text()) in before
        weights = weighted.make_weights()
        for n in (1, 5, 20):
            blocks = backprop.row_blocks(net, model.N_ROWS, n, sample_weight=weights)
            sums_of = functools.partial(weighted.sums_of, totals=backprop.weight_totals(weights, blocks))
            print(model.fingerprint(*total(client, sums_of, blocks, net.params).result()))
"""

OTHERS = """
import concurrent.futures
import functools
import inspect

import backprop
import model
import weighted
from {module} import total

if __name__ == "__main__":
    net, weights = model.make_network(), weighted.make_weights()
    with concurrent.futures.ProcessPoolExecutor(2) as executor:
        if "executor" in inspect.signature(total).parameters:
            total = functools.partial(total, executor)
        for n in (1, 5, 20):
            blocks = backprop.row_blocks(net, model.N_ROWS, n)
            print(model.fingerprint(*total(model.sums_of, blocks, net.params).result()))
        for n in (1, 5, 20):
            blocks = backprop.row_blocks(net, model.N_ROWS, n, sample_weight=weights)
            sums_of = functools.partial(weighted.sums_of, totals=backprop.weight_totals(weights, blocks))
            print(model.fingerprint(*total(sums_of, blocks, net.params).result()))
"""


def test_dask_with_1_5_and_20_blocks_with_weights_and_with_a_worker_killed(folder, plain):
    require_peer("distributed")
    (folder / "try_dask.py").write_text(DASK)
    lines = run(folder, "try_dask.py", env={"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "2s"})
    assert lines[:4] == [plain[0]] * 4
    assert lines[4:] == [run(folder, "weighted.py")[1]] * 3


@pytest.mark.parametrize("module", ["with_joblib", "with_processes"])
def test_other_engines_with_1_5_and_20_blocks_and_with_weights(folder, plain, module):
    require_what_is_imported(f"{module}.py")
    (folder / f"try_{module}.py").write_text(OTHERS.format(module=module))
    lines = run(folder, f"try_{module}.py")
    assert lines == [plain[0]] * 3 + [run(folder, "weighted.py")[1]] * 3


def test_the_extra_is_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (install,) = [command for command in COMMANDS if command.startswith("pip ")]
    assert install == "pip install '.[mpi]' mpich"
    assert any(requirement.startswith("mpi4py") for requirement in extras["mpi"])

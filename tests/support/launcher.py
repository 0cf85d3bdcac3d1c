"""The `mpiexec` that starts ranks, and what it needs to start them as root and on few CPUs.

The MPI of the environment comes first: `pip install mpi4py mpich` puts an `mpiexec` beside `python`. Another one is
taken from PATH.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

# Open MPI refuses root and more ranks than cores unless these are set; MPICH does not read them.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # from version 5 on
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
}


def find_mpiexec():
    """The path of `mpiexec`, or None."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec")


def what_is_missing():
    """What ranks need and is not installed, with the cure; empty if nothing is missing."""
    if importlib.util.find_spec("mpi4py") is None:
        return "mpi4py is missing: pip install mpi4py mpich"
    return "" if find_mpiexec() else "mpiexec is missing: pip install mpich"

"""Where things are in the repository."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SUPPORT = Path(__file__).resolve().parent


def use_folder(name):
    """Let a test import the programs of tools/ or benchmarks/; skip its module in a tree that lacks the folder."""
    folder = ROOT / name
    if not folder.is_dir():
        import pytest

        pytest.skip(f"{name}/ is in the repository alone", allow_module_level=True)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

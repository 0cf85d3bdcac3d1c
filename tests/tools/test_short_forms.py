"""Every program in tools/ and benchmarks/ runs in its short form, which does the real thing on little: `--short`."""

import ast
import os
import re
import subprocess
import sys

import pytest
from places import ROOT

FOLDERS = [ROOT / "tools", ROOT / "benchmarks"]
if not all(folder.is_dir() for folder in FOLDERS):
    pytest.skip("tools/ and benchmarks/ are in the repository alone", allow_module_level=True)

PROGRAMS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in folder.rglob("*.py")
    if re.search(r"^if __name__ == .__main__.:$", path.read_text(encoding="utf-8"), re.MULTILINE)
)
ELSEWHERE = {  # programs that run in another way, with the file that runs them and how it does
    "tools/builds/sanitize.py": (".ci/run", r"sanitize\.py address --short[^$]*sanitize\.py thread --short"),
    "benchmarks/worker.py": ("benchmarks/run.py", r'"worker\.py"'),
}
LIMIT = 300  # seconds, on a slow and busy machine: each takes a few

pytestmark = pytest.mark.long("runs the tools and benchmarks, most of which no other test needs")


def test_programs_are_found():
    assert {"tools/fuzz/fuzz.py", "benchmarks/run.py", *ELSEWHERE} <= set(PROGRAMS)
    assert len(PROGRAMS) >= 20


@pytest.mark.parametrize("program", [program for program in PROGRAMS if program not in ELSEWHERE])
def test_short_form(program):
    usage = ast.get_docstring(ast.parse((ROOT / program).read_text(encoding="utf-8"))) or ""
    assert f"python {program} --short" in usage, "its docstring says how to run its short form"
    done = subprocess.run(
        [sys.executable, program, "--short"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    print(done.stdout)
    assert done.returncode == 0, f"python {program} --short ended with {done.returncode}:\n{done.stdout[-3000:]}"
    assert done.stdout.strip(), "it says what it did, and what it left out"


@pytest.mark.parametrize("program", ELSEWHERE)
def test_the_others_are_run_elsewhere(program):
    file, command = ELSEWHERE[program]
    if not (ROOT / file).exists():
        pytest.skip(f"{file} is in the repository alone")
    assert re.search(command, (ROOT / file).read_text(encoding="utf-8"))

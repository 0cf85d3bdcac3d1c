"""Holds the peers to AVX2 by the libraries' own switches, and finds out what each library really uses.

A CPU with AVX-512 can show what users of an AVX2 CPU get only if the peers do without AVX-512, as our v3 kernels do.
The switches are variables of the environment, read when a library is loaded. So `report` runs in a process of its own,
with the environment of the timing process.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import peers

# YNNPACK, which XLA uses for products, asks the CPU alone what it has, and takes AVX-512 whatever the flags say. So it
# is switched off. XLA then takes its own code, which xla_cpu_max_isa holds, and oneDNN.
XLA_FLAGS = "--xla_cpu_max_isa=AVX2 --xla_cpu_experimental_ynn_fusion_type="
SWITCHES = {
    "OPENBLAS_CORETYPE": "Haswell",  # of NumPy, SciPy and scikit-learn
    "ATEN_CPU_CAPABILITY": "avx2",  # of PyTorch's own loops, and of torch.compile
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # of PyTorch and JAX
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",  # of PyTorch
}
BEYOND_AVX2 = re.compile(r"AVX512|AVX-512|AVX10|AMX|X86_V4")
SIMD = "v3"  # our kernels that peers held to AVX2 are compared with


def cpu_has_more():
    """Whether this CPU has AVX-512, as NumPy sees it. If not, there is nothing to hold."""
    from numpy._core._multiarray_umath import __cpu_features__

    return bool(__cpu_features__.get("AVX512F")) or bool(os.environ.get("NPY_DISABLE_CPU_FEATURES"))


def numpy_features():
    """The features beyond AVX2 for which NumPy has loops, and that this CPU has: other names make NumPy warn."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    disabled = re.split(r"[\s,]+", os.environ.get("NPY_DISABLE_CPU_FEATURES", "").strip())
    return [
        name for name in __cpu_dispatch__ if BEYOND_AVX2.search(name) if __cpu_features__.get(name) or name in disabled
    ]


def environment(environ):
    """The variables that hold the peers to AVX2, beside those of `environ`."""
    held = dict(SWITCHES)
    features = numpy_features()
    if features:
        held["NPY_DISABLE_CPU_FEATURES"] = " ".join(features)
    held["XLA_FLAGS"] = f"{environ.get('XLA_FLAGS', '')} {XLA_FLAGS}".strip()
    return held


# In a process of its own ---------------------------------------------------------------------------------------------


def report(names):
    """Print what each of these libraries uses, as a line of JSON; the output of their verbose modes comes before it."""
    found = {"NumPy": _numpy_uses(), "OpenBLAS": _openblas_uses()}
    libraries = {peers.MODULES.get(name, "").partition(".")[0] for name in names}
    if "torch" in libraries:
        found["PyTorch"] = _torch_uses()
    if {"jax", "optax", "folx"} & libraries:
        found["JAX"] = _jax_uses()
    print(json.dumps(found), flush=True)


def _numpy_uses():
    from numpy._core._multiarray_umath import __cpu_baseline__, __cpu_dispatch__, __cpu_features__

    return [name for name in [*__cpu_baseline__, *__cpu_dispatch__] if __cpu_features__.get(name)][-1]


def _openblas_uses():
    import scipy.linalg.blas  # noqa: F401  it brings a library of its own
    from threadpoolctl import threadpool_info

    cores = {lib["architecture"] for lib in threadpool_info() if lib["internal_api"] == "openblas"}
    return ", ".join(sorted(cores)) or "not loaded"


def _torch_uses():
    try:
        import torch
    except ImportError:
        return "missing"
    a = torch.ones(64, 64)
    torch.nn.functional.gelu(a @ a)  # MKL and oneDNN name their instruction sets at their first call
    return torch.backends.cpu.get_cpu_capability()


def _jax_uses():
    try:
        import jax
        import jax.numpy as jnp
    except ImportError:
        return "missing"
    a = jnp.ones((256, 256), jnp.float32)
    print("JAX begins", flush=True)  # what oneDNN says from here on is JAX's
    function = jax.jit(lambda a: jnp.tanh(a @ a))
    text = function.lower(a).compile().as_text()
    function(a).block_until_ready()
    return "YNNPACK" if "ynn_fusion" in text else "without YNNPACK"


# In the process that asks for it -------------------------------------------------------------------------------------


def ask(names, environ):
    """What the libraries use with this environment: a dictionary of text, or a RuntimeError."""
    verbose = {
        "MKL_VERBOSE": "1",
        "ONEDNN_VERBOSE": "1",
        "TF_CPP_MIN_LOG_LEVEL": "0",
        "TF_CPP_VMODULE": "cpu_compiler=1",
    }
    done = subprocess.run(
        [sys.executable, "-c", f"import held; held.report({list(names)!r})"],
        cwd=Path(__file__).parent,
        env=environ | verbose,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    found = [line for line in lines if line.startswith('{"NumPy"')]
    if done.returncode or not found:
        raise RuntimeError("; ".join(lines[-3:]) or f"status {done.returncode}")
    uses, begins = json.loads(found[-1]), lines.index("JAX begins") if "JAX begins" in lines else len(lines)
    if uses.get("PyTorch", "missing") != "missing":
        uses["PyTorch"] += _verbose(lines[:begins])
    if uses.get("JAX", "missing") != "missing":
        limits = re.findall(r"Will not use features newer than: (\w+)", done.stdout)
        uses["JAX"] = f"XLA {limits[-1] if limits else 'free'}, {uses['JAX']}" + _verbose(lines[begins:])
    return uses


def _verbose(lines):
    """What MKL and oneDNN said."""
    parts = []
    for name, pattern in (
        ("MKL", r"MKL_VERBOSE oneMKL .*? for (.*?), Lnx"),
        ("oneDNN", r"onednn_verbose.*,cpu,isa:(.*)"),
    ):
        said = [match[1] for match in (re.match(pattern, line) for line in lines) if match]
        if said:
            text = re.sub(r"Intel\(R\) 64 architecture |Intel\(R\) |Intel | enabled processors.*| with .*", "", said[0])
            parts.append(f"{name} {text.replace('Architecture processors', 'for any CPU')}")
    return "".join(f", {part}" for part in parts)


def complaints(uses):
    """What shows that a switch did not act: a list of sentences, empty if all peers are held to AVX2."""
    wrong = []
    for name, text in uses.items():
        other_core = name == "OpenBLAS" and text not in (SWITCHES["OPENBLAS_CORETYPE"], "not loaded")
        if other_core or BEYOND_AVX2.search(text) or re.search(r"XLA free|, YNNPACK", text):
            wrong.append(f"{name} is not held to AVX2: it uses {text}")
    return wrong

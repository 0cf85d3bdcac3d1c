"""The benchmarks' own rules: who is held to AVX2, what a cell is judged by, and the tables of the page."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from places import ROOT, use_folder

use_folder("benchmarks")

import bandwidth  # noqa: E402
import derivatives  # noqa: E402
import held  # noqa: E402
import machine  # noqa: E402
import machines  # noqa: E402
import pool  # noqa: E402
import products  # noqa: E402
import rank_model  # noqa: E402
import report  # noqa: E402
import run  # noqa: E402
import same_bits  # noqa: E402
import tables  # noqa: E402
import training  # noqa: E402
import training_bits  # noqa: E402
import worker  # noqa: E402
from cases import Case  # noqa: E402

from backprop import _core  # noqa: E402

# held -----------------------------------------------------------------------------------------------------------------


def test_peers_that_are_held_are_told_from_others():
    uses = {"NumPy": "X86_V3", "OpenBLAS": "Haswell", "PyTorch": "AVX2, MKL for any CPU, oneDNN AVX2"}
    uses["JAX"] = "XLA AVX2, without YNNPACK, oneDNN AVX2"
    assert held.complaints(uses | {"PyTorch": "missing"}) == held.complaints(uses) == []
    for name, text in (
        ("NumPy", "AVX512_ICL"),
        ("NumPy", "X86_V4"),
        ("OpenBLAS", "SkylakeX"),
        ("OpenBLAS", "Haswell, Zen"),  # SciPy brings a library of its own
        ("PyTorch", "AVX512, MKL for any CPU, oneDNN AVX2"),
        ("PyTorch", "AVX2, MKL for any CPU, oneDNN AVX-512"),
        ("JAX", "XLA free, without YNNPACK, oneDNN AVX2"),
        ("JAX", "XLA AVX2, YNNPACK"),
    ):
        (complaint,) = held.complaints(uses | {name: text})
        assert complaint == f"{name} is not held to AVX2: it uses {text}"


def test_the_switches_hold_numpy_and_its_blas_without_a_warning():
    environ = os.environ | held.environment(os.environ)
    code = "import held, json; print(json.dumps([held._numpy_uses(), held._openblas_uses()]))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT / "benchmarks",
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    uses, core = json.loads(done.stdout)
    assert not held.BEYOND_AVX2.search(uses)
    assert machine.platform.machine() != "x86_64" or core in ("Haswell", "not loaded", "Zen")


def test_flags_of_xla_are_kept():
    environ = machine.thread_environment(1)
    flags = held.environment(environ)["XLA_FLAGS"]
    assert "--xla_cpu_multi_thread_eigen=false" in flags
    assert "--xla_cpu_max_isa=AVX2" in flags


def test_a_switch_that_did_not_act_is_an_error(monkeypatch):
    monkeypatch.setattr(held, "cpu_has_more", lambda: True)
    monkeypatch.setattr(held, "ask", lambda *_: {"NumPy": "AVX512_ICL"})
    options = run.arguments(["--short", "--peers", "numpy"])
    session = run.Run(options, None)
    monkeypatch.setattr(session, "_worker", lambda *_: pytest.fail("it times peers that are not held"))
    session.time(("v3", True))
    assert session.failures == ["v3, peers held to AVX2: NumPy is not held to AVX2: it uses AVX512_ICL"]


@pytest.mark.parametrize(
    ("against", "expected"),
    [("held", [True]), ("free", [False]), ("both", [True, False])],
)
def test_settings_of_v3(monkeypatch, against, expected):
    monkeypatch.setattr(_core, "supported_simd", lambda: ["v2", "v3", "v4"])
    monkeypatch.setattr(held, "cpu_has_more", lambda: True)
    options = run.arguments(["--simd", "v3,v4", "--against", against])
    assert options.settings == [("v3", is_held) for is_held in expected] + [("v4", False)]
    monkeypatch.setattr(held, "cpu_has_more", lambda: False)
    assert run.arguments(["--simd", "v3", "--against", against]).settings == [("v3", False)]


# What a cell is judged by ---------------------------------------------------------------------------------------------


def cell(least_ours, least_peer, median_ratio=1.0):
    """A cell of 14.08 MFLOP without an elementary function."""
    return {
        "case": "cls-100-200-26@128",
        "peak": 75.0,
        "peak_best": 100.0,
        "seconds": {"ours": 2 * least_ours},
        "least": {"ours": least_ours, "numpy": least_peer, "jax": 10 * least_peer},
        "ratios": {"numpy": median_ratio, "jax": 10 * median_ratio},
    }


def test_a_cell_is_judged_by_least_times():
    flops = 2 * 128 * (3 * 25200 - 20000)
    at_90, at_80 = 1e-9 * flops / 90, 1e-9 * flops / 80
    for least_ours, ratio, met in ((at_90, 1.1, True), (at_90, 0.99, False), (at_80, 1.9, False), (at_80, 2.1, True)):
        done = report.complete(cell(least_ours, ratio * least_ours, median_ratio=0.5))
        assert done["met"] is met
        assert done["least_ratio"] == pytest.approx(ratio)
        assert (done["ratio"], done["best_peer"], done["least_best_peer"]) == (0.5, "numpy", "numpy")
    assert done["of_peak_least"] == pytest.approx(80)  # of the highest peak
    assert done["of_peak"] == pytest.approx(40 * 100 / 75)


def test_targets_of_products():
    assert [products.target(n, n) for n in (16, 31, 32, 127, 128, 2000)] == [0, 0, 75, 75, 85, 85]
    assert products.target(200, 26) == 0


def input_cell(least_ours, least_peer):
    """A cell of a Laplacian with a peak of 100 GFLOP/s, and a write that takes no time."""
    seconds = {"ours": least_ours, "jax": least_peer, "numpy": 10 * least_peer, "fill": 0.0}
    ratios = {name: value / least_ours for name, value in seconds.items() if name != "ours"}
    cell = {"case": "laplacian 2-64-64-64-1@100", "dtype": "float64", "peak": 100.0, "peak_best": 100.0}
    return cell | {"seconds": seconds, "least": dict(seconds), "ratios": ratios, "first": {"jax": 1.5}}


def test_second_derivatives_by_inputs_are_judged_by_their_limit():
    inner = 2 * 64 * 64
    flops = 2 * 100 * ((128 + inner + 64) + 2 * inner + (inner + 64))  # a; two tangents of a_2 and a_3; the sum
    at_61, at_59 = 1e-9 * flops / 61, 1e-9 * flops / 59
    for least_ours, ratio, met in ((at_61, 1.1, True), (at_61, 0.99, False), (at_59, 2.9, False), (at_59, 3.1, True)):
        done = derivatives.complete(input_cell(least_ours, ratio * least_ours))
        assert done["flops"] == flops
        assert done["met"] is met
        assert done["least_best_peer"] == "jax"


def test_second_derivatives_by_inputs_have_a_block_of_their_own():
    made_up = tables.made_up()["derivatives"]
    found = tables.by_family({"derivatives": made_up})
    calls = {kind: [cell["case"].split()[0] for cell in results["cells"]] for kind, results in found.items()}
    assert calls == {"derivatives": ["per_sample_gradients"], "input_derivatives": ["pde_value_and_grad"]}
    alone = tables.by_family({"derivatives": made_up | {"cells": made_up["cells"][1:]}})
    assert list(alone) == ["input_derivatives"]  # a run of these alone leaves the other block as it is
    text = tables.input_derivatives_block(alone["input_derivatives"])
    assert "| first call, seconds | network | JAX |" in text
    assert "| pde_value_and_grad | 10-128-128-1@10000 | 1.5 |" in text


def fit_cell(case, **seconds):
    """A cell of a fit whose least times are these."""
    ratios = {name: value / seconds["ours"] for name, value in seconds.items() if name != "ours"}
    return {"case": case, "least": dict(seconds), "seconds": seconds, "ratios": ratios, "iterations": {"ours": 10}}


def test_a_fit_is_judged_by_least_times():
    case = "adam 1-16-16-1@32"
    good = {"ours": 1.0, "optax": 1.1, "sklearn": 41.0, "epochs": 0.9, "frozen": 0.8}
    done = training.complete(fit_cell(case, **good))
    assert (done["met"], done["missed"], done["least_best_peer"]) == (True, [], "optax")
    assert done["own"] == pytest.approx(12.5)
    assert done["around"] == pytest.approx(1e4)
    for change, missed in (
        ({"optax": 0.9}, ["behind"]),
        ({"sklearn": 39.0}, ["sklearn"]),
        ({"frozen": 0.75}, ["own"]),
        ({"optax": 0.9, "sklearn": 1.0, "frozen": 0.5}, ["behind", "sklearn", "own"]),
    ):
        done = training.complete(fit_cell(case, **(good | change)))
        assert (done["met"], done["missed"]) == (False, missed)
    lbfgs = "lbfgs 4-16-16-2@256 to 0.001"
    for gradients, missed in ((0.8, []), (0.7, ["gradients"])):
        assert training.complete(fit_cell(lbfgs, ours=1.0, scipy=2.0, gradients=gradients))["missed"] == missed


def test_a_fit_that_differs_is_not_timed():
    losses = np.array([0.3, 0.2, 0.1])
    assert worker.difference_of_losses(losses * (1 + 1e-12), losses) == pytest.approx(1e-12, rel=1e-3)
    for other in (losses[:2], np.append(losses[:2], np.nan), losses * np.inf):
        assert worker.difference_of_losses(other, losses) == np.inf
    assert worker.difference_at_start([0.3, 0.104], losses, 0.1) < 1e-15
    assert worker.difference_at_start([0.3, 0.106], losses, 0.1) == np.inf
    assert worker.difference_at_start([0.33, 0.1], losses, 0.1) == pytest.approx(0.1)


# Machine and memory ---------------------------------------------------------------------------------------------------


def test_caches_in_words():
    found = [
        {"level": 1, "bytes": 32 << 10, "ways": 8, "cpus": 1},
        {"level": 2, "bytes": 1280 << 10, "ways": None, "cpus": None},
        {"level": 3, "bytes": 32 << 20, "ways": 16, "cpus": 8},
    ]
    assert machine.caches_text(found) == "L1d 32 KiB, 8-way; L2 1.25 MiB; L3 32 MiB, 16-way, shared by 8 CPUs"
    assert machine.caches_text([]) == "unknown"
    assert [machine._count(text) for text in ("0-3,8", "0", "")] == [5, 1, None]
    for cache in machine.caches():
        assert cache["bytes"] >= 1024
        assert cache["level"] in (1, 2, 3, 4)


def test_the_bound_of_two_threads():
    measured = ((1, "read", 50, 100), (1, "write", 50, 90), (64, "read", 10, 16), (64, "write", 10, 14))
    rows = [
        {"megabytes": size, "direction": direction, "rates": {"1": one, "2": two}}
        for size, direction, one, two in measured
    ]
    limits = pool.Limits.__new__(pool.Limits)
    limits.bandwidth, limits.fma, limits.rates, limits.private = bandwidth, 2.0, rows, 1 << 20
    small, wide = Case("small", (10, 10), 10, "relu"), Case("wide", (2000, 2000, 2000), 512, "relu")
    assert limits.of(small, 1e-5) == (0.0, 2.0)
    _, moved = pool.least_traffic(wide)
    assert moved == 4 * (2 * 8_000_000 - 4_000_000 + 8_000_000 + 512 * 4000)  # W twice, but the first; the gradient
    seconds = moved / 10e9
    assert limits.of(wide, seconds) == pytest.approx((1.0, 1.4))  # all of the time is memory: as that scales
    assert limits.of(wide, 2 * seconds) == pytest.approx((0.5, 1 / (0.5 / 2 + 0.5 / 1.4)))


# Machines -------------------------------------------------------------------------------------------------------------


def test_the_model_is_the_line_of_two_ranks():
    n_bytes = np.array([28_000, 250_000, 2_500_000])
    latency, bandwidth, error = rank_model.fit_line(n_bytes, 30e-6 + n_bytes / 2e9)
    assert (latency, bandwidth) == (pytest.approx(30e-6), pytest.approx(2e9))
    assert error < 1e-9
    facts = {"unit_rows": 1000, "row_seconds": 1e-6, "n_bytes": 10**6, "latency": latency, "bandwidth": bandwidth}
    seconds = {p: rank_model.seconds_of(p, 9500, **facts) for p in (1, 2, 3, 4, 10, 4096)}
    assert seconds[1] == pytest.approx(9500e-6)
    assert seconds[2] == pytest.approx(5000e-6 + 30e-6 + 500e-6)
    assert seconds[3] == pytest.approx(4000e-6 + 2 * 30e-6 + 2 / 3 * 1000e-6)
    assert seconds[4] == pytest.approx(3000e-6 + 2 * 30e-6 + 3 / 4 * 1000e-6)
    assert seconds[10] == pytest.approx(1000e-6 + 4 * 30e-6 + 9 / 10 * 1000e-6)
    assert seconds[4096] > 1000e-6 + 12 * 30e-6  # ten units are work for ten ranks


def test_a_line_that_noise_turns_down_has_no_latency():
    latency, bandwidth, error = rank_model.fit_line([1000, 10_000], [1e-6, 100e-6])
    assert latency == 0.0
    assert bandwidth > 0
    assert error > 0.5


def test_ways_with_other_bits_are_found():
    net, x, y = same_bits.make(300, "float32")
    ways = {"plain": same_bits.with_threads(net, x, y, 1), "blocks": same_bits.streamed(net, x, y, 77)}
    sha = same_bits.expect_one(net, ways)
    assert same_bits.expect_one(net, ways, sha) == sha
    y_near = y.copy()
    y_near[7] = np.nextafter(y[7], np.float32(2))
    ways["other"] = same_bits.with_threads(net, x, y_near, 1)
    with pytest.raises(same_bits.DifferentBitsError, match=r"^float32, other: the SHA-256 is [0-9a-f]{64}, not "):
        same_bits.expect_one(net, ways)
    del ways["other"]
    with pytest.raises(same_bits.DifferentBitsError, match="float32, plain"):
        same_bits.expect_one(net, ways, 64 * "0")


def test_fits_with_other_bits_are_found(monkeypatch):
    monkeypatch.setattr(training_bits, "_ways", lambda *_: {"1 threads": "a", "2 threads": "b"})
    with pytest.raises(training_bits.DifferentBitsError, match=r"^float32 lbfgs, 2 threads: the SHA-256 is b, not a$"):
        training_bits.compare()
    monkeypatch.setattr(training_bits, "_ways", lambda *_: {"1 threads": "a"})
    monkeypatch.setattr(_core, "supported_simd", lambda: ["v2", "another"])
    ended = subprocess.CompletedProcess([], 0, stdout="{}")
    monkeypatch.setattr(training_bits.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(training_bits.DifferentBitsError, match=r"^another has \{\}, .* has \{'float32 lbfgs': 'a'"):
        training_bits.compare()


def test_different_bits_end_the_benchmark_before_it_times(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["machines.py", "--short"])
    monkeypatch.setattr(machines, "what_is_missing", lambda: "")
    monkeypatch.setattr(machines, "on_ranks", lambda *_: {"float32 50000": "another"})
    monkeypatch.setattr(machines, "measure_parts", lambda *_: pytest.fail("it times ways that differ"))
    assert machines.main() == 1
    assert "ERROR 1 ranks have {'float32 50000': 'another'}, one process has" in capsys.readouterr().out


def test_machines_misses_are_marked():
    found = machines.made_up()
    assert "1.91 (" not in str(machines.scaling_rows(found["scaling"]))
    (row,) = machines.scaling_rows(found["scaling"])[1:]
    assert row[6:8] == ["2.09 (2.00)", "2.09 (2.00)"]
    found["scaling"][0]["seconds"]["2 ranks"] = [0.6, 0.6]
    assert machines.scaling_rows(found["scaling"])[1][7] == "1.83 (1.67)*"
    assert machines.reduction_rows(found["reduction"])[2][4] == "1,000"
    found["reduction"]["counts"][1]["seconds"]["ours"] = [3.1e-3]
    assert machines.reduction_rows(found["reduction"])[2][4] == "3,100*"


def test_machines_without_mpi_have_neither_ranks_nor_a_model():
    found = machines.made_up()
    whole = tables.machines_block(found)
    assert whole.count("MPICH") == whole.count("A model on paper") == 1
    for name in ("scaling", "reduction", "model"):
        del found[name]
    text = tables.machines_block(found)
    assert "| partial_sums, 1 part |" in text
    assert "rank" not in text


# Tables ---------------------------------------------------------------------------------------------------------------


def test_tables_replace_their_blocks_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "a\n<!-- begin: pool -->\nold\n<!-- end: pool -->\nb\n<!-- begin: run -->\nkept\n<!-- end: run -->\n"
    )
    tables.write(page, {"pool": tables.made_up()["pool"]})
    text = page.read_text()
    assert "old" not in text
    assert "| 1-1@1 | 1.00 | 1.00, 1.05, 1.10 | 2.00 |" in text
    assert text.startswith("a\n<!-- begin: pool -->\n")
    assert text.endswith("<!-- end: pool -->\nb\n<!-- begin: run -->\nkept\n<!-- end: run -->\n")
    page.write_text("no markers")
    with pytest.raises(SystemExit, match="expected one pair of the markers begin: pool and end: pool, found 0"):
        tables.write(page, {"pool": tables.made_up()["pool"]})


def test_every_kind_has_its_place_on_the_page():
    text = tables.PAGE.read_text(encoding="utf-8")
    for kind in tables.BLOCKS:
        assert text.count(f"<!-- begin: {kind} -->\n") == text.count(f"<!-- end: {kind} -->") == 1


def test_files_of_one_kind_are_joined():
    first, second = (tables.made_up()["run"] | {"kind": "run"} for _ in range(2))
    n, changed = len(first["cells"]), dict(second["cells"][0], seconds={"ours": 7.0})
    second["cells"] = [changed, dict(changed, simd="v4")]
    cells = tables.merged([("a", first), ("b", second)])["run"]["cells"]
    assert len(cells) == n + 1
    assert cells[0] == changed  # of two files that have a cell, the last one counts
    second["machine"] = second["machine"] | {"cpu": "another"}
    with pytest.raises(SystemExit, match="expected a file of the machine of the other file"):
        tables.merged([("a", first), ("b", second)])


# The options that the short forms of test_short_forms.py leave out ----------------------------------------------------


@pytest.mark.long("runs seven benchmarks in their short forms, and the page is made of what they keep")
def test_both_instruction_sets_from_the_run_to_the_page(tmp_path):
    simd = ",".join(_core.supported_simd()[-2:])
    page = tmp_path / "page.md"
    page.write_text(tables.PAGE.read_text(encoding="utf-8"), encoding="utf-8")

    def program(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}"
        return done.stdout

    files = {kind: str(tmp_path / f"{kind}.json") for kind in tables.BLOCKS if kind != "input_derivatives"}
    keep = {kind: ["--short", "--json", file] for kind, file in files.items()}
    both = ["--simd", simd, "--against", "both"]
    text = program("benchmarks/run.py", *keep["run"], *both)
    some = ["--cases", "jvp 4-16-16-1,laplacian 2-64-64-64-1@1", "--peers", "numpy,func"]
    program("benchmarks/derivatives.py", *keep["derivatives"], *both, *some)
    program("benchmarks/products.py", *keep["products"], "--simd", simd, "--markdown")
    program("benchmarks/pool.py", "scaling", *keep["pool"], "--simd", simd)
    program("benchmarks/machine.py", *keep["machine"])
    program("benchmarks/machines.py", *keep["machines"])
    program("benchmarks/training.py", *keep["training"], "--peers", "numpy,sklearn", "--cases", "sgd 4-16-16-2")
    program("benchmarks/tables.py", "--page", str(page), *files.values())
    cells = json.loads((tmp_path / "run.json").read_text())["cells"]
    assert {cell["simd"] for cell in cells} == set(simd.split(","))
    settings = report.settings_of(cells)
    assert settings == run.arguments(["--short", *both]).settings
    for setting in settings:
        place = report.setting_text({"simd": setting[0], "peers_held": setting[1]})
        assert f"{place}: loss and gradient" in text
        assert f"{place}, float32 |" in page.read_text(encoding="utf-8")

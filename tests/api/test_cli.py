"""The commands demo, info and check: output, exit statuses, and errors of one line."""

import argparse
import builtins
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from suites import shortened
from systems import needs_posix_files

import backprop
from backprop import __main__ as cli
from backprop import demo
from backprop.network import Network

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def exit_status(arguments):
    """The status of a command, whether it is returned or raised by the parser."""
    try:
        return cli.main(arguments)
    except SystemExit as stop:
        return stop.code


@pytest.fixture
def wrong_gradient(monkeypatch):
    right = Network.value_and_grad

    def wrong(self, *args, **options):
        loss, gradient = right(self, *args, **options)
        return loss, 1.001 * gradient

    monkeypatch.setattr(Network, "value_and_grad", wrong)


def test_info(capsys):
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert backprop.__version__ in out
    assert "simd:" in out


def test_info_json(capsys):
    assert cli.main(["info", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["backprop"] == backprop.__version__
    assert values["simd"] in values["simd_supported"]
    assert values["threads"] >= 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["5", "8", "8", "1", "--activation", "tanh"],
        ["3", "4", "--loss", "cross_entropy", "--dtype", "float32", "--samples", "7", "--seed", "3"],
        ["3", "6", "2", "--activation", "leaky_relu:0.2", "--loss", "huber:0.5", "--output", "softplus"],
        ["--activation", "tanh,elu:0.5", "3", "6", "4", "2"],
    ],
)
def test_check_of_a_right_gradient(arguments, capsys):
    assert cli.main(["check", *arguments]) == 0
    captured = capsys.readouterr()
    assert "right: largest relative error" in captured.out
    assert "check_grad" in captured.out
    assert captured.err == ""


def test_check_of_a_wrong_gradient(wrong_gradient, capsys):
    assert cli.main(["check", "5", "8", "1"]) == 1
    assert "WRONG" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "5", "0", "1"], "sizes[1]: expected a positive integer, got 0"),
        (["check", "5"], "sizes: expected at least two positive integers"),
        (["check", "5", "one"], "invalid int value: 'one'"),
        (["check", "5", "2", "1", "--activation", "tahn"], "did you mean 'tanh'?"),
        (["check", "5", "2", "1", "--activation", "elu:x"], "expected a number after the colon, got 'elu:x'"),
        (["check", "5", "1", "--loss", "cubic"], "loss: expected one of"),
        (["check", "5", "1", "--dtype", "float16"], 'dtype: expected "float32" or "float64"'),
        (["check", "5", "1", "--samples", "0"], "expected an integer >= 1, got '0'"),
        (["check", "5", "1", "--seed", "-1"], "expected an integer >= 0, got '-1'"),
        (["train"], "invalid choice: 'train'"),
        (["check", "5", "2", "1", "--activation", "tanh,relu"], "activations: expected 1"),
        (["check", "5", "2", "2", "1", "--activation", "tanh,"], "activations[1]: expected one of"),
        (["demo", "--plot", "no/such/directory/demo.png"], "directory that exists"),
    ],
)
def test_bad_arguments_are_one_line(arguments, message, capsys):
    assert exit_status(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_each_layer_has_its_activation(monkeypatch, capsys):
    """The pairs, in their order, as a list that Network takes."""
    seen = []

    def note(net, *_):
        seen.append(net.activations)
        return argparse.Namespace(ok=True)

    monkeypatch.setattr(Network, "check_gradient", note)
    assert cli.main(["check", "3", "6", "4", "5", "2", "--activation", "tanh,elu:0.5,leaky_relu:0.1"]) == 0
    assert cli.main(["check", "3", "6", "4", "2", "--activation", "elu:0.5"]) == 0
    assert seen == [("tanh", ("elu", 0.5), ("leaky_relu", 0.1)), (("elu", 0.5), ("elu", 0.5))]


def test_version(capsys):
    assert exit_status(["--version"]) == 0
    assert capsys.readouterr().out == f"backprop {backprop.__version__}\n"


def test_no_command_prints_the_help_and_fails(capsys):
    """A script that forgets the command must stop; 2 is argparse's status for missing arguments."""
    assert exit_status([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("usage: backprop")
    assert "examples:" in captured.err


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["info", "--help"], ["check", "--help"]])
def test_help_is_narrow(arguments, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert exit_status(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: backprop")
    assert max(map(len, lines)) <= 80


def test_interrupt_is_quiet(monkeypatch, capsys):
    def interrupt(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run", interrupt)
    assert cli.main(["info"]) == 130
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_broken_pipe_is_quiet():
    code = "import sys; from backprop.__main__ import main; sys.stdin.readline(); sys.exit(main(['info']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()  # before the first line is printed
    process.stdin.write(b"\n")
    process.stdin.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 141
    assert err == b""


COMMANDS = {"info": 0, "check 2 1": 0, "check 2 0": 2, "check": 2, "demo --list": 0, "--help": 0, "": 2}
FEW = shortened(COMMANDS.items(), [("info", 0), ("check 2 0", 2)], "they write through the same function")


def run_in_shell(command, redirections, unbuffered=""):
    """The status of a command with a shell's redirections, and what it prints on the streams that are left open."""
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m backprop {command} {redirections}', sys.executable],
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done.returncode, done.stdout, done.stderr


@needs_posix_files
@pytest.mark.parametrize(("command", "status"), FEW)
def test_closed_streams(command, status):
    code, out, err = run_in_shell(command, ">&-")
    assert (code, out) == (74, "")
    assert err == "error: expected an open standard output, got a closed one\n"
    code, out, _ = run_in_shell(command, "2>&-")
    assert code == status
    assert (out == "") == (status == 2), "errors do not belong on standard output"
    assert run_in_shell(command, ">&- 2>&-") == (74, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, as Linux has it")
@pytest.mark.parametrize(("command", "status"), FEW)
def test_full_disk(command, status):
    code, _, err = run_in_shell(command, ">/dev/full")
    assert code == (status or 74)
    assert status or err.startswith("error: expected to write the output, got ")
    assert run_in_shell(command, ">/dev/full 2>/dev/full")[0] == (status or 74)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, as Linux has it")
def test_full_disk_where_nothing_is_buffered():
    assert run_in_shell("info", ">/dev/full", unbuffered="1")[0] == 74


def test_module_runs():
    done = subprocess.run([sys.executable, "-m", "backprop", "info"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("backprop:")


def test_demo_learns(tmp_path, capsys):
    pytest.importorskip("sklearn")
    plot = tmp_path / "demo.png"
    assert cli.main(["demo", "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    assert "gradient: right" in out
    assert "s, the same bits\n" in out
    share = float(out.splitlines()[-1].split()[1].rstrip("%"))
    assert share >= 97.0
    assert plot.read_bytes()[:8] == PNG_SIGNATURE


def test_short_demo(capsys):
    pytest.importorskip("sklearn")
    assert cli.main(["demo", "--maxiter", "3"]) == 0
    captured = capsys.readouterr()
    assert "fit: net.fit(x, y, l2=0.001, max_iter=3)" in captured.out
    assert "\n  3 iterations, " in captured.out
    assert "3/3" in captured.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("demo.xyz", "expected a format that matplotlib writes"),
        ("plots/", "expected a file name with an ending such as .png or .pdf"),
        ("demo.png/", "expected a file name with an ending such as .png or .pdf"),
        ("plots/.png", "expected a file name with an ending such as .png or .pdf"),
        ("demo", "expected a file name with an ending such as .png or .pdf"),
        ("", "expected a file name with an ending such as .png or .pdf"),
        ("none/demo.png", "expected a file in a directory that exists"),
        ("folder.png", "expected a file that may be written"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_refused_at_once(name, message, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(demo, "run", lambda **_: pytest.fail("the demo has begun"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plots").mkdir()
    (tmp_path / "folder.png").mkdir()
    assert exit_status(["demo", "--plot", name]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: argument --plot: {message}")
    assert repr(name) in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder.png", "plots"]


def test_a_figure_without_matplotlib_is_refused_at_once(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert exit_status(["demo", "--plot", "demo.png"]) == 2
    err = capsys.readouterr().err
    assert "a figure needs matplotlib" in err
    assert "pip install matplotlib" in err


def test_a_figure_that_fails_at_last_is_one_line(tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    figure = pytest.importorskip("matplotlib.figure")

    def full(self, file, **options):
        if isinstance(file, str):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(figure.Figure, "savefig", full)
    assert cli.main(["demo", "--maxiter", "1", "--plot", str(tmp_path / "demo.png")]) == 2
    assert "error: plot: expected a file that can be written, got " in capsys.readouterr().err


def test_an_interrupt_of_the_training_says_what_is_left(monkeypatch, capsys):
    pytest.importorskip("sklearn")
    seen = []

    def interrupt_at_the_tenth(net, x, y, params=None):
        seen.append(real(net, x, y, params))
        if params is not None and len(seen) == 10:
            raise KeyboardInterrupt
        return seen[-1]

    real = demo.accuracy
    monkeypatch.setattr(demo, "accuracy", interrupt_at_the_tenth)
    assert cli.main(["demo"]) == 130
    err = capsys.readouterr().err
    assert seen[-1] == seen[9] > 0.8
    line = f"interrupted: {seen[9]:.2%} are right after the last whole step; no file was written\n"
    assert err.endswith(line)


def test_demo_stops_at_a_wrong_gradient(wrong_gradient, monkeypatch, capsys):
    pytest.importorskip("sklearn")
    monkeypatch.setattr(demo, "train", lambda *args: pytest.fail("trained with a wrong gradient"))
    assert cli.main(["demo"]) == 1
    captured = capsys.readouterr()
    assert "WRONG" in captured.out
    assert captured.err == "error: the gradient is wrong; nothing was trained\n"


@pytest.mark.parametrize("missing", ["sklearn", "tqdm", "matplotlib"])
def test_demo_says_what_is_missing(missing, monkeypatch, capsys):
    real_import = builtins.__import__

    def refuse(name, *args, **options):
        if name.split(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=missing)
        return real_import(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert cli.main(["demo"]) == 1
    err = capsys.readouterr().err
    assert "pip install scikit-learn tqdm matplotlib" in err
    assert err.count("\n") == 1

"""The commands: demo, info, check. Also installed as the console script ``backprop``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import NoReturn, TextIO

from backprop._version import __version__
from backprop.activations import ACTIVATIONS
from backprop.losses import LOSSES

OK, FAILED, BAD_ARGUMENTS, NOT_WRITTEN, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 74, 130, 141  # 74: EX_IOERR of sysexits.h

EXAMPLES = """\
examples:
  backprop demo --plot demo.png
  backprop info --json
  backprop check 5 8 8 1 --activation tanh
  backprop check 20 50 3 --loss cross_entropy --dtype float32

The exit status is 0, or 1 for a wrong gradient or a package that the demo
lacks, 2 for bad or no arguments, 74 if the output cannot be written, 130 after
Ctrl-C, and 141 if the reader of the output went away.
"""

CHECK_EXAMPLES = """\
NAME may carry its parameter after a colon.

activations:
{activations}

losses:
{losses}

examples:
  backprop check 5 8 8 1 --activation tanh
  backprop check 6 4 2 --activation leaky_relu:0.2 --loss huber:0.5
  backprop check 6 5 4 2 --activation tanh,elu:0.5 --output softplus

The exit status is 0 if the gradient is right, 1 if it is wrong or cannot be
told, and 2 if the arguments make no network.
"""


def _drop(stream: TextIO) -> None:
    """Discard unwritten output: writing it when the interpreter exits would raise again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _print_error(text: str) -> None:
    try:
        print(text, file=sys.stderr)
    except OSError:  # only the exit status can tell it
        _drop(sys.stderr)


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        _print_error(f"error: {message} (see {self.prog} --help)")
        sys.exit(BAD_ARGUMENTS)


def _spec(text: str) -> str | tuple[str, float]:
    """A name, or NAME:PARAMETER as a pair."""
    name, colon, parameter = text.partition(":")
    if not colon:
        return name
    try:
        return name, float(parameter)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number after the colon, got {text!r}") from None


def _specs(text: str) -> str | tuple[str, float] | list[str | tuple[str, float]]:
    """One specification for all layers, or a list with one for each."""
    specs = [_spec(one) for one in text.split(",")]
    return specs if len(specs) > 1 else specs[0]


def _figure_file(path: str) -> str:
    """A file for a figure. NumPy is imported only if a figure is wanted."""
    from backprop.demo import figure_file

    return figure_file(path)


def _natural(text: str) -> int:
    """An integer >= 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text!r}")
    return number


def _seed(text: str) -> int:
    """An integer >= 0."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"expected an integer >= 0, got {text!r}")
    return int(text)


def _fill(names: Sequence[str]) -> str:
    import textwrap

    return textwrap.fill(", ".join(names), 78, subsequent_indent="  ", initial_indent="  ")


def _parser() -> _Parser:
    parser = _Parser(
        prog="backprop",
        description="Gradients of dense neural networks on CPUs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"backprop {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="train a classifier of handwritten digits",
        description="Train a network on scikit-learn's digits by L-BFGS, after a check of its\n"
        "gradient, and print the accuracy on a fifth of the images that was held out.\n"
        "Needs: pip install scikit-learn tqdm matplotlib",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "--plot",
        type=_figure_file,
        metavar="FILE",
        help="draw the learning curve and the confusion matrix (.png, .pdf)",
    )
    demo.add_argument("--list", action="store_true", help="list the demo and the repository's examples; run nothing")
    demo.add_argument("--maxiter", type=_natural, default=100, metavar="N", help="iterations of L-BFGS (default 100)")
    demo.add_argument("--seed", type=_seed, default=0, metavar="N", help="seed of the initial weights (default 0)")

    info = commands.add_parser(
        "info",
        help="print versions, instruction set and threads",
        description="Print the versions, the instruction set in use, and the number of threads.",
    )
    info.add_argument("--json", action="store_true", help="print as one JSON object")

    check = commands.add_parser(
        "check",
        help="check the gradient of a random network",
        description="Check the gradient of a random network on random samples against the\n"
        "complex step of the NumPy reference, layer by layer.",
        epilog=CHECK_EXAMPLES.format(activations=_fill(list(ACTIVATIONS)), losses=_fill(list(LOSSES))),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("sizes", nargs="+", type=int, metavar="SIZES", help="layer sizes n_0 n_1 ... n_L, at least two")
    check.add_argument(
        "--activation",
        type=_specs,
        default="relu",
        metavar="NAME[,...]",
        help="activation of all hidden layers, or one for each after commas (default relu)",
    )
    check.add_argument("--output", type=_spec, default="identity", metavar="NAME", help="output (default identity)")
    check.add_argument(
        "--loss", type=_spec, default="squared_error", metavar="NAME", help="loss (default squared_error)"
    )
    check.add_argument("--dtype", default="float64", metavar="DTYPE", help="float64 (default) or float32")
    check.add_argument("--samples", type=_natural, default=40, metavar="N", help="number of samples (default 40)")
    check.add_argument("--seed", type=_seed, default=0, metavar="N", help="seed of parameters and samples (default 0)")
    return parser


def _info(as_json: bool) -> int:
    from backprop.info import configuration, show_config

    if as_json:
        print(json.dumps(configuration(), indent=2))
    else:
        show_config()
    return OK


def _check(arguments: argparse.Namespace) -> int:
    import numpy as np

    from backprop.judges.check_gradient import random_problem
    from backprop.network import Network

    rng = np.random.default_rng(arguments.seed)
    net = Network(
        arguments.sizes,
        activations=arguments.activation,
        output=arguments.output,
        loss=arguments.loss,
        dtype=arguments.dtype,
        rng=rng,
    )
    for b in net.biases:
        b[...] = rng.uniform(-0.5, 0.5, b.shape)  # with biases of 0, a forgotten bias would go unnoticed
    report = net.check_gradient(*random_problem(net, arguments.samples, rng))
    print(report)
    return OK if report.ok else FAILED


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "info":
        return _info(arguments.json)
    if arguments.command == "check":
        return _check(arguments)
    from backprop.demo import list_demos, run

    if arguments.list:
        print(list_demos())
        return OK
    return run(plot=arguments.plot, maxiter=arguments.maxiter, seed=arguments.seed)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.

    Returns
    -------
    int
        The exit status: 0, 1 for a wrong gradient or a demo that cannot run, 2 for bad or no arguments, 74 if the
        output cannot be written, 130 after Ctrl-C, 141 if the reader of the output went away.

    Raises
    ------
    SystemExit
        From argparse: 0 after ``--help`` and ``--version``, 2 for arguments that it refuses.
    """
    if sys.stderr is None:  # else print writes errors to standard output
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # open until the process ends
    if sys.stdout is None:
        _print_error("error: expected an open standard output, got a closed one")
        return NOT_WRITTEN
    try:
        parser = _parser()
        try:
            arguments = parser.parse_args(argv)
            if arguments.command is None:
                _print_error(parser.format_help().rstrip())
                return BAD_ARGUMENTS
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _drop(sys.stdout)
        return BROKEN_PIPE
    except OSError as error:
        _drop(sys.stdout)
        _print_error(f"error: expected to write the output, got {error}")
        return NOT_WRITTEN
    except (ValueError, TypeError, MemoryError) as error:
        _print_error(f"error: {' '.join(str(error).split())}")
        return BAD_ARGUMENTS


if __name__ == "__main__":
    sys.exit(main())

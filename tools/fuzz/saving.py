"""Load hostile files: files of networks and ensembles that were cut off, with flipped bits, or with bytes moved.

    python tools/fuzz/saving.py                    # 10^5 random changes: about a minute
    python tools/fuzz/saving.py --changes 2000     # what the tests run
    python tools/fuzz/saving.py --short            # each 50th truncation and bit, and few changes: a second

The files are those of five small networks in both dtypes, and of an ensemble of each. Every truncation and every bit of
the header is tried, then random changes: 1 to 8 bits flipped, in the header or anywhere; or a few bytes cut out,
doubled, or overwritten by other bytes of the file. Each must give a ValueError that names the file, or what the file
describes, as json and the safetensors library read it. It must take less than a second, and less memory than twice the
file's size and OVERHEAD. The exit status is 1 if anything was wrong.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
import tracemalloc
from collections import Counter

import numpy as np
import safetensors.numpy

import backprop
from backprop.interchange import safetensors as saving

LATEST = 1.0  # seconds of CPU time, to which other programs do not add
OVERHEAD = 64 * 1024  # bytes: a Network, its plan, and the message of an error; the files are smaller than 2 kB
NETWORKS = [
    {"sizes": [2, 3, 1], "activations": "tanh"},
    {"sizes": [1, 1], "loss": "poisson"},
    {"sizes": [3, 4, 4, 2], "activations": [("leaky_relu", 0.2), ("elu", 0.7)], "loss": ("huber", 0.5)},
    {"sizes": [2, 5, 3], "activations": "gelu", "loss": ("cross_entropy", 0.1), "output": "softmax"},
    {"sizes": [2, 3], "loss": ("quantile", (0.25, 0.5, 0.875))},
]


def judge(path, data):
    """Load the bytes; return "refused", "loaded", or what was wrong."""
    with open(path, "wb") as file:
        file.write(data)
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    start = time.process_time()
    try:
        net = backprop.load(path)
    except ValueError as error:
        net = None
        if path not in str(error):
            return f"a message that does not name the file: {error}"
    except BaseException as error:  # a panic of the library is no Exception
        return f"{type(error).__name__}: {error}"
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1] - before
    if seconds > LATEST:
        return f"{seconds:.1f} s"
    if peak > 2 * len(data) + OVERHEAD:
        return f"{peak} bytes of memory for a file of {len(data)}"
    return "refused" if net is None else what_differs(net, data) or "loaded"


def what_differs(loaded, data):
    """What differs between the network or ensemble and the bytes; None if nothing does."""
    n_members = len(loaded) if isinstance(loaded, backprop.Ensemble) else None
    net = loaded if n_members is None else loaded[0]
    n_header = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + n_header])["__metadata__"]
    if json.loads(metadata[saving.KEY]) != saving._to_metadata(net._architecture, n_members):
        return "another architecture"
    tensors = safetensors.numpy.load(data)
    for i, (W, b) in enumerate(saving._layers(loaded.params, net.sizes)):
        for name, ours in ((f"{2 * i}.weight", W), (f"{2 * i}.bias", b)):
            theirs = tensors.pop(name)
            if ours.dtype != theirs.dtype or ours.shape != theirs.shape or ours.tobytes() != theirs.tobytes():
                return f"another {name}"
    loaded.forward(np.zeros((2, net.sizes[0])))
    return "too many tensors" if tensors else None


def files(folder):
    """The bytes of the files of networks, in both dtypes, and of ensembles."""
    path = os.path.join(folder, "whole.safetensors")
    for dtype in ("float64", "float32"):
        for k, options in enumerate(NETWORKS):
            net = backprop.Network(**options, dtype=dtype, rng=0)
            for thing in (net, backprop.Ensemble(net, k + 1, rng=0)):
                thing.save(path)
                with open(path, "rb") as file:
                    yield file.read()


def flipped(data, bits):
    """The bytes with those bits changed."""
    result = bytearray(data)
    for bit in bits:
        result[bit // 8] ^= 1 << bit % 8
    return bytes(result)


def changed(rng, data):
    """The bytes after one random change."""
    n_header = 8 + int.from_bytes(data[:8], "little")
    end = n_header if rng.random() < 0.75 else len(data)
    if rng.random() < 0.5:
        return flipped(data, [rng.randrange(8 * end) for _ in range(rng.randint(1, 8))])
    start, length = rng.randrange(end), rng.randint(1, 16)
    other = rng.randrange(end)
    piece = rng.choice([b"", 2 * data[start : start + length], data[other : other + length]])
    header = data[8:start] + piece + data[start + length :] if start >= 8 else data[8:]
    if rng.random() < 0.5:  # a length that fits, so that later checks see the change
        n_header += len(header) + 8 - len(data)
    return (n_header - 8).to_bytes(8, "little", signed=True) + header


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--changes", type=int, default=100_000, help="random changes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="each 50th truncation and bit, and 500 changes")
    arguments = parser.parse_args()
    step = 1
    if arguments.short:
        arguments.changes, step = 500, 50
    rng = random.Random(arguments.seed)
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "hostile.safetensors")
        wholes = list(files(folder))
        if [judge(path, data) for data in [*wholes, *wholes]][len(wholes) :] != ["loaded"] * len(wholes):
            sys.exit("the files themselves are refused")

        def every_header_bit():
            for data in wholes:
                for bit in range(0, 8 * (8 + int.from_bytes(data[:8], "little")), step):
                    yield flipped(data, [bit])

        series = {
            "truncations": (data[:n] for data in wholes for n in range(0, len(data), step)),
            "bits of the headers": every_header_bit(),
            "random changes": (changed(rng, rng.choice(wholes)) for _ in range(arguments.changes)),
        }
        tracemalloc.start()
        for name, hostile in series.items():
            start, outcomes = time.perf_counter(), Counter()
            for data in hostile:
                outcome = judge(path, data)
                outcomes[outcome] += 1
                if outcome not in ("refused", "loaded"):
                    failures.append((name, outcome, data))
            refused, loaded = outcomes["refused"], outcomes["loaded"]
            wrong = outcomes.total() - refused - loaded
            seconds = time.perf_counter() - start
            print(f"{name:20} {refused:7} refused {loaded:7} loaded whole {wrong:4} wrong {seconds:7.1f} s")
    for name, outcome, data in failures[:10]:
        print(f"{name}: {outcome}\n    {data!r}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

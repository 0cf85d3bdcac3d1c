"""How many times slower than a plain build this one computes: sizes are divided by it, limits of time multiplied."""

import os

SLOWNESS = int(os.environ.get("BACKPROP_TEST_SLOWNESS", "1"))  # tools/builds/sanitize.py sets it

"""How much memory a call allocates."""

import tracemalloc


def peak_of_a_call(call):
    """The most that Python and NumPy allocate in a call after the first ones, in bytes."""
    for _ in range(3):
        call()
    tracemalloc.start()
    try:
        call()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()

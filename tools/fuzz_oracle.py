"""The judge of tools/fuzz.py: how far a result may be from the reference's."""

TOLERANCE = {"float64": 1e-9, "float32": 2e-3}  # of results up to 1, and relative to larger ones


class FuzzError(AssertionError):
    """What must not happen."""

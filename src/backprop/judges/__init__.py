"""Checks of a network: whether its gradient is right, and where a NaN comes from."""

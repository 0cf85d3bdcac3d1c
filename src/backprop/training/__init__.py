"""Fits of networks: `Network.fit`, and the solvers of the compiled core beside it."""

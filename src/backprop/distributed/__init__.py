"""Sums over samples that add up over threads, blocks and machines, in any order, to the bits of one call."""

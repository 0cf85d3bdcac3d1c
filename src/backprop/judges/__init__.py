"""What judges a network: whether its gradient is right, and where a NaN comes from."""

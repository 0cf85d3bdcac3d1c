"""Settings of the test suite."""

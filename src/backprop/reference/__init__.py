"""The recursion in plain NumPy, real or complex: it says what is right, and is never optimised."""

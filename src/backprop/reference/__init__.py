"""The recursion in plain NumPy, real or complex: the definition of what is right, never optimised."""

"""The version: written here alone, read by setuptools (pyproject.toml), the package and the documentation."""

__version__ = "0.1.0"

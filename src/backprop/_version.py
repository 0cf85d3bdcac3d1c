"""The version. It is written only here; setuptools (pyproject.toml), the package and the documentation read it."""

__version__ = "0.1.0"

"""How the documentation is built: ``sphinx-build -W -n --keep-going docs build/docs``."""

import sys
from pathlib import Path

import backprop

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "backprop"
author = "The backprop developers"
copyright = author
release = backprop.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",  # for what stands in Markdown already and is included here
    "sources",
    "tables",
    "charts",
    "mathml",
    "offline",
]
exclude_patterns = ["_ext", "tables"]  # the tables are parts of pages
default_role = "py:obj"  # docstrings name calls in single backticks
highlight_language = "python"
smartquotes = False  # a prime is no quotation mark

autodoc_typehints = "none"  # the sections of the docstrings say shapes too
autosummary_generate = False
numpydoc_show_class_members = False  # each call has a page of its own

# What is not ours has no page here, and no inventory is fetched: the build needs no network.
nitpick_ignore_regex = [
    ("py:.*", r"(numpy|scipy|sklearn|np|npt)\..*"),
]
suppress_warnings = ["myst.header"]  # parts of README files begin below their first heading

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "backprop"
html_static_path = ["_static"]
html_css_files = ["backprop.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "backprop"},
    "header_links_before_dropdown": 9,
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_nav_level": 2,
}
ALONE = "index architecture contributing equations kernels guarantees evidence benchmarks source/**"
html_sidebars = {name: [] for name in ALONE.split()}  # these have no pages below them to list, or need the room


def resolve_short_name(app, env, node, contnode):
    """In summaries, outside of their class, the short names of docstrings are those of `Network` or of the package."""
    if node.get("refdomain") != "py":
        return None
    for prefix in ("backprop.Network.", "backprop."):
        target = prefix + node["reftarget"]
        found = env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, contnode)
        if found is not None:
            return found
    return None


def setup(app):
    """Connect it."""
    app.connect("missing-reference", resolve_short_name)

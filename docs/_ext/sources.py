"""Show code where it is spoken of, and link to it: a directive, two roles, and a page for each file they name.

    .. excerpt:: kernels::hidden_sum       the definition as it is now, with a link to its file
    :source:`pool.c`                       a link to a file, or to a definition in it
    :test:`test_pool.py::test_name`        a link to a test

What names mean is told in excerpts.py. A name that is not there ends the build.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import excerpts
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective, SphinxRole


def _find(target: str) -> excerpts.Excerpt:
    try:
        return excerpts.find(target)
    except excerpts.NotFoundError as error:
        raise ExtensionError(str(error)) from error


def _link(env: BuildEnvironment, excerpt: excerpts.Excerpt, text: str) -> nodes.Node:
    """A link to the page of the file, and a note that this page needs it."""
    env.note_dependency(str(excerpts.ROOT / excerpt.path))
    _files_of(env).setdefault(env.docname, set()).add(excerpt.path)
    page = env.app.builder.get_relative_uri(env.docname, f"source/{excerpt.path}")
    link = nodes.reference("", "", internal=True, refuri=f"{page}#line-{excerpt.first}")
    link += nodes.literal(text, text)
    return link


def _files_of(env: BuildEnvironment) -> dict[str, set[str]]:
    """The files that each page names."""
    if not hasattr(env, "backprop_sources"):
        env.backprop_sources = {}
    return env.backprop_sources


class ExcerptDirective(SphinxDirective):
    """A definition with a link to its place."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the caption and the block."""
        excerpt = _find(self.arguments[0])
        block = nodes.literal_block(excerpt.text, excerpt.text, language=excerpt.language)
        caption = nodes.caption("", "", _link(self.env, excerpt, f"{excerpt.path}, line {excerpt.first}"))
        return [nodes.container("", caption, block, literal_block=True, classes=["literal-block-wrapper", "excerpt"])]


class SourceRole(SphinxRole):
    """A link to a file, a definition or a test."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Make the link."""
        return [_link(self.env, _find(self.text), self.text)], []


def _purge(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    _files_of(env).pop(docname, None)


def _merge(app: Sphinx, env: BuildEnvironment, docnames: list[str], other: BuildEnvironment) -> None:
    _files_of(env).update(_files_of(other))


def _pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file, with an anchor at each line."""
    for path in sorted(set().union(*_files_of(app.env).values())):
        excerpt = excerpts.find_file(path)
        heading = f"<h1>{path}</h1>"
        code = app.builder.highlighter.highlight_block(excerpt.text, excerpt.language, lineanchors="line")
        yield f"source/{path}", {"title": path, "body": f'{heading}<div class="excerpt">{code}</div>'}, "page.html"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it all."""
    app.add_directive("excerpt", ExcerptDirective)
    app.add_role("source", SourceRole())
    app.add_role("test", SourceRole())
    app.connect("env-purge-doc", _purge)
    app.connect("env-merge-info", _merge)
    app.connect("html-collect-pages", _pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

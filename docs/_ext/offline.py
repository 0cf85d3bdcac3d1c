"""The built pages load nothing from a network: no script, style, font or image. One that does ends the build."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ADDRESS = r"(?:https?:)?//[^\s\"'<>)]+"
# A link that a reader may follow, <a href>, loads nothing.
LOADED = re.compile(
    rf"<(?:script|img|image|iframe|source|video|audio|embed|object)\b[^>]*?\s(?:src|srcset|data|(?:xlink:)?href)=[\"']?({ADDRESS})"
    rf"|<link\b(?![^>]*\brel=[\"']?canonical)[^>]*?\shref=[\"']?({ADDRESS})"
    rf"|url\(\s*[\"']?({ADDRESS})"
    rf"|@import\s+[\"']({ADDRESS})",
    re.IGNORECASE,
)


def addresses(text: str) -> list[str]:
    """The addresses from which a browser loads something to show this text."""
    return [next(filter(None, found)) for found in LOADED.findall(text)]


def loads(folder: Path, paths: Iterable[str]) -> Iterator[str]:
    """Each of the built files that loads something, with the address."""
    for path in paths:
        for address in addresses((folder / path).read_text(encoding="utf-8")):
            yield f"{path} loads {address}"


def _check(app: Sphinx, exception: Exception | None) -> None:
    from sphinx.errors import ExtensionError

    if exception is not None or app.builder.format != "html":
        return
    folder = Path(app.outdir)
    pages = [f"{name}.html" for name in sorted(app.env.found_docs)]  # not those that an older build left there
    beside = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.suffix in {".css", ".svg"}]
    found = list(loads(folder, [*pages, *beside]))
    if found:
        raise ExtensionError("the pages must need no network:\n" + "\n".join(found))


def setup(app: Sphinx) -> dict[str, bool]:
    """Look at the pages when they are built."""
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""What `make docs` adds to mkdocs: pages from outside docs/, links to them, and mermaid without a CDN.

The pages are written for GitHub, where ``../examples/own_base.py`` leads to a file of the repository.  On the site such
a link leads to a page that shows the file; folders and data, which the site does not hold, are named instead.
"""

import os
import re
import tarfile
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

from exporting import npm

ROOT = Path(__file__).parents[1]
PAGES = {
    "benchmarks/README.md": "benchmarks.md",
    "networks/pocket/README.md": "pocket.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""Pages of the site whose files lie outside docs/."""
IMAGES = {"networks/pocket/samples.png": "pictures/pocket-samples.png"}
SHOWN = {".py": "python", ".yaml": "yaml"}
"""Files that get a page of their own where a page links to them."""
MERMAID = "mermaid@11.17.2"  # the major version that mkdocs-material draws with
MERMAID_INTEGRITY = "V6K3C8EBdEsPFZXSKMJe6ppQOENxuHARr9GvHX4hh47lAbhMRD9qf4oEK7LoaRQxULMa80/qt5gHO73aCleBBg=="
LINK = re.compile(r"(?P<text>\[[^\]]*\])\((?P<path>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages and images from outside docs/, the source files that pages link to, and mermaid."""
    for origin, place in PAGES.items():
        files.append(File.generated(config, place, content=(ROOT / origin).read_text()))
    for origin, place in IMAGES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / origin)))
    for origin in sorted({target for page in files.documentation_pages() for target in _sources(page)}):
        text = f"# `{origin}`\n\n````{SHOWN[Path(origin).suffix]}\n{(ROOT / origin).read_text()}````\n"
        files.append(File.generated(config, _source_page(origin), content=text, inclusion=InclusionLevel.NOT_IN_NAV))
    try:
        archive = npm.fetch(MERMAID, MERMAID_INTEGRITY)
    except (ValueError, OSError) as error:
        raise PluginError(str(error)) from error
    with tarfile.open(archive) as opened:
        script = opened.extractfile("package/dist/mermaid.min.js")
        assert script is not None
        files.append(File.generated(config, "assets/mermaid.min.js", content=script.read()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links beyond docs/ to the pages of the site; where there is none, say the path instead."""
    here = page.file.src_uri
    origin = _origin(here)

    def pointed(link: re.Match[str]) -> str:
        target = _target(origin, link["path"])
        if target.startswith("docs/") and origin.startswith("docs/"):
            return link[0]
        place = target.removeprefix("docs/") if target.startswith("docs/") else _place(target)
        if place is not None:
            return f"{link['text']}({os.path.relpath(place, os.path.dirname(here) or '.')}{link['anchor'] or ''})"
        return f"{link['text'][1:-1]} (`{target}`)" if (ROOT / target).exists() else link[0]

    parts, end = [], 0
    for code in CODE.finditer(markdown):
        parts += [LINK.sub(pointed, markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, LINK.sub(pointed, markdown[end:])])


def _origin(place: str) -> str:
    """The path in the repository of a page of the site."""
    return next((origin for origin, own in PAGES.items() if own == place), f"docs/{place}")


def _target(origin: str, link: str) -> str:
    return os.path.normpath(os.path.join(os.path.dirname(origin), link))


def _place(target: str) -> str | None:
    """Where the site has a file from outside docs/."""
    if target == "README.md":
        return "index.md"
    if Path(target).suffix in SHOWN:
        return _source_page(target)
    return PAGES.get(target) or IMAGES.get(target)


def _source_page(origin: str) -> str:
    return f"source/{origin}.md"


def _sources(page: File) -> set[str]:
    """The source files outside docs/ that a page links to."""
    targets = {_target(_origin(page.src_uri), link["path"]) for link in LINK.finditer(page.content_string)}
    return {target for target in targets if Path(target).suffix in SHOWN and (ROOT / target).is_file()}

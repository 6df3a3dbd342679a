"""The documentation's site, built as `make docs` does: whole, without warnings, and at home on this machine alone."""

import io
import re
import tarfile
from pathlib import Path

import pytest
import yaml
from mkdocs.commands.build import build
from mkdocs.config import load_config

from exporting import npm
from tests.browser import served

ROOT = Path(__file__).parents[1]


def written(folder, archive=None):
    """The site in a folder; mermaid is what npm has, or an archive given in its place."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        if archive is not None:
            patch.setattr(npm, "fetch", lambda package, integrity: archive)
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    archive = folder / "mermaid.tgz"
    with tarfile.open(archive, "w:gz") as file:
        content = b"var mermaid = {initialize() {}, async render() { return {svg: '<svg/>'} }}"
        entry = tarfile.TarInfo("package/dist/mermaid.min.js")
        entry.size = len(content)
        file.addfile(entry, io.BytesIO(content))
    return written(folder / "site", archive)


def pages_in(entries):
    for entry in entries:
        for value in entry.values():
            if isinstance(value, str):
                yield value
            else:
                yield from pages_in(value)


def test_every_page_of_the_docs_is_in_the_navigation(site):
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text())
    pages = list(pages_in(yaml.safe_load(text)["nav"]))
    assert len(pages) == len(set(pages))
    docs = ROOT / "docs"
    assert {str(path.relative_to(docs)) for path in docs.rglob("*.md")} <= set(pages)
    assert all((site / page).with_suffix(".html").is_file() for page in pages)


def test_pages_load_nothing_from_elsewhere(site):
    loads = re.compile(r"<(?:script|img|link|iframe|source|video)\b[^>]*?\b(?:src|href)=[\"']?(https?:|//)[^\"'> ]*")
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        found = [match[0] for match in loads.finditer(page.read_text()) if 'rel="canonical"' not in match[0]]
        assert found == [], page.name
    for style in site.rglob("*.css"):
        assert re.findall(r"url\([\"']?https?:[^)]*|@import[^;]*https?:[^;]*", style.read_text()) == [], style.name


def test_only_pages_with_a_diagram_load_what_draws_it(site):
    with_script = {page.name for page in site.rglob("*.html") if "mermaid.min.js" in page.read_text()}
    with_diagram = {page.name for page in site.rglob("*.html") if 'class="mermaid"' in page.read_text()}
    assert "architecture.html" in with_diagram
    assert with_script == with_diagram


def test_examples_of_docstrings_are_code(site):
    """A section named ``Example:`` would be a note, whose prompts Markdown takes for quotations."""
    pages = {path.name: path.read_text() for path in (site / "api").iterdir()}
    assert "Translator.load" in re.sub("<.*?>", "", pages["translating.html"])
    assert [name for name, text in pages.items() if "<blockquote>" in text] == []


@pytest.mark.browser
def test_every_page_fits_a_phone(site, browser_page):
    page, misfits = browser_page.page, {}
    page.set_viewport_size({"width": 400, "height": 800})
    with served(site) as address:
        for path in sorted(site.rglob("*.html")):
            name = str(path.relative_to(site))
            page.goto(f"{address}/{name}")
            beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            missing = page.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)")
            if beyond > 0 or missing:
                misfits[name] = (beyond, missing)
    assert misfits == {}
    assert browser_page.outside == [] and browser_page.errors == []

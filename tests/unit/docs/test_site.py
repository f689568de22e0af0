"""The documentation builds strictly, loads nothing from other machines, and describes every setting and public name."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from script import load_script

import smartedge
from smartedge.config import Config

LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
FROM_ELSEWHERE = re.compile(r"^(https?:)?//")
STYLES = re.compile(r"(?:url\(|@import)\s*['\"]?((?:https?:)?//[^'\")\s]*)")


class _Loaded(HTMLParser):
    """Collects what a browser would load with a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if address := dict(attrs).get(LOADS.get(tag, "")):
            self.addresses.append(address)


def from_elsewhere(page: str) -> list[str]:
    """The addresses on other machines that a page of HTML loads."""
    parser = _Loaded()
    parser.feed(page)
    return [address for address in [*parser.addresses, *STYLES.findall(page)] if FROM_ELSEWHERE.match(address)]


class _Targets(HTMLParser):
    """Collects the links of a page, and the names that links can lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.names: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.links += [value for value in (found.get("href"), found.get("src")) if value]
        self.names |= {value for value in (found.get("id"), found.get("name")) if value}


def dead_links(site: Path) -> list[str]:
    """The links within a built site that lead to no file, or to no place on its page."""
    pages: dict[Path, _Targets] = {}
    for path in site.resolve().rglob("*.html"):
        pages[path] = _Targets()
        pages[path].feed(path.read_text(encoding="utf-8"))
    dead = []
    for path, page in pages.items():
        for link in page.links:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            place = unquote(address.fragment)
            if not target.is_file() or (place and target in pages and place not in pages[target].names):
                dead.append(f"{path.name}: {link}")
    return dead


def build(docs: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "-b", "html"]
    return subprocess.run([*command, str(docs), str(site)], capture_output=True, text=True)


@pytest.mark.slow
def test_the_site_loads_nothing_from_other_machines(repo_root, tmp_path):
    built = build(repo_root / "docs", tmp_path)
    assert built.returncode == 0, built.stderr
    pages = [path for path in tmp_path.rglob("*") if path.suffix in (".html", ".css")]
    assert len([path for path in pages if path.suffix == ".html"]) > 60
    assert [f"{path.name}: {found}" for path in pages for found in from_elsewhere(path.read_text())] == []
    assert dead_links(tmp_path) == []


def test_dead_links_are_seen(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#x"></a><a href="b.html#y"></a><a href="#z"></a><img src="c.png">')
    (tmp_path / "b.html").write_text('<p id="x"><a href="a.html">, <a href="https://example.org/gone">')
    assert dead_links(tmp_path) == ["a.html: b.html#y", "a.html: #z", "a.html: c.png"]


@pytest.mark.slow
def test_a_broken_link_and_a_forgotten_page_fail(repo_root, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    shutil.copy(repo_root / "docs" / "conf.py", docs)
    (docs / "index.md").write_text("# Here\n\n[there](gone.md)\n")
    (docs / "alone.md").write_text("# Alone\n")
    built = build(docs, tmp_path / "site")
    assert built.returncode != 0
    assert "gone.md" in built.stderr and "alone.md" in built.stderr


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        "<style>@import 'https://fonts.example/css';</style>",
        "<style>src: url(https://fonts.example/a.woff2)</style>",
    ],
)
def test_what_would_be_loaded_is_seen(page):
    assert len(from_elsewhere(page)) == 1
    assert from_elsewhere('<a href="https://example.org">a link</a><img src="_images/a.png">') == []


def test_every_public_name_is_on_the_page(repo_root):
    page = (repo_root / "docs" / "api.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\.\. auto\w+:: smartedge\.(\w+)$", page, re.MULTILINE)
    assert sorted(documented) == sorted(smartedge.__all__)


def test_every_setting_is_on_its_page():
    page = load_script("schemas").settings_page()
    listed = re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)
    assert listed == keys_of(Config().model_dump())
    for row in (
        "| `train.lr` | `0.001` | number > 0 | peak learning rate; warm-up of one tenth, then a cosine to zero |",
        "| `train.optimizer` | `adamw` | `adamw`, `sgd` | optimizer of both sides |",
        "| `fleet.expect` | `1` | whole number > 0 or list of text or null |",
    ):
        assert row in page


def keys_of(values: dict[str, object], before: str = "") -> list[str]:
    """Every key, with its sections before it. An empty mapping is a value."""
    found = []
    for name, value in values.items():
        found += keys_of(value, f"{before}{name}.") if isinstance(value, dict) and value else [before + name]
    return found

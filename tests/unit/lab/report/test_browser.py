"""The pages in a real browser: they load, nothing is complained of, and nothing is fetched."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from smartedge.lab.report import write_comparison, write_report, write_sweep

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
OWN = ("google.com", "googleapis.com", "gvt1.com")  # the browser's own errands, which no switch ends


@pytest.fixture(scope="module")
def chromium() -> str:
    """The path of a browser; skips the test where there is none."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip(f"needs a headless browser: install one of {', '.join(NAMES)} (Debian: apt-get install chromium)")


def browse(chromium: str, page: Path, scratch: Path) -> tuple[str, list[str], set[str]]:
    """Load a page without a network. Returns the final document, console messages, and the hosts that were asked."""
    log = scratch / "net.json"
    switches = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={scratch / 'profile'}",
        "--enable-logging=stderr", f"--log-net-log={log}", "--dump-dom",
    ]  # fmt: skip
    done = subprocess.run([chromium, *switches, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE:" in line]
    asked = {urlsplit(url).hostname or "" for url in re.findall(r'"url":"(https?://[^"]*)"', log.read_text())}
    return done.stdout, console, {host for host in asked if not host.endswith(OWN)}


def test_a_report_loads_in_silence(chromium, write_run, tmp_path):
    document, console, hosts = browse(chromium, write_report(write_run()), tmp_path)
    assert "Written by smartedge" in document
    assert console == []
    assert hosts == set()


def test_a_comparison_loads_in_silence(chromium, write_run, tmp_path):
    runs = [write_run(method, method=method) for method in ("hierarchical", "local")]
    document, console, hosts = browse(chromium, write_comparison(runs, tmp_path / "comparison.html"), tmp_path)
    assert "Written by smartedge" in document
    assert console == []
    assert hosts == set()


def test_an_audited_report_and_a_sweep_load_in_silence(chromium, write_run, write_audit, write_sweep_json, tmp_path):
    report = write_report(write_audit(write_run()))
    sweep, _ = write_sweep(write_sweep_json({"adversary.weight": ("0", "1")}))
    for page, says in ((report, "What reconstructions show"), (sweep, "Figures")):
        document, console, hosts = browse(chromium, page, tmp_path)
        assert says in document
        assert console == []
        assert hosts == set()


def test_the_policy_stops_what_gets_in_all_the_same(chromium, write_run, tmp_path):
    report = write_report(write_run())
    planted = '<img src="http://planted.test/a.png"><script>document.title = "it ran"</script><footer>'
    report.write_text(report.read_text().replace("<footer>", planted))
    document, console, hosts = browse(chromium, report, tmp_path)
    assert "<title>it ran" not in document
    assert len(console) == 2 and all("Content Security Policy" in line for line in console)
    assert hosts == set()


def test_the_check_would_see_a_request(chromium, tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<!doctype html><title>x</title><img src="http://planted.test/a.png">')
    assert browse(chromium, page, tmp_path)[2] == {"planted.test"}

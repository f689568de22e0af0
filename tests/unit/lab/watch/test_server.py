"""The page over HTTP: read-only, for this machine, with a policy that lets nothing else run."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from socketserver import BaseServer

import pytest

from smartedge.cli.app import main
from smartedge.errors import LinkError
from smartedge.lab.watch import Page, watching_run

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture
def address(running: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(BaseServer.serve_forever, "__defaults__", (0.01,))  # it looks so often whether it should end
    told: list[str] = []
    with watching_run(("127.0.0.1", 0), running, told.append):
        yield told[0].removeprefix("watch it at http://").rstrip("/")


def ask(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.getheaders()), text


def test_the_page_and_its_figures_are_there_and_nothing_else(address):
    status, headers, page = ask(address, "/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    assert not re.search(r"(?:src|href)=\"(?!data:)|https?://(?!www\.w3\.org)", page)  # it loads nothing
    status, headers, text = ask(address, "/state.json")
    assert status == 200 and json.loads(text)["title"] == "faces"
    assert headers["Cache-Control"] == "no-store" and headers["X-Content-Type-Options"] == "nosniff"
    for path in ("/edge/noise.key", "/../config.yaml", "/config.yaml", "/state.json/"):
        assert ask(address, path)[0] == 404


def test_without_javascript_the_page_says_so_and_does_not_wait(address):
    seen = re.sub(r"<script>.*?</script>|<[^>]* hidden>.*?</section>", "", ask(address, "/")[2], flags=re.DOTALL)
    assert "This page needs JavaScript" in seen and "loading" not in seen and "<h2>" not in seen


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_sent(address, method):
    assert ask(address, "/state.json", method)[0] == 501


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1:1", 200), ("localhost", 200), ("[::1]:8817", 200), ("rebound.attacker.test", 403), ("", 403)],
)
def test_a_name_of_somebody_else_is_refused(address, host, status):
    assert ask(address, "/state.json", Host=host)[0] == status


def test_only_the_script_of_the_page_may_run(running):
    policy = Page(running).policy
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert len(re.findall(r"'sha256-[\w+/=]{44}'", policy)) == 2


def test_a_port_that_is_taken_and_a_folder_without_a_run_are_errors(address, running, tmp_path, capsys):
    host, _, port = address.partition(":")
    with pytest.raises(LinkError, match="--watch: cannot listen"), watching_run((host, int(port)), running, print):
        pass
    assert main(["watch", str(tmp_path / "nothing")]) != 0
    assert "holds no run" in capsys.readouterr().err


def test_a_page_that_is_watched_costs_little(fleet):
    """A viewer asks every two seconds: three percent of a core are 60 ms each time."""
    page = Page(fleet(20))
    page.state()
    begun = time.thread_time()  # other threads of this process work, too
    for _ in range(10):
        page._at = 0.0  # as if the last answer were older than half a second
        page.state()
    assert (time.thread_time() - begun) / 10 < 0.06


@pytest.fixture(scope="module")
def chromium() -> str:
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip(f"needs a headless browser: install one of {', '.join(NAMES)} (Debian: apt-get install chromium)")


def test_a_browser_shows_it_in_silence(chromium, running, fleet, tmp_path):
    with ExitStack() as stack:
        pages = {
            running: ["running", "exit (edge)", "80.0&nbsp;%", "<polyline"],
            fleet(20): ["camera-19", "in quarantine", "not begun on this machine"],
        }
        for number, (run, says) in enumerate(pages.items()):
            told: list[str] = []
            stack.enter_context(watching_run(("127.0.0.1", 0), run, told.append))
            switches = [
                "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr",
                "--virtual-time-budget=3000", f"--user-data-dir={tmp_path / str(number)}", "--dump-dom",
            ]  # fmt: skip
            done = subprocess.run(
                [chromium, *switches, told[0].split(" at ")[1]],
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )
            assert [line for line in done.stderr.splitlines() if ":CONSOLE:" in line] == []
            for text in says:
                assert text in done.stdout, text
            assert "it ran" not in re.findall("<title>(.*?)</title>", done.stdout)[0]  # a nasty line of the log

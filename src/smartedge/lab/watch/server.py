"""Serves the page of a run on this machine. It can be read, and nothing can be changed by it."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from smartedge.lab.watch.state import RunReader
from smartedge.runs.http import Listening, RequestHandler
from smartedge.wire.addresses import location_of

__all__ = ["Page", "watching_run"]

_FRESH_S = 0.5  # several viewers get the same answer within this time


class Page:
    """The page and its figures.

    Args:
        run_dir: the run, or a folder of runs.
    """

    def __init__(self, run_dir: Path) -> None:
        self._reader = RunReader(run_dir)
        self._lock = threading.Lock()
        self._at, self._state = 0.0, b""
        self.html = (resources.files(__package__) / "watch.html").read_bytes()
        text = self.html.decode()
        self.policy = (
            f"default-src 'none'; script-src {_hash(text, 'script')}; style-src {_hash(text, 'style')}; "
            "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    def state(self) -> bytes:
        """The figures as JSON."""
        with self._lock:
            if not self._state or time.monotonic() - self._at > _FRESH_S:
                self._state = self._reader.state().model_dump_json().encode()
                self._at = time.monotonic()
            return self._state


@contextmanager
def watching_run(address: tuple[str, int], run_dir: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Serve the page inside the block, and tell its address.

    Raises:
        LinkError: it cannot listen there.
    """

    class Handler(_Handler):
        page = Page(run_dir)

    server = Listening(address, Handler, "--watch")
    tell(f"watch it at http://{location_of(address[0], server.port)}/")
    try:
        yield
    finally:
        server.close()


def _hash(page: str, tag: str) -> str:
    """The hash of the one element of this name, as a policy states it: nothing else of its kind runs."""
    (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


class _Handler(RequestHandler):
    page: Page

    def do_GET(self) -> None:
        """``/`` is the page, ``/state.json`` its figures; everything else is not there."""
        safe = {
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Content-Security-Policy": self.page.policy,
        }
        path = self.path.partition("?")[0]
        if not self.asked_for_this_machine():
            self.answer(403, "text/plain", b"ask for this machine by its address\n", safe)
        elif path == "/":
            self.answer(200, "text/html; charset=utf-8", self.page.html, safe)
        elif path == "/state.json":
            self.answer(200, "application/json", self.page.state(), safe)
        else:
            self.answer(404, "text/plain", b"/ and /state.json are here\n", safe)

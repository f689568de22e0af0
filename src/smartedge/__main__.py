"""The program ``smartedge``, which is also ``python -m smartedge``."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line of this process. Ctrl-C while Python begins or ends it prints no traceback."""
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        # Settings and tables name files in UTF-8, which this process could not find. So begin again, in UTF-8.
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    # Processes that this one starts would import the user's random.py in place of Python's. From Python 3.11 on.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    try:
        from smartedge.cli import app
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)  # noqa: T201 - nothing of ours is imported yet
        return 130
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # where the verb does not handle it: while Python ends
    return app.main()


if __name__ == "__main__":
    sys.exit(main())

"""The program ``smartedge``, which is also ``python -m smartedge``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> int:
    """Run the command line of this process. Ctrl-C while modules are imported ends it without a traceback."""
    try:
        from smartedge.cli import app
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return app.main()


if __name__ == "__main__":
    sys.exit(main())

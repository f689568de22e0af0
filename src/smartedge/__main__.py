"""``python -m smartedge`` is ``smartedge``."""

from __future__ import annotations

import sys

from smartedge.cli.app import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m codegen_edge`, and the script `codegen-edge`.

The command line is imported within `main`, so that Ctrl-C while it loads ends in one line as well.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main() -> NoReturn:
    """Run the command line and exit."""
    signal.signal(signal.SIGINT, _end_at_once)
    from codegen_edge.cli import main as run

    run()


def _end_at_once(signum: int, frame: FrameType | None) -> NoReturn:
    """End without an exception, which an import in progress might swallow; nothing has been written yet."""
    os.write(2, b"interrupted\n")
    os._exit(_INTERRUPTED)


if __name__ == "__main__":
    main()

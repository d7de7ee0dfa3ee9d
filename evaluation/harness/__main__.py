"""`python -m codegen_edge.evaluation.harness` and `codegen-edge-lm-eval`: lm-eval's command line with our model."""

from __future__ import annotations

import sys
from typing import NoReturn

from codegen_edge.errors import CodegenEdgeError
from codegen_edge.evaluation.harness import require_lm_eval


def main() -> NoReturn:
    """Run lm-eval's command line; it knows the model `codegen-edge`. An error of ours is one line."""
    try:
        require_lm_eval()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except CodegenEdgeError as exc:
        sys.stderr.write(f"error: {' '.join(str(exc).split())}\n")
        sys.exit(exc.exit_code)
    sys.exit(0)


if __name__ == "__main__":
    main()

"""Where the commands print: results to stdout, progress and tables of progress to stderr."""

from rich.console import Console

# No markup: paths and messages may hold brackets, as "codegen-edge[cpu]" does.
stdout = Console(soft_wrap=True, highlight=False, markup=False)
stderr = Console(stderr=True, highlight=False, markup=False)

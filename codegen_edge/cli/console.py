"""Where the commands print: results to stdout, progress and tables of progress to stderr."""

from rich.console import Console

stdout = Console(soft_wrap=True, highlight=False)
stderr = Console(stderr=True, highlight=False)

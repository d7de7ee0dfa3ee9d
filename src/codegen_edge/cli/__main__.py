"""`python -m codegen_edge.cli`, as `python -m codegen_edge`."""

from codegen_edge.cli import main

main()

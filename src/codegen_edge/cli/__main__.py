"""`python -m codegen_edge.cli`, where the script is not on the path."""

from codegen_edge.cli import main

main()

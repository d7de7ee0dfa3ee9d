"""Tasks that a bundle's completions are judged by: HumanEval, MTPB, and held-out lines of the standard library."""

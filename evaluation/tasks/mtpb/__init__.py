"""MTPB, the Multi-Turn Programming Benchmark (E. Nijkamp et al., "CodeGen", 2022)."""

"""HumanEval (M. Chen et al., 2021) and HumanEval+ (J. Liu et al., 2023), which has the same fields."""

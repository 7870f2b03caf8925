"""PATH: one backbone for many human-centric tasks and data sets (HumanBench, Tang et al. 2023)."""

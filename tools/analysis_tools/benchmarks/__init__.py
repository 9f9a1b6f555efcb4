"""The tasks of `tools/analysis_tools/benchmark.py`, a module each."""

"""Weights and the state of a run in files."""

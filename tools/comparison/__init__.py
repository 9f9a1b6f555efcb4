"""Trainings compared with each other: runs, statistics, tables."""

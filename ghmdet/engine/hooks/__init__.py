"""Hooks of a training that no other folder is about."""

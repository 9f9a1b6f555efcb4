"""What looks at a run before it begins, and complains."""

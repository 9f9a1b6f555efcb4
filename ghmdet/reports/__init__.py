"""What people look at: figures of GHM, curves of the log, and the report of a run."""

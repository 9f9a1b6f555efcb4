"""What `check_dataset.py` finds in a dataset, and its report."""

"""What `compare.py` makes of several runs: statistics over seeds, and tables of them."""

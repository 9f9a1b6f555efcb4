"""One thread for the tests and for every process they start: bits depend on the number."""

import os

os.environ['OMP_NUM_THREADS'] = '1'  # read when torch is imported

import torch

torch.set_num_threads(1)  # where a plugin was quicker

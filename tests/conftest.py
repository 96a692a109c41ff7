"""Shared by all tests: one thread for each numerical library, so that parallel runs do not disturb each other."""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

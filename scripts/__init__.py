"""The command line. Importing anything from here pins the thread pools of this process and of those that it starts.

OpenFHE's OpenMP runtime, numba and OpenBLAS read these variables once, when they are first imported, so they must be
set before. One thread per rank, since ranks usually fill the cores and oversubscription costs a factor of 5 to 10;
whoever sets one of the variables is obeyed.
"""

import os

THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")

for _name in THREADS:
    os.environ.setdefault(_name, "1")

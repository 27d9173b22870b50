"""Import this before torch: a thread that waits for another one then sleeps instead of spinning.

Two OpenMP threads share every operation of a training on two cores, and each waits for the other by
default in a busy loop. Where another process takes one of the cores, that makes a step several
times slower; ``examples/README.md`` has the figures. OpenMP reads the variable when torch loads it,
and a value that is set already stays.
"""

import os

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

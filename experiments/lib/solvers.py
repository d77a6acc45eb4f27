"""SciPy's solvers, which the attacks alone need; without SciPy, one line that says so."""

import sys

try:
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import shortest_path
except ImportError as error:
    print(
        f"error: this attack needs SciPy ({error}): pip install -r requirements-dev.txt",
        file=sys.stderr,
    )
    sys.exit(2)

__all__ = ["coo_matrix", "linear_sum_assignment", "shortest_path"]

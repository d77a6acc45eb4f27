"""Recovers the permutation of scrambled images from the correlation of their pixels alone.

Neighbouring pixels of natural images have similar values. Under one key for all images, the
correlation of two positions over many scrambled images therefore tells how near they are, and the
picture's plane can be put together again, as a map from a table of road distances:

1. correlation of every pair of positions over the images, each image standardised;
2. geodesic embedding (Isomap: Tenenbaum, de Silva and Langford, Science 2000): a graph of each
   position's most similar ones, shortest paths in it, classical scaling to the plane;
3. assignment of the embedded points to the grid, one position each;
4. quadratic assignment (QAP): alternately learn from the permutation how correlation falls with
   displacement, and reassign all positions at once so that correlations agree with it best;
5. of several graphs, the permutation of least negative log-likelihood (NLL) under a Gaussian field.

The result is known up to the grid's symmetries (eight for a square), which leave every step's
criterion unchanged. Correlations known from public pictures break the symmetries and stand in for
those learned in step 4 (`orient`).
"""

import numpy as np

from experiments.lib.solvers import coo_matrix, linear_sum_assignment, shortest_path

NEIGHBOURS = (6, 8, 10)
EIGENVALUE_FLOOR = 0.01


def colour_planes(images: np.ndarray) -> list[np.ndarray]:
    """Luminance and two opponent colours ``(N, P)``, each image standardised.

    Args:
        images: ``(N, 3, P)``, any number type.
    """
    opponent = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
    planes = np.einsum("kc,ncp->knp", opponent.astype(np.float32), images.astype(np.float32))
    return [standardise(plane) for plane in planes]


def standardise(plane: np.ndarray) -> np.ndarray:
    """Subtract each row's mean and divide by its deviation: ``(N, P)`` -> ``(N, P)``."""
    centred = plane - plane.mean(1, keepdims=True)
    scale = centred.std(1, keepdims=True)
    return centred / (scale + 0.1 * scale.mean() + 1e-6)  # flat images do not blow up


def correlations(planes: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Correlation of positions over the images: all planes together, and each alone; ``(P, P)``."""
    covariances = []
    for plane in planes:
        centred = plane - plane.mean(0)
        covariances.append(centred.T @ centred / len(plane))
    return _correlation(sum(covariances)), [_correlation(c) for c in covariances]


def recover_permutation(
    similarity: np.ndarray,
    parts: list[np.ndarray],
    size: tuple[int, int],
    neighbours: tuple[int, ...] = NEIGHBOURS,
) -> np.ndarray:
    """Estimate the natural position of every scrambled one, up to the grid's symmetries.

    Args:
        similarity: correlation ``(P, P)`` of scrambled positions, all planes together.
        parts: correlations ``(P, P)`` of one plane each, by which the likeliest is chosen.
        size: ``(H, W)`` with ``H*W = P``.
        neighbours: sizes of neighbourhood to try in the graph.

    Returns:
        Int ``(P,)``: scrambled position ``p`` belongs to natural ``permutation[p]``.
    """
    permutations = candidates(similarity, size, neighbours)
    return min(permutations, key=lambda candidate: nll(parts, candidate, size))


def candidates(
    similarity: np.ndarray, size: tuple[int, int], neighbours: tuple[int, ...] = NEIGHBOURS
) -> list[np.ndarray]:
    """The permutations ``(P,)`` that steps 1 to 4 find from each size of neighbourhood."""
    permutations = []
    for count in neighbours:
        points = geodesic_embedding(similarity, count)
        for swap in (False, True) if size[0] != size[1] else (False,):
            permutations.append(improve_qap(similarity, assign_to_grid(points, size, swap), size))
    return permutations


def orient(
    similarity: np.ndarray, permutation: np.ndarray, size: tuple[int, int], reference: np.ndarray
) -> np.ndarray:
    """Turn a permutation the right way up, and improve it, by what public pictures tell.

    Args:
        similarity: correlation ``(P, P)`` of scrambled positions.
        permutation: what ``recover_permutation`` found.
        size: ``(H, W)``.
        reference: correlation ``(P, P)`` of natural positions in public pictures.
    """
    turned = max(symmetries(permutation, size), key=lambda t: _agreement(similarity, t, reference))
    return improve_qap(similarity, turned, size, reference)


def geodesic_embedding(similarity: np.ndarray, neighbours: int) -> np.ndarray:
    """Points ``(P, 2)`` in the plane whose distances are those along the graph of neighbours."""
    length = np.sqrt(np.maximum(1 - similarity, 0)) + 1e-6
    np.fill_diagonal(length, np.inf)
    count = len(length)
    start = np.repeat(np.arange(count), neighbours)
    end = np.argpartition(length, neighbours, axis=1)[:, :neighbours].ravel()
    graph = coo_matrix((length[start, end], (start, end)), shape=(count, count)).tocsr()
    paths = shortest_path(graph.maximum(graph.T), directed=False)
    paths[np.isinf(paths)] = paths[np.isfinite(paths)].max()  # parts that are not connected
    squared = paths**2
    gram = -(squared - squared.mean(0) - squared.mean(1)[:, None] + squared.mean()) / 2
    values, vectors = np.linalg.eigh(gram)
    return vectors[:, -2:] * np.sqrt(np.maximum(values[-2:], 0))


def assign_to_grid(points: np.ndarray, size: tuple[int, int], swap: bool = False) -> np.ndarray:
    """One grid position for each point ``(P, 2)``, the squared distances' sum being least.

    ``swap`` takes the points' second axis for the grid's first, which matters unless it is square.
    """
    points = (points - points.mean(0)) / (points.std(0) + 1e-12)
    angles = np.arange(0, 90, 3) * np.pi / 180
    turns = [np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) for a in angles]
    # of all turns, a rectangle is flattest (has the least fourth moment) along its sides
    points = min((points @ turn for turn in turns), key=lambda turned: (turned**4).sum())
    grid = _grid(size)[:, ::-1] if swap else _grid(size)
    grid = (grid - grid.mean(0)) / np.maximum(grid.std(0), 1e-12)
    cost = ((points[:, None] - grid[None]) ** 2).sum(-1)
    return linear_sum_assignment(cost)[1]


def improve_qap(
    similarity: np.ndarray,
    permutation: np.ndarray,
    size: tuple[int, int],
    reference: np.ndarray | None = None,
    rounds: int = 20,
) -> np.ndarray:
    """A local optimum of the quadratic assignment of similarity to what is expected of the grid.

    Each round solves the assignment linearised at the current permutation (Frank-Wolfe with whole
    steps). ``scipy.optimize.quadratic_assignment`` expects one fixed matrix; here it is learned
    anew from every permutation.

    Args:
        similarity: ``(P, P)`` of scrambled positions.
        permutation: where to start.
        size: ``(H, W)``.
        reference: expected similarity of natural positions; None learns it from the permutation.
        rounds: at most so many reassignments.
    """
    for _ in range(rounds):
        order = np.argsort(permutation)
        laid_out = similarity[np.ix_(order, order)]
        expected = by_displacement(laid_out, size) if reference is None else reference
        better = linear_sum_assignment(-(similarity[:, order] @ expected))[1]
        moved = (better != permutation).mean()
        permutation = better
        if moved < 0.002:
            break
    return permutation


def by_displacement(laid_out: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Average ``(P, P)`` over all pairs of positions with the same distances, in either order."""
    grid = _grid(size)
    apart = np.abs(grid[:, None] - grid[None]).astype(np.int64)  # (P, P, 2)
    kind = apart.max(-1) * max(size) + apart.min(-1)
    total = np.bincount(kind.ravel(), laid_out.ravel())
    return (total / np.maximum(np.bincount(kind.ravel()), 1))[kind]


def nll(parts: list[np.ndarray], permutation: np.ndarray, size: tuple[int, int]) -> float:
    """Negative log-likelihood (per image, up to a constant) of a permutation as a Gaussian field.

    The field's covariance is stationary and learned under the permutation itself, for each plane.
    """
    order, total = np.argsort(permutation), 0.0
    for part in parts:
        laid_out = part[np.ix_(order, order)]
        values, vectors = np.linalg.eigh(by_displacement(laid_out, size))
        values = np.maximum(values, EIGENVALUE_FLOOR)
        power = ((laid_out @ vectors) * vectors).sum(0)
        total += float(np.log(values).sum() + (power / values).sum())
    return total


def misfit(similarity: np.ndarray, permutation: np.ndarray, size: tuple[int, int]) -> float:
    """How far similarity is from depending on displacement alone; sum of squares.

    Unlike ``nll`` it assumes nothing of the field's distribution.
    """
    order = np.argsort(permutation)
    laid_out = similarity[np.ix_(order, order)]
    return float(((laid_out - by_displacement(laid_out, size)) ** 2).sum())


def symmetries(permutation: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """The permutation turned and mirrored in every way of the grid: eight if square, else four."""
    height, width = size
    rows, columns = np.divmod(permutation, width)
    turned = []
    for y, x in ((rows, columns), (columns, rows)) if height == width else ((rows, columns),):
        for flipped_y in (y, height - 1 - y):
            turned += [flipped_y * width + flipped_x for flipped_x in (x, width - 1 - x)]
    return turned


def _agreement(similarity: np.ndarray, permutation: np.ndarray, reference: np.ndarray) -> float:
    order = np.argsort(permutation)
    return float((similarity[np.ix_(order, order)] * reference).sum())


def _correlation(covariance: np.ndarray) -> np.ndarray:
    deviation = np.sqrt(np.diag(covariance)) + 1e-12
    return covariance / deviation / deviation[:, None]


def _grid(size: tuple[int, int]) -> np.ndarray:
    return np.stack(np.divmod(np.arange(size[0] * size[1]), size[1]), 1).astype(np.float64)

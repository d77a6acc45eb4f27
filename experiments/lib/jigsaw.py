"""Puts the blocks of scrambled pictures together as a jigsaw: neighbours have like borders.

For ciphers that move square blocks, turn and mirror them and, EtC, invert them and reorder their
channels. (The attack of Chuman, Kurihara and Kiya, "On the security of block scrambling-based EtC
systems against extended jigsaw puzzle solver attacks", IEICE 2018; the solver is our own.)

1. cost of each pair of blocks side by side, in every way to show them: how much their borders
   differ, summed over all pictures that share the key;
2. greedy: the picture grows from one block by the cheapest neighbour;
3. refinement: the cells of one colour of a chessboard touch only those of the other, so that all
   blocks on them can be placed anew at once (linear assignment), in turn for both colours; then
   all move along by whole rows and columns, if that costs less.

What is found is known up to a symmetry and colour of the whole picture, which leave every cost
unchanged. A person sees which is right, but for the mirror image; ``nearest`` is told.

Convention: a block is shown in one of eight symmetries ``g`` (``operators.blocks``) and one of
``K`` colours ``c``; its appearance is the number ``(block * 8 + g) * K + c``.
"""

from itertools import permutations, product

import numpy as np
import torch

from experiments.lib.solvers import linear_sum_assignment
from operators.blocks import SYMMETRIES, symmetry_table

UNCHANGED = ((False, (0, 1, 2)),)
ETC = tuple(product((False, True), permutations(range(3))))  # inverted, order of the channels
EXTRAPOLATED = 0.5  # of the difference to the next pixel inwards: values on the border itself
STARTS = 4  # blocks from which the picture is grown in turn; the cheapest counts
ROUNDS = 20  # of refinement, at most
BORDER_IMAGES = 2000  # public pictures that tell how neighbours differ
ROT, MIRROR = 1, 4  # a quarter turn counter-clockwise, left to right


def _after() -> np.ndarray:
    """``(8, 8)``: entry ``[t, g]`` is the symmetry that does ``g`` and then ``t``."""
    table = symmetry_table(2).tolist()
    return np.array([[table.index([a[p] for p in b]) for a in table] for b in table])


AFTER = _after()
# what turns (dy, dx), where a neighbour lies, to the left
TO_THE_LEFT = {(0, -1): 0, (0, 1): MIRROR, (-1, 0): ROT, (1, 0): AFTER[MIRROR, ROT]}


def _as_seen_from(colours: tuple) -> np.ndarray:
    """``(K, K)``: entry ``[a, b]`` is the colour that ``b`` becomes where ``a`` is undone."""
    return np.array(
        [
            [
                colours.index((one ^ two, tuple(b[a.index(channel)] for channel in range(3))))
                for two, b in colours
            ]
            for one, a in colours
        ]
    )


def shown(images: torch.Tensor, colours: tuple = UNCHANGED) -> torch.Tensor:
    """Square images ``(..., 3, N, N)`` in all symmetries and colours, ``(..., 8, K, 3, N, N)``."""
    side = images.shape[-1]
    turned = images.flatten(-2)[..., symmetry_table(side)]  # (..., 3, 8, N*N)
    turned = turned.unflatten(-1, (side, side)).movedim(-3, -4)
    every = [(turned[..., list(order), :, :], inverted) for inverted, order in colours]
    return torch.stack([255 - x if inverted else x for x, inverted in every], -4)


def blocks_of(images: torch.Tensor, side: int) -> torch.Tensor:
    """Images ``(N, 3, H, W)`` cut into square blocks, row by row: ``(N, B, 3, side, side)``."""
    grid = images.unfold(2, side, side).unfold(3, side, side)  # (N, 3, rows, columns, side, side)
    return grid.flatten(2, 3).transpose(1, 2)


def images_of(blocks: torch.Tensor, columns: int) -> torch.Tensor:
    """The inverse of ``blocks_of`` for images of so many blocks a row."""
    grid = blocks.unflatten(1, (-1, columns))  # (N, rows, columns, 3, side, side)
    return grid.movedim(3, 1).transpose(3, 4).flatten(4).flatten(2, 3)


def border(images: torch.Tensor) -> torch.Tensor:
    """Values guessed on the left border of images ``(..., 3, N, N)``: ``(..., 3*N)``."""
    inwards = min(1, images.shape[-1] - 1)
    return ((1 + EXTRAPOLATED) * images[..., 0] - EXTRAPOLATED * images[..., inwards]).flatten(-2)


class Puzzle:
    """The costs of all ways to put blocks side by side.

    Args:
        images: scrambled ones that share a key, uint8 ``(N, 3, H, W)``.
        side: of a block.
        white: what whitens the difference of two borders (``border_whitening``).
        colours: what the cipher may do to those of a block.
    """

    def __init__(
        self, images: torch.Tensor, side: int, white: torch.Tensor, colours: tuple = UNCHANGED
    ) -> None:
        self.grid = (images.shape[2] // side, images.shape[3] // side)
        self.side, self.colours = side, colours
        self.blocks = self.grid[0] * self.grid[1]
        self._relative = _as_seen_from(colours)
        each = (self._differences(x, white) for x in blocks_of(images.float(), side))
        self._costs = sum(each).numpy()

    def _differences(self, blocks: torch.Tensor, white: torch.Tensor) -> torch.Tensor:
        """``(B, 8, B, 8, K)``: each to the left of each, the left one's colours kept.

        Each as a multiple of the least that either border has to any other block.
        """
        left = border(shown(blocks).flip(-1)).flatten(0, 2)
        right = border(shown(blocks, self.colours)).flatten(0, 2)
        costs = torch.cdist(left @ white, right @ white)
        costs = costs.view(self.blocks, SYMMETRIES, self.blocks, SYMMETRIES, -1) + 0.01
        costs[range(self.blocks), :, range(self.blocks)] = torch.inf
        least = costs.flatten(2).amin(2)  # (B, 8)
        itself = least.view(self.blocks, SYMMETRIES, 1, 1, 1)
        mirrored = least[:, AFTER[MIRROR]]
        return costs / (itself * mirrored[:, :, None]).sqrt()

    def beside(self, appearance: int, lies: tuple[int, int]) -> np.ndarray:
        """Costs of every appearance ``(B*8*K,)`` beside one that lies there, ``(dy, dx)``."""
        rest, colour = divmod(appearance, len(self.colours))
        block, symmetry = divmod(rest, SYMMETRIES)
        turn = TO_THE_LEFT[lies]
        costs = self._costs[block, AFTER[turn, symmetry]]  # (B, 8, K)
        return costs[:, AFTER[turn]][:, :, self._relative[colour]].ravel()

    def solve(self) -> np.ndarray:
        """The appearance in each cell of the grid, int ``(rows, columns)``, of least cost found."""
        starts = range(0, self.blocks, -(-self.blocks // STARTS))
        turns = (0,) if self.grid[0] == self.grid[1] else (0, ROT)  # a rectangle lies or stands
        first = [(block * SYMMETRIES + t) * len(self.colours) for block in starts for t in turns]
        return min((self._refined(self._grown(start)) for start in first), key=self._total)

    def _grown(self, start: int) -> np.ndarray:
        """Greedy: every block where it costs least beside those that lie already."""
        placed, beside = {}, {}  # by cell; the sum of costs there, and of how many neighbours
        cell, appearance = (0, 0), start
        used = np.zeros(self.blocks, dtype=bool)
        while True:
            placed[cell] = appearance
            beside.pop(cell, None)
            used[appearance // (SYMMETRIES * len(self.colours))] = True
            if used.all():
                break
            for dy, dx in TO_THE_LEFT:
                near = (cell[0] + dy, cell[1] + dx)
                if near not in placed:
                    total, count = beside.get(near, (0, 0))
                    beside[near] = (total + self.beside(appearance, (-dy, -dx)), count + 1)
            fits = [c for c in beside if self._fits(placed, c)]
            costs = np.stack([beside[c][0] / beside[c][1] for c in fits])
            costs.reshape(len(fits), self.blocks, -1)[:, used] = np.inf
            best, appearance = divmod(int(costs.argmin()), costs.shape[1])
            cell = fits[best]
        top, left = (min(c[axis] for c in placed) for axis in (0, 1))
        layout = np.empty(self.grid, dtype=np.int64)
        for (y, x), appearance in placed.items():
            layout[y - top, x - left] = appearance
        return layout

    def _fits(self, placed: dict, cell: tuple[int, int]) -> bool:
        """Whether the picture stays within its size."""
        spans = (
            max(*(c[axis] for c in placed), cell[axis])
            - min(*(c[axis] for c in placed), cell[axis])
            for axis in (0, 1)
        )
        return all(span < size for span, size in zip(spans, self.grid, strict=True))

    def _refined(self, layout: np.ndarray) -> np.ndarray:
        for _ in range(ROUNDS):
            better = self._cut(layout)
            for parity in (0, 1):
                better = self._placed_anew(better, parity)
            if self._total(better) >= self._total(layout) - 1e-3:
                break
            layout = better
        return layout

    def _placed_anew(self, layout: np.ndarray, parity: int) -> np.ndarray:
        """The best placing of all blocks on the cells with ``(y + x) % 2 == parity``."""
        cells = [c for c in np.ndindex(*self.grid) if sum(c) % 2 == parity]
        each = SYMMETRIES * len(self.colours)
        free = [layout[c] // each for c in cells]
        costs = [self._around(layout, c).reshape(self.blocks, each)[free] for c in cells]
        if not costs:
            return layout
        rows, chosen = linear_sum_assignment(np.stack([c.min(1) for c in costs]))
        layout = layout.copy()
        for cell, which in zip(rows, chosen, strict=True):
            layout[cells[cell]] = free[which] * each + costs[cell][which].argmin()
        return layout

    def _around(self, layout: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
        """Costs ``(B*8*K,)`` of every appearance in a cell beside its neighbours."""
        total = np.zeros(self.blocks * SYMMETRIES * len(self.colours), dtype=np.float32)
        for dy, dx in TO_THE_LEFT:
            y, x = cell[0] + dy, cell[1] + dx
            if 0 <= y < self.grid[0] and 0 <= x < self.grid[1]:
                total += self.beside(layout[y, x], (dy, dx))
        return total

    def _seams(self, layout: np.ndarray, axis: int) -> np.ndarray:
        """Cost of each cell's border to the one before it along an axis, the first to the last."""
        before, lies = np.roll(layout, 1, axis), (-1, 0) if axis == 0 else (0, -1)
        pairs = zip(before.flat, layout.flat, strict=True)
        return np.array([self.beside(a, lies)[b] for a, b in pairs]).reshape(layout.shape)

    def _cut(self, layout: np.ndarray) -> np.ndarray:
        """Roll the picture so that its edge lies where neighbours cost most."""
        for axis in (0, 1):
            layout = np.roll(layout, -int(self._seams(layout, axis).sum(1 - axis).argmax()), axis)
        return layout

    def _total(self, layout: np.ndarray) -> float:
        return float(sum(np.delete(self._seams(layout, axis), 0, axis).sum() for axis in (0, 1)))

    def assemble(self, images: torch.Tensor, layout: np.ndarray) -> torch.Tensor:
        """Scrambled images laid out as a solution says."""
        appearances = shown(blocks_of(images, self.side), self.colours).flatten(1, 3)
        return images_of(appearances[:, torch.from_numpy(layout.ravel())], self.grid[1])


def border_whitening(images: torch.Tensor, side: int) -> torch.Tensor:
    """What whitens the difference of two borders of blocks, in all colours alike.

    Args:
        images: public ones, uint8 ``(M, 3, H, W)``, that tell how neighbours differ.
        side: of a block.

    Returns:
        ``(3*side, 3*side)``.
    """
    images = images[:BORDER_IMAGES]
    blocks = blocks_of(torch.cat([images, images.transpose(2, 3)]).float(), side)
    grid = blocks.unflatten(1, (images.shape[2] // side, -1))  # (M, rows, columns, 3, N, N)
    apart = border(grid.flip(-1))[:, :, :-1] - border(grid)[:, :, 1:]
    covariance = torch.cov(apart.flatten(0, 2).T).view(3, side, 3, side)
    covariance = covariance + covariance.flip(1, 3)
    orders = [list(order) for _, order in ETC]
    alike = torch.stack([covariance[o][:, :, o] for o in orders]).mean(0)
    return whitening(alike.view(3 * side, 3 * side))


def whitening(covariance: torch.Tensor) -> torch.Tensor:
    """``W`` with ``W W^T`` the inverse of a covariance of grey levels, and of a little noise."""
    noisy = covariance.double() + torch.eye(len(covariance), dtype=torch.float64)
    return torch.linalg.cholesky(torch.linalg.inv(noisy)).float()


def nearest(
    assembled: torch.Tensor, images: torch.Tensor, colours: tuple = UNCHANGED
) -> torch.Tensor:
    """Assembled pictures ``(N, 3, H, H)``, each as a whole turned and coloured as its image is."""
    every = shown(assembled, colours).flatten(1, 2)  # (N, 8*K, 3, H, H)
    apart = (every.float() - images[:, None]).square().mean((2, 3, 4))
    return every[torch.arange(len(every)), apart.argmin(1)]


def right_pairs(
    assembled: torch.Tensor, image: torch.Tensor, side: int, colours: tuple = UNCHANGED
) -> float:
    """The share of neighbouring blocks of an image that are neighbours, likewise, in the true one.

    Args:
        assembled: ``(3, H, H)``; how it is turned and coloured as a whole makes no difference.
        image: the true one, ``(3, H, H)``.
        side: of a block.
        colours: of the cipher.
    """
    true = shown(image, colours).flatten(0, 1)
    found = torch.stack([assembled, assembled.transpose(1, 2)])
    known = {pair for pairs in _pairs(true, side) for pair in pairs}
    shares = [pair in known for pairs in _pairs(found, side) for pair in pairs]
    return sum(shares) / len(shares)


def _pairs(images: torch.Tensor, side: int) -> list[list[bytes]]:
    """The values of each two blocks side by side, for each image."""
    windows = images.unfold(2, side, side).unfold(3, 2 * side, side)
    pairs = windows.permute(0, 2, 3, 1, 4, 5).flatten(3).numpy()
    return [[pair.tobytes() for row in image for pair in row] for image in pairs]

"""What a training run is asked to do."""

from dataclasses import dataclass
from pathlib import Path

from operators import SecretKey

SELECTIONS = ("last", "validation", "test")


@dataclass(frozen=True)
class RunOptions:
    """What a run trains, on what, and where its files go.

    Attributes:
        net: a name in the registry of networks; a file that it names is run, and its folder is
            left out of all that is written.
        dataset: a data set of the run's task.
        data_dir: where the data set is; None for the default.
        permute: scramble the images.
        train_seed: seed of initial weights, order, augmentation and dropout.
        weights: start from these weights, or None.
        resume: a checkpoint to continue from, or None.
        select: ``last``: no selection; ``validation``: ``best.pt`` is the best epoch on the
            validation split; ``test``: on the test images, as was published.
        val_fraction: fraction of the training images in the validation split.
        save: write checkpoints and the record; needed to select. A resumed run always does.
        checkpoint_dir, log_dir: the roots of the files of all runs.
        backend: how the layers of a keyed network compute.
        image_size, workers: of the data set ``folder``, as for ``datasets.load_train``.
        save_every: also save after so many steps of an epoch; 0 for at its end only.
        run_key: the key of ``scrambler`` where the user holds no file of it, to be kept in the
            folder of a new run; else None.
    """

    net: str
    dataset: str
    data_dir: Path | None
    checkpoint_dir: Path
    log_dir: Path
    permute: bool = False
    train_seed: int = 0
    weights: Path | None = None
    resume: Path | None = None
    select: str = "last"
    val_fraction: float = 0.1
    save: bool = False
    backend: str = "auto"
    image_size: tuple[int, int] | None = None
    workers: int | None = None
    save_every: int = 0
    run_key: SecretKey | None = None

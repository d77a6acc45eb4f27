"""The same run with several seeds."""

import statistics
from collections.abc import Callable
from dataclasses import replace

from utils.io import checkpoint
from utils.io.run_record import write_json
from utils.runtime import distributed
from utils.training.options import RunOptions


def train_seeds(
    seeds: list[int], options: RunOptions, score: str, train: Callable[[RunOptions], dict]
) -> dict:
    """Train once with each seed, and report mean and standard deviation of the test scores.

    Args:
        seeds: at least two.
        options: of a run; the seed is replaced.
        score: name of the score, as the task has it.
        train: makes one run of options and returns its record.

    Returns:
        The summary, which ``<first run>.seeds.json`` beside the runs holds too if they are saved.
    """
    records = [train(replace(options, train_seed=seed)) for seed in seeds]
    scores = [record[f"test_{score}"] for record in records]
    summary = {
        "seeds": seeds,
        "runs": [record["name"] for record in records],
        "test_accuracies" if score == "accuracy" else f"test_{score}": scores,
        "mean": statistics.fmean(scores),
        "standard_deviation": statistics.stdev(scores),
        "select": options.select,
    }
    if distributed.is_main_process():
        print(
            f"Test {score} over {len(seeds)} seeds: {summary['mean']:.2%} "
            f"+- {summary['standard_deviation']:.2%} (mean, standard deviation)"
        )
        if options.save:
            name = f"{summary['runs'][0]}.seeds.json"
            write_json(options.checkpoint_dir / checkpoint.folder_name(options.net) / name, summary)
    return summary

"""Flags that several scripts share, each written once: its name, default, unit and help."""

from utils.cli.flags.data import add_data, add_folder, check_folder, folder_image_size
from utils.cli.flags.keys import (
    add_cipher,
    add_key,
    add_per_image,
    check_cipher,
    check_key,
    check_per_image,
    cipher_of,
    load_key,
    per_image_from,
    scrambler_from,
    take_run_key,
    warn_of_few_keys,
)
from utils.cli.flags.networks import (
    add_backend,
    add_device,
    add_network,
    add_weights,
    check_backend,
    network,
    weights_from,
)
from utils.cli.flags.outputs import writable_file, writable_folder
from utils.cli.flags.run import add_amp, add_recipe, check_init, recipe_from, run_options

__all__ = [
    "add_amp",
    "add_backend",
    "add_cipher",
    "add_data",
    "add_device",
    "add_folder",
    "add_key",
    "add_network",
    "add_per_image",
    "add_recipe",
    "add_weights",
    "check_backend",
    "check_cipher",
    "check_folder",
    "check_init",
    "check_key",
    "check_per_image",
    "cipher_of",
    "folder_image_size",
    "load_key",
    "network",
    "per_image_from",
    "recipe_from",
    "run_options",
    "scrambler_from",
    "take_run_key",
    "warn_of_few_keys",
    "weights_from",
    "writable_file",
    "writable_folder",
]

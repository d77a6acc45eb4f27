"""Whether a run that was stopped may go on as it is asked to."""

from dataclasses import fields

from models import public_name
from operators import BlockCipher, ImageScrambler, PerImageScrambler
from utils.inference.network import cipher_of_run
from utils.io import checkpoint
from utils.runtime.errors import UserError
from utils.training.options import RunOptions
from utils.training.recipe import Recipe, from_saved


def check_resumable(
    options: RunOptions,
    recipe: Recipe,
    permuting: ImageScrambler | BlockCipher | None,
    per_image: PerImageScrambler | None,
    state: dict,
) -> None:
    """Refuse to continue a run as another one than it was.

    Args:
        options, recipe: what is asked for.
        permuting, per_image: what scrambles the images, or each image, or None.
        state: the checkpoint of ``options.resume``, as ``checkpoint.read`` returned it.

    Raises:
        UserError: naming the first difference, or what keeps the checkpoint from being resumed.
    """
    if "format" not in state:
        raise UserError(f"-resume {options.resume}: bare weights; expected a checkpoint of a run")
    if state["format"] != checkpoint.FORMAT:
        raise UserError(
            f"-resume {options.resume}: checkpoint format {state['format']}, whose random streams "
            f"are no longer drawn; format {checkpoint.FORMAT} can be resumed. -load_weights starts "
            "from its weights"
        )
    record = state["record"]
    found_recipe = from_saved(state["recipe"], type(recipe))
    pairs = {
        "-net": (state["net"], public_name(options.net)),
        "-dataset": (state["data"]["name"], options.dataset),
        "-permute": (record["permute"], options.permute),
        "-per_image": (record.get("per_image", False), per_image is not None),
        "-cipher": (cipher_of_run(record), None if permuting is None else permuting.cipher),
        "key": (state["key"], None if permuting is None else permuting.fingerprint),
        "-train_seed": (state["train_seed"], options.train_seed),
        "-select": (record["select"], options.select),
        "-image_size": (state["data"]["image_size"], options.image_size),
    }
    if options.image_size is None:
        del pairs["-image_size"]
    if record.get("val_fraction") is not None:
        pairs["-val_fraction"] = (record["val_fraction"], options.val_fraction)
    names = sorted(f.name for f in fields(recipe) if f.name != "amp")  # the machine's, not its
    for name in names:
        pairs[f"recipe {name}"] = (getattr(found_recipe, name), getattr(recipe, name))
    for name, (found, wanted) in pairs.items():
        if found != wanted:
            raise UserError(
                f"-resume {options.resume}: the run has {name} {found}, asked for is {wanted}; "
                f"repeat the flags of its command: {record['command']} (paths are shortened there)"
            )

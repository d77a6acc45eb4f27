"""Networks and what is done with them: built by name, keyed, folded."""

from models.keying import KeyedNetwork, KeyingError, key_network
from models.registry import KEYED_SUFFIX, check_name, create_model, is_keyed, names
from models.sources import public_name

__all__ = [
    "KEYED_SUFFIX",
    "KeyedNetwork",
    "KeyingError",
    "check_name",
    "create_model",
    "is_keyed",
    "key_network",
    "names",
    "public_name",
]

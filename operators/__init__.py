"""The paper's operators: keys, offsets, keyed convolution and keyed pooling.

Read in the paper's order: ``scrambler`` (a permutation and what it does to an image), ``offset``
(two permutations and a layer's geometry become sampling offsets), ``deformable_conv`` and
``deformable_pooling`` (layers that run on scrambled maps). Below them, ``permutation`` checks,
inverts and draws permutations, ``gather`` is the reordering that all of them share, and
``keyed_layer`` what all keyed layers have in common. Beside them, ``key`` holds the 256-bit secrets
that can take a seed's place, ``per_image`` a fresh permutation for every image, ``blocks`` the
geometry of keys that move whole blocks, and ``block_ciphers`` the ciphers that the paper compares
itself with, made of a ``value_map`` drawn by ``cipher_keys``. ``triton_conv`` is an optional GPU
kernel that nothing imports before it is asked for.
Depends on torch, torchvision and numpy only.
"""

from operators.block_ciphers import BlockCipher, keyed_parts, make_scrambler
from operators.cipher_keys import CIPHERS
from operators.deformable_conv import KeyedConv2d
from operators.deformable_pooling import KeyedAvgPool2d, KeyedMaxPool2d
from operators.gather import BACKENDS
from operators.key import SecretKey
from operators.per_image import PerImageScrambler
from operators.permutation import KeyStream
from operators.scrambler import ImageScrambler

__all__ = [
    "BACKENDS",
    "CIPHERS",
    "BlockCipher",
    "ImageScrambler",
    "KeyStream",
    "KeyedAvgPool2d",
    "KeyedConv2d",
    "KeyedMaxPool2d",
    "PerImageScrambler",
    "SecretKey",
    "keyed_parts",
    "make_scrambler",
]

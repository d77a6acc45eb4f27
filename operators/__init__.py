"""The paper's operators: keys, offsets, keyed convolution and keyed pooling.

Read in the paper's order: ``scrambler`` (a key and what it does to an image), ``offset`` (two keys
and a layer's geometry become sampling offsets), ``deformable_conv`` and ``deformable_pooling``
(layers that run on scrambled maps). ``gather`` holds the reordering that all of them share,
``triton_conv`` a GPU kernel for the convolution, ``key`` the 256-bit secrets that can take a seed's
place, ``per_image`` a fresh permutation for every image, ``blocks`` the geometry of keys that move
whole blocks, ``block_ciphers`` the ciphers that the paper compares itself with.
Depends on torch, torchvision and numpy only.
"""

from operators.block_ciphers import CIPHERS, BlockCipher, keyed_parts, make_scrambler
from operators.deformable_conv import KeyedConv2d
from operators.deformable_pooling import KeyedAvgPool2d, KeyedMaxPool2d
from operators.gather import BACKENDS
from operators.key import Key
from operators.per_image import PerImageScrambler
from operators.scrambler import ImageScrambler, KeyStream

__all__ = [
    "BACKENDS",
    "CIPHERS",
    "BlockCipher",
    "ImageScrambler",
    "Key",
    "KeyStream",
    "KeyedAvgPool2d",
    "KeyedConv2d",
    "KeyedMaxPool2d",
    "PerImageScrambler",
    "keyed_parts",
    "make_scrambler",
]

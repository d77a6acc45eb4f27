"""Key an ordinary network: trace it, plan, draw the keys, rewrite it, and compare the two.

Read in this order: ``key_network`` (the call), ``layout`` (which axes of a tensor are scrambled,
under which key), ``plan`` (what rules decide), ``registry`` and ``rules`` (one for each kind of
operation), ``trace`` (the network as a graph with shapes), ``rewrite`` (the plan carried out),
``network`` (the result as a module) and ``verify`` (whether it computes the same).
"""

from models.keying.key_network import key_network
from models.keying.network import KeyedNetwork
from models.keying.plan import KeyingError

__all__ = ["KeyedNetwork", "KeyingError", "key_network"]

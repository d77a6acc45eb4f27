"""How ``models.key_network`` keys an ordinary network: trace it, plan, draw the keys, rewrite it.

Read in this order: ``layout`` (which axes of a tensor are scrambled, under which key), ``plan``
(what rules decide), ``registry`` and ``rules`` (one for each kind of operation), ``trace`` (the
network as a graph with shapes), ``rewrite`` (the plan carried out) and ``network`` (the result as
a module).
"""

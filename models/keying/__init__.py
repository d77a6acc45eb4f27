"""Key any network that torch can export: export it, plan, draw the keys, rewrite it, compare.

A worked example, for images of 8x12:

    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 24, 5)

        def forward(self, x):
            x = F.max_pool2d(torch.relu(self.conv(x)) + x.mean(1, keepdim=True), 2)
            return self.fc(x.flatten(1))

**Exporting** (``export``) gives one node for each ATen operator, with shapes; a node that is all of
a leaf module's call becomes that module again, so ``conv`` and ``fc`` are called by their names.
**Planning** (``plan``, ``relate``, ``rules``) goes through the nodes and notes who is scrambled
where; a run (``layout``) is a key and where its positions lie in the order of elements:

    node              result           scrambled positions, and what is inserted
    x                 (N, 3, 8, 12)    96 under the image key k0
    conv              (N, 4, 8, 12)    96 under a new key k1; ``KeyedConv2d`` from k0 to k1
    relu              (N, 4, 8, 12)    96 under k1
    mean              (N, 1, 8, 12)    96 under k0
    add               (N, 4, 8, 12)    its operands meet: k1 is fixed to k0
    max_pool2d        (N, 4, 4, 6)     24 under a new key k2; ``KeyedMaxPool2d`` from k0 to k2
    flatten           (N, 96)          none: its operand is restored from k2 on the way
    fc                (N, 5)           none

**Drawing** takes the keys that are left, here k2, from the client's stream in that order.
**Rewriting** (``rewrite``) puts keyed layers in the places of layers, and reorderings into
``keying``, a submodule without parameters. ``network`` is the result as a module; ``verify`` says
whether it computes what the plain network does; ``report`` how much of it stays scrambled.

Read in this order: ``key_network``, ``graph``, ``export``, ``layout``, ``plan``, ``relate``,
``rules``, ``rewrite``, ``network``, ``verify``, ``report``. What only exporting needs is in
``translate``, ``functions``, ``leaves`` and ``trace``, what it needs of the plain network in
``plain`` and ``output``.
"""

from models.keying.graph import KeyingError
from models.keying.key_network import key_network
from models.keying.network import GraphNetwork, KeyedNetwork

__all__ = ["GraphNetwork", "KeyedNetwork", "KeyingError", "key_network"]

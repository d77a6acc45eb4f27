"""One call makes an ordinary network run on scrambled images (paper, section 3).

The network is traced, every tensor with a spatial extent is planned a key, the keys are drawn in
the order of execution (for VGG16 that of the published implementation), and layers are replaced
by their keyed operators. The modules beside this one hold these steps; ``rules`` says what is done
with each operation.

What this promises: the keyed network computes on scrambled images exactly what the plain one
computes on the images, up to rounding, or ``key_network`` raises. Every tensor that one layer hands
to the next is scrambled, unless a flattening or a global pooling has made features of it. A layer
without a keyed operator (interpolation, windowed attention, ...) gets its input restored, and its
result is scrambled under a fresh key; the gather backend does the same for every layer.
"""

import copy
from inspect import signature

from torch import Tensor, fx, nn

from models.keying.layout import NATURAL, Group, trimmed
from models.keying.network import KeyedNetwork, without_meta
from models.keying.plan import LAYOUT, VALUE, KeyingError, Plan
from models.keying.registry import SOURCES, rule_for
from models.keying.rewrite import carry_out
from models.keying.trace import find_shapes, trace
from models.keying.verify import check_equal, evaluate, image_channels, leaves, random_images
from operators import ImageScrambler


def key_network(
    net: nn.Module,
    scrambler: ImageScrambler,
    backend: str = "auto",
    in_channels: int | None = None,
    scramble_output: bool = False,
    verify: bool = True,
) -> KeyedNetwork:
    """The network that gives on scrambled images what ``net`` gives on the images.

    It has copies of the parameters of ``net``, in the same order and under the same names; keys
    and offsets are buffers that never enter a ``state_dict``. Maps that meet in a sum or a
    concatenation share one key, every other layer's output has its own.

    Shape: input ``(N, C, H, W)`` scrambled by ``scrambler``, output as ``net``'s.

    Args:
        net: an ordinary network that ``torch.fx`` can trace; it is left as it is.
        scrambler: the key of the images, and the source of the layers' keys.
        backend: how keyed operators compute: ``auto``, ``deform``, ``gather`` or ``triton``.
        in_channels: ``C`` of the images; None for that of the first convolution, or 3.
        scramble_output: return maps (of a segmentation, say) as the server has them; the
            ``ImageScrambler`` in ``output_keys`` restores them. Otherwise they come in natural
            order.
        verify: compare both networks in float64 on random images before returning.

    Raises:
        KeyingError: naming the module, the operation and the reason, if the network cannot be
            keyed exactly, or if the comparison fails.
        ValueError: if the backend is unknown.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(6), nn.Flatten()).eval()
        >>> scrambler, image = ImageScrambler(8, seed=0), torch.rand(2, 3, 8, 8)
        >>> torch.allclose(key_network(net, scrambler)(scrambler(image)), net(image), atol=1e-6)
        True
    """
    # here, because the rules import private names of torchvision, which plain networks never need
    from models.keying import rules  # noqa: F401  (fills the registry)

    work = copy.deepcopy(net)
    if in_channels is None:
        in_channels = image_channels(work)
    graph, eval_only = trace(work)
    if eval_only and net.training:
        raise KeyingError(
            "forward: takes another path in training than in evaluation; call net.eval() first"
        )
    find_shapes(work, graph, (2, in_channels, *scrambler.image_size))
    plan = make_plan(work, graph, backend, scrambler.key.cpu(), scramble_output)
    stream = scrambler.layer_keys()
    for key in plan.keys:
        if key.value is None:
            key.value = stream.draw(key.positions)
    keys_out = output_keys(graph, scramble_output)
    plain_graph = without_meta(graph)
    carry_out(plan)
    image = next(iter(graph.nodes))
    image_key = plan.keys[0].value.to(image.meta[VALUE].device)
    keyed = KeyedNetwork(
        work, without_meta(graph), keys_out, eval_only, plain_graph=plain_graph, image_key=image_key
    )
    if verify:
        images = random_images(in_channels, scrambler.image_size)
        found = evaluate(keyed, scrambler(images))
        restored = (
            x if key is None else key.unscramble(x)
            for x, key in zip(found, leaves(keyed.output_keys), strict=True)
        )
        check_equal(evaluate(net, images), list(restored))
    return keyed


def make_plan(
    net: nn.Module, graph: fx.Graph, backend: str, image_key: Tensor, scramble_output: bool
) -> Plan:
    """Apply the rule of every operation, in the order of execution."""
    plan = Plan(net, graph, backend, image_key)
    for node in graph.nodes:
        if node.op == "placeholder":
            # The first input is the image batch; others keep their defaults.
            image = node is next(iter(graph.nodes))
            span = trimmed(plan.shape(node), 2, 3) if image else None
            node.meta[LAYOUT] = NATURAL if span is None else (Group(plan.keys[0], *span),)
        elif node.op == "output":
            for x in plan.tensors(node):
                if not (scramble_output and stays_scrambled(x)):
                    plan.restore(node, x)
        else:
            node.meta[LAYOUT] = layout_after(plan, node)
    return plan


def layout_after(plan: Plan, node: fx.Node) -> object:
    """Apply the rule of one operation; the layout of its result, or of each of its results."""
    keyed = any(plan.layout(x) != NATURAL for x in node.all_input_nodes)
    rule = rule_for(node, plan.module(node))
    if rule not in SOURCES and not keyed:
        return NATURAL
    if not holds_tensor(node.meta[VALUE]):
        return NATURAL  # a shape, a number
    if rule is None:
        plan.fail(node, "has no rule, so what it does to a scrambled map is not known")
    arguments = dict(node.kwargs)
    first = [arguments.pop("input")] if "input" in arguments and not node.args else []
    try:
        call = signature(rule).bind(plan, node, *first, *node.args, **arguments)
    except TypeError as error:
        plan.fail(node, f"is called with arguments that its rule does not know ({error})")
    return rule(*call.args, **call.kwargs)


def holds_tensor(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return any(holds_tensor(v) for v in value)
    return isinstance(value, Tensor)


def stays_scrambled(x: fx.Node) -> bool:
    """Whether an output is a map, which a client can restore: scrambled at its last two axes."""
    shape = tuple(x.meta[VALUE].shape)
    span = trimmed(shape, len(shape) - 2, len(shape) - 1) if len(shape) >= 2 else None
    return [group.span for group in x.meta[LAYOUT]] == [span]


def output_keys(graph: fx.Graph, scramble_output: bool) -> object:
    """An ``ImageScrambler`` for each map that is returned scrambled, None for other outputs."""

    def key_of(x: object) -> ImageScrambler | None:
        if not (scramble_output and isinstance(x, fx.Node) and stays_scrambled(x)):
            return None
        key = x.meta[LAYOUT][0].key.value
        return ImageScrambler(tuple(x.meta[VALUE].shape[-2:]), key=key)

    output = next(node for node in graph.nodes if node.op == "output")
    return fx.node.map_aggregate(output.args[0], key_of)

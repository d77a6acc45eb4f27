"""One call makes an ordinary network run on scrambled images (paper, section 3).

The network is exported, every tensor with positions is planned a key, the keys are drawn in the
order of execution (for VGG16 that of the published implementation), and layers are replaced by
their keyed operators.

What this promises: the keyed network computes on scrambled images exactly what the plain one
computes on the images, up to rounding, or ``key_network`` raises. Every tensor that one layer hands
to the next is scrambled, unless a flattening or a global pooling has made features of it, or
``KeyedNetwork.report`` says that its operator has no rule.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from models.keying.export import Exported
from models.keying.graph import HELPERS, VALUE, KeyingError, is_tensor, mutates, named, written
from models.keying.layout import NATURAL, Layout, MapKey, Run, atoms, span
from models.keying.network import KeyedNetwork, Mode, Program
from models.keying.plain import copied
from models.keying.plan import LAYOUT, RULE, Plan, Shared
from models.keying.registry import SOURCES, rule_for
from models.keying.report import RESTORED, Report, rows
from models.keying.rewrite import carry_out
from models.keying.trace import trace, trace_at
from models.keying.verify import compare
from operators import ImageScrambler, KeyStream
from operators.gather import resolve_backend


def key_network(
    net: nn.Module,
    scrambler: ImageScrambler,
    backend: str = "auto",
    in_channels: int | None = None,
    scramble_output: bool = False,
    verify: bool = True,
    strict: bool = False,
) -> KeyedNetwork:
    """The network that gives on scrambled images what ``net`` gives on the images.

    It has copies of the parameters of ``net``, in the same order and under the same names; keys
    and offsets are buffers that never enter a ``state_dict``. Maps that meet in a sum or a
    concatenation share one key, every other layer's output has its own.

    Shape: input ``(N, C, H, W)`` scrambled by ``scrambler``, output as ``net``'s.

    Args:
        net: an ordinary network that ``torch.export`` can export; it is left as it is.
        scrambler: the key of the images, and the source of the layers' keys.
        backend: how keyed operators compute: ``auto``, ``deform``, ``gather`` or ``triton``.
        in_channels: ``C`` of the images; None for that of the first convolution, or 3.
        scramble_output: return maps (of a segmentation, say) scrambled; the ``ImageScrambler`` in
            ``output_keys`` restores them, and so does ``scrambler.for_output``, which needs no
            network. Otherwise they come in natural order.
        verify: compare both networks in float64 on random images before returning.
        strict: refuse operators without a rule, in place of restoring their inputs.

    Raises:
        KeyingError: naming the module, the operation and the reason, if the network cannot be
            keyed exactly, or if the comparison fails.
        ValueError: if an argument is none of these.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(6), nn.Flatten()).eval()
        >>> scrambler, image = ImageScrambler(8, seed=0), torch.rand(2, 3, 8, 8)
        >>> torch.allclose(key_network(net, scrambler)(scrambler(image)), net(image), atol=1e-6)
        True
    """
    resolve_backend(backend)
    for name, value, kind in (("net", net, nn.Module), ("scrambler", scrambler, ImageScrambler)):
        if not isinstance(value, kind):
            raise ValueError(f"{name}: expected {kind.__name__}, got {type(value).__name__}")
    if in_channels is not None and in_channels < 1:
        raise ValueError(f"in_channels must be at least 1, got {in_channels}")
    shared = Shared(MapKey(0, scrambler.key.numel(), scrambler.key.cpu()), backend, strict)
    output = scrambler if scramble_output else None
    keyed = planned(net, scrambler.image_size, shared, scrambler.layer_keys(), in_channels, output)
    if verify:
        precision = keyed.modes[False].program.precision
        send, restore = (lambda images: (scrambler(images),)), keyed.restored
        compare(net, keyed, keyed.image_shape, precision, send, restore)
    return keyed


def planned(
    net: nn.Module,
    image_size: tuple[int, int],
    shared: Shared,
    stream: KeyStream,
    in_channels: int | None = None,
    output: ImageScrambler | None = None,
) -> KeyedNetwork:
    """The keyed network of a plain one, unverified.

    Args:
        stream: where keys are drawn from.
        output: whose keys for outputs the maps come back under; None for natural order.
    """
    with named(), torch.inference_mode(False), torch.enable_grad():
        work = copied(net, copy.deepcopy)
        plain = copied(work)
        image, exported = trace_at(plain, image_size, in_channels)
        work.add_module(HELPERS, nn.Module().train(net.training))
        planner = Planner(plain, image, shared, stream, output)
        mode, image_key = planner.key(work, exported), shared.image_key.value.to(image.device)
        return KeyedNetwork(work, {False: mode}, tuple(image.shape[1:]), image_key, planner.rekey)


@dataclass
class Planner:
    """Keys a network in one mode after the other, with the same keys.

    Attributes:
        plain: the network, with parameters that are shared with the keyed one.
        image: an example of a batch.
        shared, stream, output: as ``planned`` takes them.
    """

    plain: nn.Module
    image: Tensor
    shared: Shared
    stream: KeyStream
    output: ImageScrambler | None

    def rekey(self, keyed: nn.Module) -> Mode:
        """Key what a keyed network does in training, with the parameters that it has now."""
        for path, module in self.plain.named_modules():
            there = keyed.get_submodule(path)
            module._parameters.update((n, there._parameters[n]) for n in module._parameters)
            module._buffers.update((n, there._buffers[n]) for n in module._buffers)
        like = next((p for p in keyed.parameters() if p.is_floating_point()), self.image)
        self.image = self.image.to(like.device, like.dtype)
        with named(), torch.inference_mode(False), torch.enable_grad():
            return self.key(keyed, trace(self.plain, self.image, training=True))

    def key(self, net: nn.Module, exported: Exported) -> Mode:
        """Plan a network in one mode, and rewrite ``net``."""
        from models.keying import rules  # noqa: F401  (fills the registry; plain networks need none)

        graph, spec, shared = exported.graph, exported.spec, self.shared
        helpers = net.get_submodule(HELPERS)
        for name, constant in exported.constants.items():
            helpers.register_buffer(name, constant, persistent=False)
        plan = make_plan(Plan(net, graph, shared))
        output_keys = plan_output(plan, self.output)
        for key in shared.keys:
            draw(key, self.stream)
        shared.known = {name: key.value for name, key in plan.places.items()} | shared.known
        plain, seen = Program.of(graph, spec), rows(plan)
        layers = carry_out(plan, helpers)
        called = {node.target for node in graph.find_nodes(op="call_module")}
        shared.unkeyed |= called - shared.layers.keys()
        lost = tuple(name for name in exported.leaves if name not in called)
        report = Report(tuple(seen), lost)
        return Mode(Program.of(graph, spec), plain, output_keys, report, layers, plan.first_map)


def draw(key: MapKey, stream: KeyStream) -> None:
    """Draw a key, or the factors of a product, unless that was done."""
    for part in key.parts:
        draw(part, stream)
    if key.value is None:
        key.give(stream.draw(key.positions))


def make_plan(plan: Plan) -> Plan:
    """Apply the rule of every operation, in the order of execution."""
    for node in plan.graph.nodes:
        if node.op == "placeholder":
            key = plan.shared.image_key
            outer = plan.shape(node)[0] * plan.shape(node)[1]
            node.meta[LAYOUT] = (Run(key, outer),) if key.positions > 1 else NATURAL
        elif node.op != "output":
            node.meta[LAYOUT] = layout_after(plan, node)
    return plan


def layout_after(plan: Plan, node: fx.Node) -> object:
    """Apply the rule of one operation; the layout of its result, or of each of its results."""
    target, args, kwargs = plan.call(node)
    value = node.meta.get(VALUE)
    several = isinstance(value, (tuple, list))
    if not (several or is_tensor(node)):
        return NATURAL  # a shape, a number
    rule = rule_for(target)
    seen = any(any(x.meta.get(LAYOUT, NATURAL)) for x in node.all_input_nodes)
    if not seen and (rule not in SOURCES or not any(map(plan.has_batch, plan.tensors(node)))):
        return (NATURAL,) * len(value) if several else NATURAL
    if mutates(node) and written(node).op == "get_attr":
        return kept(plan, node)
    if rule is not None:
        node.meta[RULE] = rule.__name__
        try:
            layout = rule(plan, node, *args, **kwargs)
        except KeyingError:
            raise
        except Exception as error:
            reason = f"its rule {rule.__name__} fails: {type(error).__name__}: {error}"
            raise KeyingError(plan.message(node, reason)) from error
        if layout is not NotImplemented:
            # a module may return the first of its operator's results alone
            return layout[0] if layout and not several and isinstance(layout[0], tuple) else layout
    if plan.shared.strict:
        plan.fail(node, "has no rule, so what it does to a scrambled map is not known")
    node.meta[RULE] = RESTORED
    layout = restored(plan, node)
    return (NATURAL,) * len(value) if several else layout


def kept(plan: Plan, node: fx.Node) -> Layout:
    """What is written into a buffer of the network is in natural order there."""
    node.meta[RULE] = "kept"
    for x in plan.tensors(node):
        plan.restore(node, x)
    plan.lost.add(node)
    return NATURAL


def restored(plan: Plan, node: fx.Node) -> Layout:
    """Compute an operation in natural order; a fresh key if its result is a map."""
    if not is_tensor(node):
        spans = set()
    elif len(plan.shape(node)) == 4:
        spans = {(2, 3)}
    else:
        spans = set()
        for x in plan.tensors(node):
            axes = list(range(len(plan.shape(x))))
            covered = [atoms(run, plan.shape(x), axes) for run in plan.layout(x)]
            if plan.shape(x) == plan.shape(node):
                spans |= {(c[0][0], c[-1][0]) for c in covered if c and len(c) == len(covered) == 1}
    for x in plan.tensors(node):
        plan.restore(node, x)
    fresh = [run for at in spans for run in plan.fresh(node, *at)]
    return plan.scramble_result(node, tuple(fresh))


def plan_output(plan: Plan, scrambler: ImageScrambler | None) -> list:
    """Restore what is returned, or bring it under the client's keys; those, one for each leaf."""
    (output,) = plan.graph.find_nodes(op="output")
    keys: list[ImageScrambler | None] = []
    for x in output.args[0]:
        key = None
        if isinstance(x, fx.Node) and is_tensor(x):
            shape, layout = plan.shape(x), plan.layout(x)
            is_map = len(shape) > 2 and [(r.outer, r.key.positions) for r in layout] == [
                span(shape, len(shape) - 2, len(shape) - 1)
            ]
            if scrambler is not None and is_map:
                key = scrambler.for_output(shape[-2:], sum(k is not None for k in keys))
                plan.rekey(output, x, layout[0], MapKey(0, key.key.numel(), key.key.cpu()))
            else:
                plan.restore(output, x)
        keys.append(key)
    return keys

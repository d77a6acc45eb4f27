"""What people do with a Module, done with keyed networks: three of them, keyed once."""

import copy
import functools
import io
import pickle
import socket
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from models import create_model, key_network
from models.fold import fold_batch_norm, fold_keys
from operators import ImageScrambler
from operators.keyed_layer import KeyedLayer
from utils.inference.exporting import export, run_exported
from utils.training.init import whitening_init

SIZE = (16, 16)
SCRAMBLER = ImageScrambler(SIZE, seed=5)


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(1))


class Functional(nn.Module):
    """A convolution, a functional pooling, position numbers that it makes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4 * 64, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)))
        y = x * torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)
        y += torch.zeros(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device)
        return self.fc(F.max_pool2d(y, 2).flatten(1))


MAKE = {
    "functional": Functional,
    "preresnet20_basic": lambda: create_model("preresnet20_basic"),
    "vit": lambda: torchvision.models.VisionTransformer(16, 4, 2, 2, 8, 16, num_classes=5),
}


@functools.cache
def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """A plain network and its keyed twin, which no test changes."""
    torch.manual_seed(0)
    plain = MAKE[name]().eval()
    for p in plain.parameters():
        if not p.any():  # a head that starts at zero would say nothing
            nn.init.normal_(p, std=0.1)
    return plain, key_network(plain, SCRAMBLER, strict=True)


@pytest.fixture(params=MAKE)
def nets(request):
    return pair(request.param)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda net: pickle.loads(pickle.dumps(net)),
    "average": AveragedModel,
    "compile": lambda net: torch.compile(net, backend="aot_eager", fullgraph=True),
    "sync": lambda net: nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net)),
}


@pytest.mark.parametrize("copied", COPIES)
@torch.no_grad()
def test_copies_compute_the_same(nets, copied):
    plain, keyed = nets
    torch._dynamo.reset()
    twin = COPIES[copied](keyed)
    torch.testing.assert_close(twin(SCRAMBLER(images())), plain(images()), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_layers_are_the_plain_ones_or_their_keyed_forms(nets):
    plain, keyed = nets
    sync = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(keyed))
    for name, layer in plain.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d, nn.Linear, nn.Dropout)):
            assert isinstance(keyed.get_submodule(name), type(layer)), name
        if isinstance(layer, nn.BatchNorm2d):
            assert isinstance(sync.get_submodule(name), nn.SyncBatchNorm)


@torch.no_grad()
def test_both_folds(nets):
    plain, keyed = nets
    keys, once = fold_keys(keyed), fold_batch_norm(plain, SIZE)
    both, norms = fold_batch_norm(keys), fold_batch_norm(keyed)
    for folded in (keys, both, norms):
        found = folded(SCRAMBLER(images()))
        torch.testing.assert_close(found, plain(images()), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(once(images()), plain(images()), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(m, KeyedLayer) for m in both.modules())
    left = [sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (plain, norms)]
    assert left[1] < left[0] or left == [0, 0]


def test_all_of_it_stays_scrambled(nets):
    assert nets[1].report().share == 1 and not nets[1].report().restored


def test_whitening_initialisation(nets):
    plain, keyed = (copy.deepcopy(net) for net in nets)
    for net in (plain, keyed):
        whitening_init(net, images(8))
    for name, weight in plain.state_dict().items():
        assert torch.equal(keyed.state_dict()[name], weight), name
    with torch.no_grad():
        found = keyed(SCRAMBLER(images()))
        torch.testing.assert_close(found, plain(images()), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_pickle_trains(nets):
    twin = pickle.loads(pickle.dumps(nets[1])).train()
    assert twin(SCRAMBLER(images())).shape == nets[0](images()).shape


def test_state_dicts_fit_both_ways_and_hold_no_key(nets):
    plain, keyed = nets
    assert list(keyed.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in keyed.named_parameters()] == [n for n, _ in plain.named_parameters()]
    twin, back = copy.deepcopy(keyed), copy.deepcopy(plain)
    for p in twin.parameters():
        nn.init.normal_(p, std=0.1)
    back.load_state_dict(twin.state_dict(), strict=True)
    with torch.no_grad():
        expected = back(images())
        torch.testing.assert_close(twin(SCRAMBLER(images())), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_other_dtypes(nets, dtype):
    plain, keyed = (copy.deepcopy(net).to(dtype) for net in nets)
    found, expected = keyed(SCRAMBLER(images().to(dtype))), plain(images().to(dtype))
    assert found.dtype == expected.dtype == dtype
    tolerance = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_another_device(nets):
    assert copy.deepcopy(nets[1]).to("meta")(images().to("meta")).device.type == "meta"


@torch.no_grad()
def test_functional_call_with_other_parameters(nets):
    state = {name: p * 1.5 for name, p in nets[0].named_parameters()}
    found = torch.func.functional_call(nets[1], state, (SCRAMBLER(images()),))
    expected = torch.func.functional_call(nets[0], state, (images(),))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_exports_again_for_any_batch(nets):
    plain, keyed = nets
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(keyed, (SCRAMBLER(images()),), dynamic_shapes=dynamic)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for batch in (1, 4):
        x = images(batch)
        torch.testing.assert_close(loaded(SCRAMBLER(x)), plain(x), rtol=1e-4, atol=1e-5)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("preresnet20_basic", "vit")]


@pytest.mark.parametrize("name", ["functional", *SLOW])
@torch.no_grad()
def test_onnx(name):
    plain, keyed = pair(name)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    file = export(keyed, images(), ".onnx")
    found = run_exported(file, ".onnx", SCRAMBLER(images()))
    torch.testing.assert_close(found, plain(images()), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_hooks_see_the_layers_scrambled_map():
    plain, keyed = (copy.deepcopy(net) for net in pair("preresnet20_basic"))
    seen = []
    for net in (plain, keyed):
        layer = net.get_submodule("layer1.0.conv1")
        layer.register_forward_hook(lambda *call: seen.append(call[2]))
    plain(images()), keyed(SCRAMBLER(images()))
    key = keyed.get_submodule("layer1.0.conv1").out_key
    torch.testing.assert_close(seen[1].flatten(2), seen[0].flatten(2)[..., key])


def _worker(rank: int, port: int, folder: str) -> None:
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    net = DistributedDataParallel(pair("functional")[1].double().train())
    net(SCRAMBLER(images(4)[rank::2].double())).square().mean().backward()
    if rank == 0:
        torch.save([p.grad for p in net.parameters()], f"{folder}/gradients.pt")
    dist.destroy_process_group()


def test_two_processes_share_gradients(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_worker, (port, str(tmp_path)), nprocs=2)
    net = copy.deepcopy(pair("functional")[0]).double().train()
    for rank in range(2):  # gradients add up; each process sees its own batch statistics
        (net(images(4)[rank::2].double()).square().mean() / 2).backward()
    for p, gradient in zip(net.parameters(), torch.load(tmp_path / "gradients.pt"), strict=True):
        torch.testing.assert_close(gradient, p.grad, rtol=1e-9, atol=1e-12)


@dataclass
class Answer:
    logits: torch.Tensor
    labels: torch.Tensor
    note: object = None
    count: int = 3


class Several(nn.Module):
    def __init__(self, wrap) -> None:
        super().__init__()
        self.conv, self.wrap = nn.Conv2d(3, 4, 3, padding=1), wrap

    def forward(self, x):
        y = self.conv(x)
        return self.wrap(y.mean((2, 3)), y.argmax(1))


WRAPS = {
    "dataclass": Answer,
    "dictionary": lambda a, b: {"logits": a, "labels": b, "note": None},
    "tuple": lambda a, b: (a, [b, 3]),
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_outputs_come_back_as_they_were(wrap):
    net = Several(WRAPS[wrap]).eval()
    found, expected = key_network(net, SCRAMBLER)(SCRAMBLER(images())), net(images())
    assert type(found) is type(expected)
    if wrap == "dataclass":
        assert (found.note, found.count) == (None, 3)
        found, expected = ((a.logits, a.labels) for a in (found, expected))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

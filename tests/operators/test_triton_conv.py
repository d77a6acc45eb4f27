"""The Triton kernel beside the gather backend, which is tested against nested loops elsewhere.

Without TRITON_INTERPRET=1 in the environment the kernel runs on a GPU, or these tests are skipped.
One test starts them in a process of their own under the interpreter: whether a kernel is
interpreted is decided when it is imported, for good.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from models import key_network
from operators import ImageScrambler, KeyedAvgPool2d, KeyedConv2d
from operators.offset import Geometry
from tests.operators import naive
from tests.operators.geometry import key

triton = pytest.importorskip("triton", reason="NO TRITON HERE: its kernel was not run")
from triton.backends import backends  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from operators.triton_conv import _kernel, keyed_conv2d_triton  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
needs_kernel = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()),
    reason="NO CUDA GPU HERE: the Triton kernel was not run on one, only under the interpreter",
)
CASES = {  # name: (C, O, H, W, batch), geometry
    "vgg": ((5, 18, 6, 7, 2), {"kernel_size": 3, "padding": 1}),
    "pointwise": ((17, 3, 4, 5, 1), {"kernel_size": 1}),
    "strided": ((3, 16, 7, 5, 3), {"kernel_size": (3, 1), "stride": (2, 1), "padding": (1, 0)}),
    "even": ((4, 7, 5, 8, 2), {"kernel_size": (2, 4), "stride": (1, 2), "padding": (0, 3)}),
    "dilated": ((33, 2, 7, 6, 1), {"kernel_size": 2, "dilation": (3, 2), "padding": 1}),
    "no images": ((2, 3, 4, 4, 0), {"kernel_size": 3}),
}
BOTH = ("triton", "gather")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def make(
    case: str, backend: str, dtype=torch.float32, **options
) -> tuple[KeyedConv2d, torch.Tensor]:
    """A layer with the same random parameters for every backend, and an input for it."""
    (channels, outputs, height, width, batch), geometry = CASES[case]
    out_height, out_width = Geometry((height, width), **geometry).output_size
    torch.manual_seed(0)
    layer = KeyedConv2d(
        channels,
        outputs,
        **geometry,
        **options,
        image_size=(height, width),
        in_key=key(height * width, 0),
        out_key=key(out_height * out_width, 1),
        backend=backend,
    )
    x = torch.randn(batch, channels, height, width)
    return layer.to(DEVICE, dtype), x.to(DEVICE, dtype)


@needs_kernel
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_ordinary_convolution_and_gather(case, bias, dtype):
    layer, x = make(case, "triton", dtype, bias=bias)
    gather, _ = make(case, "gather", dtype, bias=bias)
    y = layer(x)
    natural = naive.restore(x, layer.in_key).double()
    exact = layer.plain().double()(natural)
    near = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(naive.restore(y, layer.out_key).double(), exact, **near)
    torch.testing.assert_close(y, gather(x), **near)


@needs_kernel
@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_gather(case):
    results = []
    for backend in ("triton", "gather"):
        layer, x = make(case, backend)
        x.requires_grad_()
        y = layer(x)
        results.append(torch.autograd.grad(y.cos().sum(), (x, *layer.parameters())))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@needs_kernel
def test_gradients_of_some_inputs_only_and_twice():
    layer, x = make("strided", "triton")
    layer.requires_grad_(False)
    gather, _ = make("strided", "gather")
    twice = []
    for net in (layer, gather):
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(net(leaf).cos().sum(), leaf, create_graph=True)
        twice.append(torch.autograd.grad(grad.square().sum(), leaf)[0])
    torch.testing.assert_close(*twice, atol=1e-4, rtol=1e-4)


@needs_kernel
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_any_memory_layout(layout):
    layer, x = make("vgg", "triton")
    expected = layer(x)
    moved = layer.to(memory_format=layout)(x.to(memory_format=layout))
    transposed = layer(x.transpose(2, 3).contiguous().transpose(2, 3))
    assert torch.equal(moved, expected) and torch.equal(transposed, expected)


@needs_kernel
def test_autocast_gives_its_dtype_and_full_gradients():
    layer, x = make("vgg", "triton")
    exact = layer(x.requires_grad_())
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16 and exact.dtype == torch.float32
    torch.testing.assert_close(y.float(), exact, atol=0.05, rtol=0.05)
    y.float().sum().backward()
    assert x.grad.dtype == layer.weight.grad.dtype == torch.float32


@needs_kernel
def test_compiles_without_a_graph_break():
    layer, x = make("vgg", "triton")
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    y = compiled(x)
    torch.testing.assert_close(y, layer(x))
    (grad,) = torch.autograd.grad(y.cos().sum(), layer.weight)
    (expected,) = torch.autograd.grad(layer(x).cos().sum(), layer.weight)
    torch.testing.assert_close(grad, expected)


@needs_kernel
def test_a_whole_network():
    scrambler = ImageScrambler((6, 8), seed=0)
    plain = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 2),
        nn.AvgPool2d(2),
    )
    keyed = key_network(plain.eval(), scrambler, backend="triton").to(DEVICE)
    x = torch.randn(2, 3, 6, 8)
    found = keyed(scrambler(x).to(DEVICE)).cpu()
    torch.testing.assert_close(found, plain(x), atol=1e-5, rtol=1e-5)


@needs_kernel
def test_dtypes_that_differ_are_named():
    layer, x = make("vgg", "triton")
    with pytest.raises(ValueError, match=r"one dtype .*got \[torch.float16, torch.float32"):
        layer(x.half())


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_under_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled for the interpreter")
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("capability", [80, 90])
def test_compiles_for_nvidia_gpus_without_one(capability, dtype, tmp_path, monkeypatch):
    if "nvidia" not in backends:
        pytest.skip("NO NVIDIA COMPILER IN THIS TRITON: the kernel was not compiled")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    config = _kernel.configs[-1]
    flags = {"HAS_BIAS": True, "PRECISION": "ieee", "WIDEN": False}
    pointers = dict.fromkeys(("x", "weight", "bias", "y"), f"*{dtype}") | {"taps": "*i32"}
    constants = flags | config.kwargs
    signature = {
        name: "constexpr" if name in constants else pointers.get(name, "i32")
        for name in _kernel.arg_names
    }
    compiled = triton.compile(
        ASTSource(_kernel.fn, signature, constants), GPUTarget("cuda", capability, 32)
    )
    assert compiled.asm["cubin"]


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes the CPU's tensors")
def test_on_the_cpu_it_is_gather_and_the_kernel_itself_is_refused():
    keys = {"in_key": key(16, 0), "out_key": key(4, 1)}
    layer = KeyedConv2d(2, 3, 3, image_size=4, **keys, backend="triton")
    gather = KeyedConv2d(2, 3, 3, image_size=4, **keys, backend="gather")
    gather.load_state_dict(layer.state_dict())
    x = torch.randn(1, 2, 4, 4)
    torch.testing.assert_close(layer(x), gather(x), atol=0, rtol=0)
    window = ((1, 1), (0, 0), (1, 1))
    with pytest.raises(ValueError, match="CUDA device, or TRITON_INTERPRET=1, got cpu"):
        keyed_conv2d_triton(
            x, layer.weight, None, layer.taps, *keys.values(), layer.output_size, *window
        )


@pytest.mark.parametrize(("groups", "dtype"), [(2, torch.float32), (1, torch.float64)])
def test_groups_and_float64_are_left_to_gather(groups, dtype):
    torch.manual_seed(0)
    keys = {"image_size": 4, "in_key": key(16, 0), "out_key": key(4, 1)}
    layers = [
        KeyedConv2d(2, 4, 3, groups=groups, **keys, backend=b).to(dtype)
        for b in ("triton", "gather")
    ]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(1, 2, 4, 4, dtype=dtype)
    assert torch.equal(*(layer(x) for layer in layers))


def test_pools_as_gather_does():
    keys = {"image_size": 4, "in_key": key(16, 0), "out_key": key(4, 1)}
    x = torch.randn(1, 2, 4, 4)
    assert torch.equal(*(KeyedAvgPool2d(2, **keys, backend=b)(x) for b in BOTH))


def test_computes_as_gather_does_under_torch_func():
    keys = {"image_size": 4, "in_key": key(16, 0), "out_key": key(16, 1)}
    layer, gather = (KeyedConv2d(2, 3, 3, padding=1, **keys, backend=b) for b in BOTH)
    gather.load_state_dict(layer.state_dict())
    x = torch.randn(2, 2, 4, 4)
    found, expected = (
        torch.func.vmap(torch.func.grad(lambda x, net=net: net(x[None]).square().sum()))(x)
        for net in (layer, gather)
    )
    assert torch.equal(found, expected) and found.abs().max() > 0


def test_nothing_is_stored_and_the_table_survives_half_precision():
    layer = KeyedConv2d(
        2, 3, 3, image_size=4, in_key=key(16, 0), out_key=key(4, 1), backend="triton"
    )
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert layer.half().taps.dtype == torch.int32


def test_imports_and_says_so_where_triton_is_absent():
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import operators.triton_conv\n"
        "from operators.gather import resolve_backend\n"
        "resolve_backend('auto'); resolve_backend('triton')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr.endswith("triton needs the package triton, which is not installed\n")


def test_is_not_imported_before_it_is_asked_for():
    code = (
        "import sys, torch, models\n"
        "from operators import KeyedConv2d\n"
        "key = torch.arange(16)\n"
        "for backend in ('auto', 'gather', 'deform'):\n"
        "    layer = KeyedConv2d(1, 1, 1, image_size=4, in_key=key, out_key=key, backend=backend)\n"
        "    layer(torch.rand(1, 1, 4, 4))\n"
        "print('operators.triton_conv' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr

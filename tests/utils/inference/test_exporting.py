"""Exported networks give the network's logits, with standard operators, for any batch."""

import pytest
import torch

from models import create_model, key_network
from models.fold import fold_batch_norm, fold_keys
from operators import ImageScrambler
from tests.models.test_fold import keyed_pair
from utils.inference.exporting import FORMATS, export, run_exported

TRANSFORMS = {
    "whole": lambda keyed: keyed,
    "folded": lambda keyed: fold_batch_norm(fold_keys(keyed)),
}


def need(kind: str) -> None:
    if kind == ".onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            pytest.importorskip(package)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_round_trip(transform, kind):
    need(kind)
    plain, keyed, x, scrambled = keyed_pair("small", "gather")
    file = export(TRANSFORMS[transform](keyed), x[:2], kind)
    for batch in (1, 3):
        logits = run_exported(file, kind, scrambled[:batch])
        torch.testing.assert_close(logits, plain(x[:batch]), atol=1e-4, rtol=1e-4)


def test_onnx_holds_standard_operators_only():
    need(".onnx")
    import onnx

    _, keyed, x, _ = keyed_pair("small", "gather")
    model = onnx.load_from_string(export(keyed, x, ".onnx"))
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    operators = {node.op_type for node in model.graph.node}
    assert "Gather" in operators and "DeformConv" not in operators
    batch = model.graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_param  # a name, not a number


@pytest.mark.slow
def test_vgg16_in_onnxruntime():
    need(".onnx")
    plain, scrambler = create_model("vgg16").eval(), ImageScrambler(32, seed=0)
    x = torch.randn(3, 3, 32, 32)
    file = export(key_network(plain, scrambler, backend="gather").eval(), x, ".onnx")
    with torch.no_grad():
        torch.testing.assert_close(
            run_exported(file, ".onnx", scrambler(x)), plain(x), atol=1e-4, rtol=1e-3
        )

"""Networks as files that run without this project: ONNX and torch.export.

With the ``gather`` backend a keyed network exports to standard operators: each reordering is one
Gather. The key is part of the file.
"""

import io
import logging
import warnings

import torch
from torch import nn

from utils.runtime.errors import UserError

FORMATS = {".onnx": "ONNX", ".pt2": "torch.export"}


def export(net: nn.Module, images: torch.Tensor, kind: str) -> bytes:
    """The exported network as the bytes of a file.

    Args:
        net: a network in evaluation mode.
        images: what it takes, ``(N, 3, H, W)`` with N at least 2; the batch stays dynamic.
        kind: suffix of the file, one of ``FORMATS``.

    Raises:
        UserError: ONNX is asked for and its exporter is not installed.
    """
    dynamic = ({0: torch.export.Dim("batch")},)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about versions of operators that are not used
        program = torch.export.export(net, (images,), dynamic_shapes=dynamic)
        if kind == ".pt2":
            file = io.BytesIO()
            torch.export.save(program, file)
            return file.getvalue()
        try:
            logging.getLogger("torch.onnx").setLevel(logging.ERROR)
            names = {"input_names": ["images"], "output_names": ["logits"]}
            onnx = torch.onnx.export(program, dynamo=True, verbose=False, **names)
        except ImportError as error:
            raise UserError(
                f"ONNX needs the package {error.name}: pip install -r requirements-dev.txt"
            ) from error
        return onnx.model_proto.SerializeToString()


def run_exported(file: bytes, kind: str, images: torch.Tensor) -> torch.Tensor | None:
    """Logits of an exported network, or None where the package that runs it is missing."""
    if kind == ".pt2":
        return torch.export.load(io.BytesIO(file)).module()(images)
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

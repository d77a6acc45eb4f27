"""What all tests share: the real CIFAR-10 and CamVid, repeatable random examples."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    # before torch is imported: workers share the cores, and so do the processes that they start
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile(
    "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def cifar10_dir() -> Path:
    """The folder of the real CIFAR-10: ``$PRIVDL_DATA`` or ``data/``; without it the test skips."""
    root = Path(os.environ.get("PRIVDL_DATA") or ROOT / "data")
    if not any((root / name).is_dir() for name in ("test", "cifar-10-batches-py", "cifar10")):
        pytest.skip(f"NO CIFAR-10 in {root}: set PRIVDL_DATA to a folder that holds it")
    return root


@pytest.fixture(scope="session")
def camvid_dir() -> Path:
    """The folder of CamVid: ``$PRIVDL_CAMVID`` or ``data/camvid``; without it the test skips."""
    root = Path(os.environ.get("PRIVDL_CAMVID") or ROOT / "data" / "camvid")
    if not (root / "test" / "masks").is_dir():
        pytest.skip(f"NO CamVid in {root}: set PRIVDL_CAMVID to a folder that holds it")
    return root

"""Which arithmetic is taken: as told, or what a trial finds fast."""

import pytest
import torch

from utils.runtime import device
from utils.runtime.device import amp_is_on

CPU = torch.device("cpu")


@pytest.mark.parametrize(("slowdown", "auto"), [(0.5, True), (25.0, False)])
def test_auto_follows_the_trial_and_a_word_does_not(monkeypatch, slowdown, auto):
    monkeypatch.setattr(device, "bfloat16_slowdown", lambda device_type: slowdown)
    assert [amp_is_on(amp, CPU) for amp in ("auto", "on", "off")] == [auto, True, False]


def test_the_trial_times_both_types(monkeypatch):
    seconds = {torch.bfloat16: 3.0, torch.float32: 2.0}
    monkeypatch.setattr(device, "_seconds", seconds.__getitem__)
    assert device.bfloat16_slowdown.__wrapped__("cpu") == 1.5
    monkeypatch.undo()
    assert 0 < device.bfloat16_slowdown("cpu") < 1e4


@pytest.mark.parametrize(("supported", "slowdown"), [(True, 0.0), (False, float("inf"))])
def test_a_gpu_is_asked(monkeypatch, supported, slowdown):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert device.bfloat16_slowdown.__wrapped__("cuda") == slowdown

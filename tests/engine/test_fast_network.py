"""A network made fast before a test."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from mmengine.model import BaseModel

from ghmdet.engine.hooks import fast_network


class Detector(BaseModel):
    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))

    def forward(self, inputs):
        return self.backbone(inputs)


def test_fast_network(monkeypatch):
    torch.manual_seed(0)
    model, plain, x = Detector(), Detector(), torch.randn(1, 3, 2, 2)
    model.backbone[1].running_mean.uniform_()
    plain.load_state_dict(model.state_dict())
    compiled = []
    monkeypatch.setattr(fast_network.speedup, 'compile_network', compiled.append)
    runner = SimpleNamespace(model=model)
    hook = fast_network.TestSpeedupHook(cast=True, compile=True)
    hook.before_test(runner)
    assert compiled == [model]
    assert torch._inductor.config.freezing
    hook.after_test(runner)
    assert not torch._inductor.config.freezing
    assert list(model.state_dict()) == ['backbone.0.weight', 'backbone.0.bias']
    with torch.autocast('cpu', torch.bfloat16):
        found = model.backbone(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), plain.eval().backbone(x), rtol=0.02, atol=0.02)


def test_fast_network_in_float32_leaves_compilation_alone():
    model = Detector()
    fast_network.TestSpeedupHook().before_test(SimpleNamespace(model=model))
    assert model.backbone[0].weight.dtype == torch.float32
    assert model.backbone._compiled_call_impl is None
    assert list(model.state_dict()) == ['backbone.0.weight', 'backbone.0.bias']

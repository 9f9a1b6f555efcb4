"""Fusing, casting and compiling do not change the results."""

import copy
import shutil
from functools import partial

import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.config import Config
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn.modules.batchnorm import _BatchNorm

from ghmdet import config_path
from ghmdet.models import ResNet, ResNeXt
from ghmdet.models.speedup import cast_convolutions, compile_network, fuse_conv_bn
from ghmdet.registry import MODELS
from ghmdet.structures import DetDataSample, InstanceData
from tests import golden


def norms_of(model):
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def test_fused_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)).eval()
    conv, norm = model
    tensors = (conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias)
    for tensor, value in zip(tensors, (3.0, 1.0, 5.0, 4.0, 8.0, 0.5), strict=True):
        tensor.data.fill_(value)
    # ((3x + 1) - 5) / 2 * 8 + 0.5 = 12x - 15.5
    assert model(torch.full((1, 1, 1, 1), 2.0)).item() == 8.5
    fuse_conv_bn(model)
    assert (model[0].weight.item(), model[0].bias.item()) == (12, -15.5)
    assert model(torch.full((1, 1, 1, 1), 2.0)).item() == 8.5


BACKBONES = {
    'r18': lambda: ResNet(18),
    'r50': lambda: ResNet(50, norm_cfg=dict(type='SyncBN')),
    'x50': lambda: ResNeXt(depth=50, groups=32, base_width=4),
    'norm with act': lambda: ConvModule(3, 8, 3, norm_cfg=dict(type='BN')),
}


@pytest.mark.parametrize('build', BACKBONES.values(), ids=BACKBONES)
def test_all_batch_norms_of_our_parts_are_fused(build):
    torch.manual_seed(0)
    model = build().eval()
    for norm in norms_of(model):
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.data.uniform_(0.3, 0.7)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
        fuse_conv_bn(model)
        found = model(x)
    assert not norms_of(model)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


class Elsewhere(nn.Module):
    """Registers a norm after the convolution, but applies it before."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.conv(self.norm(x).relu())


class Standardised(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


BN, CONV, pair = dict(type='BN'), partial(nn.Conv2d, 3, 3, 1), nn.Sequential
LEFT_ALONE = {
    'order unknown': Elsewhere,
    'not adjacent': lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)),
    'norm first': lambda: ConvModule(3, 3, 1, norm_cfg=BN, order=('norm', 'conv', 'act')),
    'act between': lambda: ConvModule(3, 3, 1, norm_cfg=BN, order=('conv', 'act', 'norm')),
    'weight changes': lambda: nn.Sequential(Standardised(3, 3, 1), nn.BatchNorm2d(3)),
    'spectral norm': lambda: pair(nn.utils.spectral_norm(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)),
    'batch statistics': lambda: pair(CONV(), nn.BatchNorm2d(3, track_running_stats=False)),
    'group norm': lambda: pair(CONV(), nn.GroupNorm(1, 3)),
}


@pytest.mark.parametrize('build', LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_other_pairs_are_not_fused(build):
    model = build().eval()
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        expected = model(x)
        norms = len(norms_of(model))
        fuse_conv_bn(model)
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)
    assert len(norms_of(model)) == norms


def detect(model, dtype=None):
    batch = golden.model_batch(DetDataSample, InstanceData)
    data = model.data_preprocessor(batch, False)
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16, enabled=dtype is not None):
        return [s.pred_instances for s in model.predict(data['inputs'], data['data_samples'])]


R50 = 'retinanet_ghm_r50_fpn_1x_coco'


def test_fusion_keeps_the_golden_detections(golden_model):
    model = golden_model(R50).eval()
    fuse_conv_bn(model)
    assert norms_of(model) == []
    figures = golden.load('model_r50')
    for i, found in enumerate(detect(model)):
        prefix = f'pred{i}_rescale1'
        assert found.labels.tolist() == figures[f'{prefix}_labels'].tolist()
        assert abs(found.scores.numpy() - figures[f'{prefix}_scores']).max() < 2e-4
        assert abs(found.bboxes.numpy() - figures[f'{prefix}_boxes']).max() < 0.05


def test_cast_weights_give_what_autocast_gives(golden_model):
    model, plain = golden_model(R50).eval(), golden_model(R50).eval()
    cast_convolutions(model, torch.bfloat16)
    assert model.backbone.bn1.weight.dtype == torch.float32
    for a, b in zip(detect(model, 'bf16'), detect(plain, 'bf16'), strict=True):
        assert a.scores.dtype == torch.float32
        for key in ('bboxes', 'scores', 'labels'):
            torch.testing.assert_close(a[key], b[key], rtol=0, atol=0)


@pytest.fixture
def counter(monkeypatch):
    """Traces as --compile does, but runs the traced operations one by one."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compile = nn.Module.compile
    monkeypatch.setattr(
        nn.Module, 'compile', lambda self, **kwargs: compile(self, backend=counter, **kwargs)
    )
    yield counter
    torch._dynamo.reset()


# Not 256 first: a side that equals a number of channels would be traced as the same number.
HWS = [(160, 224), (256, 160), (192, 192), (160, 288)]


def test_all_sizes_are_traced_once(counter):
    cfg = Config.fromfile(config_path('retinanet_ghm_r18_fpn_shapes'))
    cfg.model.backbone.update(with_cp=True, norm_eval=True)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    names = list(model.state_dict())
    plain = copy.deepcopy(model)
    compile_network(model)
    assert list(model.state_dict()) == names
    for h, w in HWS:
        x = torch.randn(2, 3, h, w)
        outputs = [m.bbox_head(m.extract_feat(x)) for m in (model, plain)]
        for found, expected in zip(*outputs, strict=True):
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b)
    assert counter.frame_count == 3  # backbone, neck and head
    for maps in outputs:
        sum(level.sum() for level in maps[0]).backward()
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_without_a_compiler_a_warning_and_nothing_else(monkeypatch):
    monkeypatch.setattr(shutil, 'which', lambda name: None)
    monkeypatch.setenv('CXX', 'my-g++')
    model = nn.Module()
    model.backbone = nn.Conv2d(1, 1, 1)
    with pytest.warns(UserWarning, match=r"there is no 'my-g\+\+'.*apt install g\+\+.*--compile"):
        compile_network(model)
    assert model.backbone._compiled_call_impl is None

"""Mixed precision: where it is on, what stays float32, and which checkpoints resume."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper
from torch import nn

from ghmdet import config_path
from ghmdet.engine import amp, apply_amp, apply_amp_to_test
from ghmdet.engine.amp import AmpOptimWrapper
from ghmdet.registry import MODELS
from ghmdet.structures import DetDataSample, InstanceData


def wrap(kind=AmpOptimWrapper, value=1.0, **kwargs):
    """One weight, from which a `step` takes half its input."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    optimizer = torch.optim.SGD(layer.parameters(), lr=2.0, momentum=0.9)
    return layer, kind(optimizer=optimizer, **kwargs)


def step(layer, wrapper, x=1.0):
    with wrapper.optim_context(layer):
        loss = layer(torch.tensor([[x]])).sum()
    wrapper.update_params(loss.float() / 4)
    return loss.item()


def test_bfloat16_on_the_cpu_with_float32_weights():
    # 1 + 2**-8 lies half way between two numbers of bfloat16 and becomes the even one, 1
    layer, wrapper = wrap(value=1 + 2**-8)
    assert step(layer, wrapper) == 1.0
    assert not wrapper.loss_scaler.is_enabled()
    assert layer.weight.dtype == torch.float32
    assert layer.weight.item() == 1 + 2**-8 - 0.5
    assert wrapper.optimizer.state[layer.weight]['momentum_buffer'].dtype == torch.float32


@pytest.mark.parametrize(
    ('loss_scale', 'scale'),
    [({'init_scale': 4.0, 'growth_interval': 7}, 4), (512.0, 512), (8, 8)],
)
def test_float16_scales_the_loss_and_clips_what_is_unscaled(loss_scale, scale):
    clip_grad = {'type': 'value', 'clip_value': 0.5}
    layer, wrapper = wrap(loss_scale=loss_scale, dtype='float16', clip_grad=clip_grad)
    with wrapper.optim_context(layer):
        loss = layer(torch.ones(1, 1)).sum()
    assert loss.dtype == torch.float16
    wrapper.backward(loss.float())
    assert layer.weight.grad.item() == scale
    wrapper.step()
    assert layer.weight.item() == 1 - 2 * 0.5
    interval = wrapper.state_dict()['loss_scaler']['growth_interval']
    assert interval == (7 if isinstance(loss_scale, dict) else 2000)


def test_the_loss_scale_is_dynamic_by_default():
    assert wrap(dtype='float16')[1].loss_scaler.get_scale() == 65536


def test_gradients_accumulate():
    layer, wrapper = wrap(accumulative_counts=2)
    step(layer, wrapper, x=1.0)
    assert layer.weight.item() == 1
    step(layer, wrapper, x=3.0)
    assert layer.weight.item() == 1 - 0.5 * (1 + 3) / 2


RESUMES = [
    ({'kind': OptimWrapper}, {}),
    ({}, {'kind': OptimWrapper}),
    ({'dtype': 'float16'}, {'kind': OptimWrapper}),
    ({'dtype': 'float16'}, {}),
    ({}, {'dtype': 'float16'}),
    ({'dtype': 'float16', 'loss_scale': 16.0}, {'dtype': 'float16'}),
]


@pytest.mark.parametrize(('saved', 'resumed'), RESUMES)
def test_every_wrapper_resumes_from_every_other(saved, resumed):
    layer, wrapper = wrap(**saved)
    step(layer, wrapper)
    state_dict = copy.deepcopy(wrapper.state_dict())
    assert ('loss_scaler' in state_dict) == ('dtype' in saved)
    layer, wrapper = wrap(**resumed, value=0.5)
    wrapper.load_state_dict(state_dict)
    step(layer, wrapper)
    # momentum 0.9 of the first gradient, and the second
    assert layer.weight.item() == pytest.approx(0.5 - 0.5 * (0.9 + 1))
    if 'loss_scale' in saved:
        assert wrapper.loss_scaler.get_scale() == 16


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ({'dtype': 'float64'}, r"dtype must be one of \['float16', 'bfloat16'\], got 'float64'"),
        ({'loss_scale': 'static'}, "loss_scale must be 'dynamic', a number or a dict, got 'static"),
        ({'use_fsdp': True}, 'optim_wrapper.use_fsdp=True is not supported'),
    ],
)
def test_invalid_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        wrap(**setting)


def test_precision_of_each_device(monkeypatch):
    asked = []

    def is_supported(including_emulation):
        asked.append(including_emulation)
        return len(asked) == 1

    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', is_supported)
    chosen = [amp.low_precision(device) for device in ('cpu', 'cuda', 'cuda', 'npu')]
    assert chosen == [torch.bfloat16, torch.bfloat16, torch.float16, torch.float16]
    assert asked == [False, False]  # emulated bfloat16 is slower than float32


def test_losses_of_a_detector_are_near_those_of_float32():
    cfg = Config.fromfile(config_path('retinanet_ghm_r18_fpn_shapes'))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    model.init_weights()
    sample = DetDataSample(metainfo=dict(img_shape=(96, 128)))
    box = torch.tensor([[20.0, 20.0, 60.0, 70.0]])
    sample.gt_instances = InstanceData(bboxes=box, labels=torch.tensor([1]))
    image = (torch.rand(3, 96, 128) * 255).to(torch.uint8)
    wrapper = AmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    start, totals = copy.deepcopy(model.state_dict()), []
    for context in (torch.no_grad(), wrapper.optim_context(model)):
        model.load_state_dict(start)
        with context:
            data = model.data_preprocessor(dict(inputs=[image], data_samples=[sample]), True)
            losses = model.loss(data['inputs'], data['data_samples'])
        values = torch.stack(losses['loss_cls'] + losses['loss_bbox'])
        assert values.dtype == torch.float32
        totals.append(values.sum())
    assert totals[0].item() != totals[1].item()
    assert totals[1].item() == pytest.approx(totals[0].item(), rel=0.02)
    totals[1].backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in trained}
    assert {p.dtype for p in trained} == {torch.float32}


# --- the option of the tools --------------------------------------------------------------------


@pytest.fixture
def on_cpu(monkeypatch):
    """A machine without accelerator; returns a stream to which warnings are written."""
    monkeypatch.setattr(amp, 'get_device', lambda: 'cpu')
    stream = io.StringIO()
    monkeypatch.setattr(MMLogger.get_current_instance().handlers[0], 'stream', stream)
    return stream


@pytest.mark.parametrize('wrapper', [{'type': 'OptimWrapper'}, {'type': OptimWrapper}, {}])
@pytest.mark.parametrize(
    ('val_cfg', 'expected'),
    [
        ({}, {'fp16': True}),
        (None, None),
        ({'type': 'ValLoop', 'fp16': False}, {'type': 'ValLoop', 'fp16': False}),
        ({'type': 'MyLoop'}, {'type': 'MyLoop'}),
        ({'type': OptimWrapper}, {'type': OptimWrapper}),
    ],
)
def test_training(on_cpu, wrapper, val_cfg, expected):
    cfg = Config(dict(optim_wrapper={**wrapper, 'clip_grad': {'max_norm': 35}}, val_cfg=val_cfg))
    apply_amp(cfg)
    kept = {'type': 'AmpOptimWrapper', 'loss_scale': 'dynamic', 'clip_grad': {'max_norm': 35}}
    assert (cfg.optim_wrapper, cfg.val_cfg) == (kept, expected)


@pytest.mark.parametrize('kind', ['AmpOptimWrapper', AmpOptimWrapper])
def test_training_that_uses_it_already(on_cpu, kind):
    cfg = Config({'optim_wrapper': {'type': kind, 'loss_scale': 512.0}})
    apply_amp(cfg)
    assert '--amp does not change optim_wrapper' in on_cpu.getvalue()
    assert cfg.optim_wrapper.loss_scale == 512.0


def test_training_with_another_wrapper(on_cpu):
    with pytest.raises(ValueError, match=r'needs optim_wrapper\.type to be .* but it is ApexOptim'):
        apply_amp(Config({'optim_wrapper': {'type': 'ApexOptimWrapper'}}))


def test_mps(monkeypatch):
    monkeypatch.setattr(amp, 'get_device', lambda: 'mps')
    with pytest.raises(ValueError, match=r'\(--amp, AmpOptimWrapper\) is not available on mps'):
        apply_amp(Config({'optim_wrapper': {}}))


@pytest.mark.parametrize(('has_it', 'dtype'), [(True, torch.bfloat16), (False, torch.float16)])
def test_loops_autocast_to_what_the_card_has(monkeypatch, has_it, dtype):
    before = torch.get_autocast_dtype('cuda')
    monkeypatch.setattr(amp, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: has_it)
    cfg = Config({'test_cfg': {'type': 'TestLoop', 'fp16': False}})
    try:
        apply_amp_to_test(cfg)
        assert torch.get_autocast_dtype('cuda') == dtype  # which mmengine's loops ask for
    finally:
        torch.set_autocast_dtype('cuda', before)
    assert cfg.test_cfg == {'type': 'TestLoop', 'fp16': True}


@pytest.mark.parametrize(
    ('seconds', 'warning'),
    [
        (0.0021, 'in bfloat16 a convolution takes 2.1 times as long as without it'),
        (0.00105, ''),
        (0.0005, ''),
    ],
)
def test_a_cpu_that_is_slow_in_bfloat16(on_cpu, monkeypatch, seconds, warning):
    times = {torch.bfloat16: seconds, torch.float32: 0.001}
    monkeypatch.setattr(amp, '_time_convolution', times.get)
    apply_amp_to_test(Config({'test_cfg': {}}))
    assert warning in on_cpu.getvalue()
    assert ('--amp is slower than float32' in on_cpu.getvalue()) == bool(warning)


def test_the_cpu_is_prepared_before_a_convolution_is_timed(on_cpu, monkeypatch):
    calls = []
    monkeypatch.setattr(amp, 'prepare_cpu', lambda: calls.append('prepare'))
    monkeypatch.setattr(amp, '_time_convolution', lambda dtype: calls.append(dtype) or 1.0)
    apply_amp_to_test(Config({'test_cfg': {}}))
    assert calls == ['prepare', torch.bfloat16, torch.float32]


def test_the_time_of_a_convolution_is_the_best_of_some(monkeypatch):
    readings = iter([0, 9, 10, 12, 20, 21.5, 30, 33, 40, 44, 50, 55])
    monkeypatch.setattr(amp.time, 'perf_counter', lambda: next(readings))
    assert amp._time_convolution(torch.float32) == 1.5

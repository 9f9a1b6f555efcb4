import math

import pytest
import torch
import torchvision
from torch import nn

from ghmdet.models import ResNet, ResNeXt


def fill(model, seed=0):
    """Norms and biases that differ from their start, so that a wrong order shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if 'num_batches' in name:
            continue
        noise = torch.rand(value.shape, generator=generator)
        if value.dim() == 4:
            value.copy_((noise - 0.5) * 2 / math.sqrt(value[0].numel()))
        else:
            value.copy_(0.5 + noise)


TORCHVISION = [
    (lambda: ResNet(18), 'resnet18'),
    (lambda: ResNet(34), 'resnet34'),
    (lambda: ResNet(50), 'resnet50'),
    (lambda: ResNeXt(depth=50, groups=32, base_width=4), 'resnext50_32x4d'),
]


@pytest.mark.parametrize(('ours', 'theirs'), TORCHVISION, ids=[name for _, name in TORCHVISION])
def test_same_names_and_results_as_torchvision(ours, theirs):
    backbone, reference = ours().eval(), getattr(torchvision.models, theirs)(weights=None).eval()
    fill(reference)
    state_dict = reference.state_dict()
    del state_dict['fc.weight'], state_dict['fc.bias']
    assert list(backbone.state_dict()) == list(state_dict)
    backbone.load_state_dict(state_dict)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
        stages = backbone(x)
        for i in range(4):
            expected = getattr(reference, f'layer{i + 1}')(expected)
            torch.testing.assert_close(stages[i], expected)


@pytest.mark.parametrize(('depth', 'num_blocks'), [(101, 33), (152, 50)])
def test_deep_variants_have_their_blocks(depth, num_blocks):
    with torch.device('meta'):
        backbone = ResNet(depth)
        one_group = ResNeXt(depth=depth, groups=1, base_width=4)
    convs = [name for name in backbone.state_dict() if name.endswith('conv3.weight')]
    assert len(convs) == num_blocks
    assert str(one_group) == str(backbone).replace('ResNet(', 'ResNeXt(')


def test_style_moves_the_stride():
    def strides(style):
        block = ResNet(50, style=style).layer2[0]
        return block.conv1.stride, block.conv2.stride

    assert strides('pytorch') == ((1, 1), (2, 2))
    assert strides('caffe') == ((2, 2), (1, 1))


def trained(backbone):
    return {name.split('.')[0] for name, p in backbone.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ('frozen_stages', 'expected'),
    [
        (-1, {'conv1', 'bn1', 'layer1', 'layer2', 'layer3', 'layer4'}),
        (0, {'layer1', 'layer2', 'layer3', 'layer4'}),
        (1, {'layer2', 'layer3', 'layer4'}),
        (4, set()),
    ],
)
def test_frozen_stages_are_not_trained_and_stay_in_eval_mode(frozen_stages, expected):
    backbone = ResNet(18, frozen_stages=frozen_stages, norm_eval=False).train()
    assert trained(backbone) == expected
    running = {
        name.split('.')[0]
        for name, module in backbone.named_modules()
        if isinstance(module, nn.BatchNorm2d) and module.training
    }
    assert running == expected - {'conv1'}


def test_norm_eval_keeps_running_statistics():
    for norm_eval, moved in ((True, False), (False, True)):
        backbone = ResNet(18, norm_eval=norm_eval).train()
        before = backbone.bn1.running_mean.clone()
        backbone(torch.randn(2, 3, 32, 32) + 1)
        assert (not torch.equal(before, backbone.bn1.running_mean)) == moved
    assert not ResNet(18).eval().layer1.training


@pytest.mark.parametrize(('norm', 'name'), [('BN', 'bn1'), ('SyncBN', 'bn1'), ('GN', 'gn1')])
def test_norm_cfg(norm, name):
    norm_cfg = dict(type=norm, requires_grad=False)
    if norm == 'GN':
        norm_cfg['num_groups'] = 32
    backbone = ResNet(18, norm_cfg=norm_cfg)
    assert f'layer1.0.{name}.weight' in backbone.state_dict()
    assert not getattr(backbone, name).weight.requires_grad
    backbone.init_weights()
    last = name.replace('1', '2')
    assert getattr(backbone.layer2[1], last).weight.abs().max() == 0


def test_start_from_scratch():
    torch.manual_seed(0)
    backbone = ResNet(50)
    backbone.init_weights()
    block = backbone.layer3[2]
    assert block.bn1.weight.unique().tolist() == [1]
    assert block.bn3.weight.unique().tolist() == [0]
    assert block.bn3.bias.unique().tolist() == [0]
    # Kaiming-normal over the fan out: variance 2 / (out_channels * 3 * 3)
    std = backbone.layer4[0].conv2.weight.std().item()
    assert std == pytest.approx(math.sqrt(2 / (512 * 9)), rel=0.01)
    plain = ResNet(18, zero_init_residual=False)
    plain.init_weights()
    assert plain.layer1[0].bn2.weight.unique().tolist() == [1]


def test_pretrained_weights_are_loaded_and_norms_kept(tmp_path):
    source = ResNet(18)
    fill(source)
    torch.save(source.state_dict(), tmp_path / 'r18.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'r18.pth'))
    backbone = ResNet(18, init_cfg=init_cfg)
    backbone.init_weights()
    for name, value in source.state_dict().items():
        torch.testing.assert_close(backbone.state_dict()[name], value, rtol=0, atol=0)


def test_activation_checkpointing_changes_nothing():
    plain, saving = (ResNet(18, 3, (2, 1), with_cp=with_cp) for with_cp in (False, True))
    assert not hasattr(plain, 'layer4')
    fill(plain)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 64, 64)
    for backbone in (plain, saving):
        stages = backbone(x)
        assert [stage.shape[1] for stage in stages] == [128, 256]
        sum(stage.sum() for stage in stages).backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=name)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(depth=51), r'backbone.depth must be one of \[18, 34, 50, 101, 152\], got 51'),
        (dict(depth=18, num_stages=5), 'backbone.num_stages'),
        (dict(depth=18, num_stages=2), r'backbone.out_indices must be stages 0 to 1'),
        (dict(depth=18, style='tensorflow'), "backbone.style .*got 'tensorflow'"),
        (dict(depth=18, frozen_stages=5), 'backbone.frozen_stages must be -1 to 4, got 5'),
    ],
)
def test_settings_out_of_range(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**kwargs)
    with pytest.raises(ValueError, match='depth 50, 101 or 152, got 18'):
        ResNeXt(depth=18)


@pytest.mark.parametrize('backbone', [dict(depth=18), dict(depth=50, frozen_stages=1)])
def test_batch_norms_in_eval_mode_become_part_of_the_convolutions(backbone):
    torch.manual_seed(0)
    model = ResNet(**backbone, zero_init_residual=False).double().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    found = {}
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model.zero_grad()
        stages = model(images.contiguous(memory_format=memory_format))
        sum((stage * stage).mean() for stage in stages).backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found[memory_format] = stages, gradients
    (plain, plain_gradients), (fused, fused_gradients) = found.values()
    assert not any(torch.equal(*pair) for pair in zip(plain, fused))  # another way of rounding
    torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-9)
    assert fused_gradients.keys() == plain_gradients.keys()
    torch.testing.assert_close(fused_gradients, plain_gradients, rtol=1e-8, atol=1e-10)
    assert all(p.grad is None for p in model.conv1.parameters()) == (backbone['depth'] == 50)


def test_hooks_on_a_norm_are_still_called():
    model = ResNet(18).train()
    seen = []
    model.layer2[0].bn1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(torch.randn(1, 3, 32, 32).contiguous(memory_format=torch.channels_last))
    assert [tuple(output.shape) for output in seen] == [(1, 128, 4, 4)]

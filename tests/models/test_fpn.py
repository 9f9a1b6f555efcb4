import pytest
import torch
import torch.nn.functional as F

from ghmdet.models import FPN

IN = [8, 16, 32]


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, channels, size, size + 1, generator=generator)
        for channels, size in zip(IN, (13, 7, 4), strict=True)
    ]


def literal(fpn, maps, start=0):
    """The paper's top-down path, written out for three levels."""
    laterals = [conv.conv(maps[start + i]) for i, conv in enumerate(fpn.lateral_convs)]
    for i in reversed(range(len(laterals) - 1)):
        laterals[i] = laterals[i] + F.interpolate(laterals[i + 1], laterals[i].shape[2:])
    return laterals, [fpn.fpn_convs[i].conv(x) for i, x in enumerate(laterals)]


def test_pyramid_with_max_pooled_levels():
    maps = inputs()
    for fpn in (FPN(IN, 4, num_outs=2, end_level=1), FPN(IN, 4, num_outs=5)):
        _, expected = literal(fpn, maps)
        outs = fpn(maps)
        torch.testing.assert_close(list(outs[: len(expected)]), expected)
    assert len(expected) == 3
    assert torch.equal(outs[3], outs[2][..., ::2, ::2])
    assert torch.equal(outs[4], outs[3][..., ::2, ::2])


@pytest.mark.parametrize('mode', [True, 'on_input', 'on_lateral', 'on_output'])
@pytest.mark.parametrize('relu', [False, True])
def test_extra_convs_start_from_their_source(mode, relu):
    fpn = FPN(IN, 4, num_outs=4, start_level=1, add_extra_convs=mode, relu_before_extra_convs=relu)
    maps = inputs()
    laterals, expected = literal(fpn, maps, start=1)
    sources = {True: maps[-1], 'on_input': maps[-1], 'on_lateral': laterals[-1]}
    source = sources.get(mode, expected[-1])
    first = fpn.fpn_convs[2].conv(source)
    second = fpn.fpn_convs[3].conv(F.relu(first) if relu else first)
    outs = fpn(maps)
    torch.testing.assert_close(outs[2], first)
    torch.testing.assert_close(outs[3], second)
    assert outs[2].shape[2:] == (2, 3)


def test_norms_and_their_absence_on_laterals():
    norm_cfg = dict(type='GN', num_groups=2)
    names = FPN(IN, 4, 3, norm_cfg=norm_cfg, no_norm_on_lateral=True).state_dict()
    assert not any('lateral_convs' in name and '.gn.' in name for name in names)
    assert 'fpn_convs.2.gn.weight' in names
    assert 'fpn_convs.2.conv.bias' not in names
    assert 'lateral_convs.0.gn.weight' in FPN(IN, 4, 3, norm_cfg=norm_cfg).state_dict()


def test_upsampling_by_factor_equals_by_size_where_sizes_are_even():
    maps = [torch.randn(1, channels, size, size) for channels, size in zip(IN, (16, 8, 4))]
    by_size, by_factor = FPN(IN, 4, 3), FPN(IN, 4, 3, upsample_cfg=dict(scale_factor=2))
    by_factor.load_state_dict(by_size.state_dict())
    for a, b in zip(by_size(maps), by_factor(maps), strict=True):
        torch.testing.assert_close(a, b)


def test_starts_xavier_uniform():
    torch.manual_seed(0)
    fpn = FPN([64, 64], 32, 2)
    fpn.init_weights()
    bound = (6 / (64 + 32)) ** 0.5
    weight = fpn.lateral_convs[0].conv.weight
    assert weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert fpn.lateral_convs[0].conv.bias.abs().max() == 0


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(num_outs=3, add_extra_convs='on_lake'), "add_extra_convs must be .*got 'on_lake'"),
        (dict(num_outs=2), 'levels 0 to 2 give 3 outputs or more, got 2'),
        (dict(num_outs=3, end_level=1), 'levels 0 to 1 give 2 outputs, got 3'),
        (dict(num_outs=3, start_level=3), 'expected 0 <= start_level <= end_level <= 2'),
    ],
)
def test_levels_that_do_not_agree(kwargs, message):
    with pytest.raises(ValueError, match=message):
        FPN(IN, 4, **kwargs)
    with pytest.raises(ValueError, match='names 3 inputs or more, the backbone gave 2'):
        FPN(IN, 4, 3)(inputs()[:2])

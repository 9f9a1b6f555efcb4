"""Make the network of a built detector faster; what it computes stays the same."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from importlib import import_module
from itertools import pairwise
from typing import Any, cast

import torch
from mmcv.cnn import ConvModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ghmdet.models.wrappers import unwrap

_PARTS = ('backbone', 'neck', 'bbox_head')
_COMPILERS = {'win32': 'cl', 'darwin': 'clang++'}


def fuse_conv_bn(model: nn.Module) -> None:
    """Multiply batch norms into the convolutions before them, in place.

    For a model in eval mode that is not to be trained or saved any more: a folded convolution gains
    a bias and its norm becomes `nn.Identity`. Outputs differ by rounding only. Folded are the pairs
    that certainly follow one another: in ghmdet's own modules, mmcv's ConvModule, `nn.Sequential`.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)).eval()
        >>> fuse_conv_bn(model)
        >>> model[1]
        Identity()
    """
    for module in [module for module in model.modules() if _runs_in_order(module)]:
        for (conv_name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            if _is_plain(conv) and isinstance(norm, _BatchNorm) and norm.track_running_stats:
                setattr(module, conv_name, fuse_conv_bn_eval(cast(nn.Conv2d, conv), norm))
                setattr(module, norm_name, nn.Identity())


def _runs_in_order(module: nn.Module) -> bool:
    """Whether a norm registered right after a convolution is also applied right after it."""
    if isinstance(module, ConvModule):
        return 'conv,norm' in ','.join(module.order)
    return isinstance(module, nn.Sequential) or type(module).__module__.startswith('ghmdet.')


def _is_plain(conv: nn.Module) -> bool:
    """Whether its weight is used as it stands, without e.g. weight standardisation."""
    return type(conv) is nn.Conv2d and not conv._forward_pre_hooks


def cast_convolutions(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold the weights of convolutions in the precision that autocast would cast them to each time.

    For a model that is not to be trained any more; to be run under autocast in the same precision.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            module.to(dtype)


def compile_network(model: nn.Module) -> None:
    """Let torch.compile compile backbone, neck and head, in place, once for all sizes of input.

    The names of the weights stay. Without a C++ compiler a warning is given and nothing is done.

    Args:
        model: detector, perhaps wrapped.
    """
    compiler = os.environ.get('CXX', _COMPILERS.get(sys.platform, 'g++'))
    if shutil.which(compiler.split()[0]) is None:  # perhaps 'ccache g++'
        warnings.warn(
            f'--compile needs a C++ compiler, and there is no {compiler!r}: going on uncompiled. '
            'Install one (apt install g++), name yours in the environment variable CXX, or leave '
            '--compile out.'
        )
        return
    model = unwrap(model)
    for part in [getattr(model, name) for name in _PARTS if hasattr(model, name)]:
        part.compile(dynamic=True)


def set_inductor_freezing(freeze: bool) -> None:
    """Let what is compiled under `torch.no_grad` from now on take its weights for constants.

    Convolutions then keep their weights in the layout that the machine likes best, and activations
    and additions become part of them. For networks that are not trained any more.
    """
    # Not an option of `compile`: the tracer looks at the global setting only.
    config: Any = import_module('torch._inductor.config')  # takes a second, so only when asked for
    config.freezing = freeze

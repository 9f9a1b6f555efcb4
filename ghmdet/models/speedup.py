"""Makes the network of a built detector faster without changing its results."""

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
    """Fuse batch norms with the convolutions before them, in place.

    For a model in eval mode that will not be trained or saved again; outputs differ by rounding
    only. Fused are pairs that are known to follow each other: in ghmdet's modules, mmcv's
    ConvModule, `nn.Sequential`. mmcv's function fuses all pairs in the order of registration.
    """
    for module in [module for module in model.modules() if _runs_in_order(module)]:
        for (conv_name, conv), (norm_name, norm) in pairwise(list(module.named_children())):
            # A hook before it would change its weight, as weight standardisation does.
            is_plain = type(conv) is nn.Conv2d and not conv._forward_pre_hooks
            if is_plain and isinstance(norm, _BatchNorm) and norm.track_running_stats:
                setattr(module, conv_name, fuse_conv_bn_eval(cast(nn.Conv2d, conv), norm))
                setattr(module, norm_name, nn.Identity())


def _runs_in_order(module: nn.Module) -> bool:
    """Whether a norm registered right after a convolution is also applied right after it."""
    if isinstance(module, ConvModule):
        return 'conv,norm' in ','.join(module.order)
    return isinstance(module, nn.Sequential) or type(module).__module__.startswith('ghmdet.')


def low_precision(device_type: str) -> torch.dtype:
    """Return bfloat16 on the CPU and on CUDA cards that compute in it, else float16."""
    if device_type == 'mps':
        raise ValueError(
            'mixed precision (--amp, AmpOptimWrapper) is not available on mps; remove it, or '
            'run on the CPU or on CUDA'
        )
    if device_type == 'cuda' and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16 if device_type in ('cpu', 'cuda') else torch.float16


def cast_convolutions(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights of convolutions once, as autocast in this precision would for each batch."""
    for module in model.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            module.to(dtype)


def compile_network(model: nn.Module) -> None:
    """Compile backbone, neck and head with torch.compile, in place, once for all input sizes.

    The names of the weights stay. Without a C++ compiler this only gives a warning.
    """
    compiler = os.environ.get('CXX', _COMPILERS.get(sys.platform, 'g++'))
    if shutil.which(compiler.split()[0]) is None:  # perhaps 'ccache g++'
        warnings.warn(
            f'--compile needs a C++ compiler, but there is no {compiler!r}; the model is not '
            'compiled. Install one (apt install g++), set the environment variable CXX, or leave '
            '--compile out.'
        )
        return
    for name, part in unwrap(model).named_children():
        if name in _PARTS:
            part.compile(dynamic=True)


def set_inductor_freezing(freeze: bool) -> None:
    """Set whether models compiled under `torch.no_grad` from now on have constant weights.

    Convolutions then have the fastest layout, fused with activations. Do not train such a network.
    """
    # Not an option of `compile`: the tracer only reads the global setting.
    config: Any = import_module('torch._inductor.config')  # takes a second, so not at the top
    config.freezing = freeze

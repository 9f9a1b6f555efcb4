"""Mixed precision on the CPU as well as on CUDA."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.optim import AmpOptimWrapper as _AmpOptimWrapper
from torch import nn
from torch.amp import GradScaler

from ghmdet.engine.launcher import prepare_cpu
from ghmdet.messages import type_name
from ghmdet.models.speedup import low_precision
from ghmdet.registry import OPTIM_WRAPPERS

_NOISE = 1.1  # of two times measured one after the other
_DTYPES = {'float16': torch.float16, 'bfloat16': torch.bfloat16}


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(_AmpOptimWrapper):
    """mmengine's AmpOptimWrapper, which also trains on the CPU and prefers bfloat16.

    The weights and the optimizer's state stay float32. Checkpoints of this wrapper and of
    OptimWrapper resume one another.

    Args:
        loss_scale: 'dynamic', a fixed number, or the arguments of `torch.amp.GradScaler`. Used with
            float16 only: bfloat16 has the range of float32, so nothing has to be scaled.
        dtype: 'float16' or 'bfloat16', also as torch dtype; None: see `low_precision`.
        use_fsdp: must be False, see docs/train/distributed.md.
        **kwargs: `optimizer`, `clip_grad`, `accumulative_counts`; see `OptimWrapper`.

    Raises:
        ValueError: unknown dtype or loss_scale, use_fsdp, or a device without mixed precision.
    """

    def __init__(
        self,
        loss_scale: float | str | dict[str, Any] = 'dynamic',
        dtype: str | torch.dtype | None = None,
        use_fsdp: bool = False,
        **kwargs: Any,
    ) -> None:
        # Not mmengine's own constructor, which refuses the CPU.
        super(_AmpOptimWrapper, self).__init__(**kwargs)
        if use_fsdp:
            raise ValueError(
                'optim_wrapper.use_fsdp=True is not supported: leave it out; several GPUs are used '
                'by DistributedDataParallel, see docs/train/distributed.md'
            )
        self.device_type = self.param_groups[0]['params'][0].device.type
        name = str(dtype).removeprefix('torch.')
        if dtype is not None and name not in _DTYPES:
            raise ValueError(f'optim_wrapper.dtype must be one of {list(_DTYPES)}, got {dtype!r}')
        self.cast_dtype = low_precision(self.device_type) if dtype is None else _DTYPES[name]
        self._scale_update_param: float | None = None
        settings: dict[str, Any] = {}
        if isinstance(loss_scale, float | int):
            self._scale_update_param = settings['init_scale'] = float(loss_scale)
        elif isinstance(loss_scale, dict):
            settings = loss_scale
        elif loss_scale != 'dynamic':
            raise ValueError(
                "optim_wrapper.loss_scale must be 'dynamic', a number or a dict, got "
                f'{loss_scale!r}'
            )
        settings = {'enabled': self.cast_dtype == torch.float16, **settings}
        self.loss_scaler = GradScaler(self.device_type, **settings)

    def state_dict(self) -> dict[str, Any]:
        """Return the optimizer's state, with `loss_scaler` where there is one."""
        state_dict = super().state_dict()
        if not self.loss_scaler.is_enabled():
            del state_dict['loss_scaler']
        return state_dict

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast, and no gradient synchronization while gradients are accumulated."""
        with (
            super(_AmpOptimWrapper, self).optim_context(model),
            torch.autocast(self.device_type, dtype=self.cast_dtype),
        ):
            yield


def apply_amp(cfg: Config) -> None:
    """Train in mixed precision: `optim_wrapper` becomes AmpOptimWrapper.

    Validation follows, unless `val_cfg` says `fp16=False` or names a loop of another class.

    Raises:
        ValueError: the device has no mixed precision, or `optim_wrapper.type` is another wrapper.
    """
    _choose_autocast_dtype()
    loop = cfg.get('val_cfg')
    if loop is not None and type_name(loop, 'ValLoop').rpartition('.')[2] == 'ValLoop':
        loop.setdefault('fp16', True)
    name = type_name(cfg.optim_wrapper, 'OptimWrapper')
    if name == 'AmpOptimWrapper':
        MMLogger.get_current_instance().warning(
            '--amp does not change optim_wrapper: its type is AmpOptimWrapper already'
        )
    elif name == 'OptimWrapper':
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    else:
        raise ValueError(
            '--amp needs optim_wrapper.type to be OptimWrapper or AmpOptimWrapper, but it is '
            f'{name}; remove --amp, or choose the wrapper in the config'
        )


def apply_amp_to_test(cfg: Config) -> None:
    """Test in mixed precision; see `apply_amp`."""
    _choose_autocast_dtype()
    cfg.test_cfg.fp16 = True


def _choose_autocast_dtype() -> None:
    """Set torch's default, which mmengine's loops use, to the precision of training."""
    device = get_device()
    dtype = low_precision(device)
    torch.set_autocast_dtype(device, dtype)
    if device != 'cpu':
        return
    prepare_cpu()  # before oneDNN computes anything
    # Measured, since processors with instructions for it exist on which it is slower all the same.
    ratio = _time_convolution(dtype) / _time_convolution(torch.float32)
    if ratio > _NOISE:
        MMLogger.get_current_instance().warning(
            f'--amp is slower than float32 on this CPU: in {str(dtype).removeprefix("torch.")} a '
            f'convolution takes {ratio:.1f} times as long as without it'
        )


def _time_convolution(dtype: torch.dtype) -> float:
    """Return the seconds of a 3x3 convolution of 64 channels, the best of some."""
    maps = torch.ones(1, 64, 64, 64, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.ones(64, 64, 3, 3, dtype=dtype)
    seconds = []
    with torch.no_grad():
        for _ in range(6):
            begin = time.perf_counter()
            F.conv2d(maps, kernel, padding=1)
            seconds.append(time.perf_counter() - begin)
    return min(seconds)

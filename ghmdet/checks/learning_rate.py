"""The linear scaling rule: the learning rate grows in proportion to the total batch size.

"Accurate, Large Minibatch SGD", arXiv:1706.02677, section 2.1. `auto_scale_lr.base_batch_size` is
the total batch size that the learning rate of the config was chosen for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from ghmdet.argument_checks import is_number
from ghmdet.config.origins import origins_of
from ghmdet.config.parts import value_at
from ghmdet.config.shipped import config_path

_BASE = 'auto_scale_lr.base_batch_size'
_OPTIMIZER = 'optim_wrapper.optimizer'


class Batch(NamedTuple):
    """Of one step of the optimizer: processes, images per process, batches of each."""

    processes: int
    images: int
    accumulated: int

    @property
    def total(self) -> int:
        """The total batch size."""
        return self.processes * self.images * self.accumulated


def step_batch(runner: Runner, wrapper: OptimWrapper) -> Batch:
    """Return the total batch size and its factors; the train loop must be built."""
    loader = runner.train_dataloader
    size = getattr(loader.batch_sampler, 'batch_size', None) or loader.batch_size or 1
    return Batch(runner.world_size, size, getattr(wrapper, '_accumulative_counts', 1))


def wrappers_of(runner: Runner) -> Iterator[tuple[str, OptimWrapper]]:
    """The optimizer wrappers by name; '' for a single one."""
    if isinstance(runner.optim_wrapper, OptimWrapperDict):
        yield from runner.optim_wrapper.items()
    else:
        yield '', runner.optim_wrapper


def check_auto_scale_lr(settings: Any, wanted_by: str) -> None:
    """Raise a ValueError unless the config has the batch size of its learning rate.

    `settings` is `auto_scale_lr` of the config, `wanted_by` the option that scales.
    """
    settings = settings or {}
    example = (
        'e.g. auto_scale_lr=dict(enable=False, base_batch_size=16) for a learning rate chosen for '
        'a total batch size of 16'
    )
    keys = ('enable', 'base_batch_size')
    if needed := [f'auto_scale_lr.{key}' for key in keys if key not in settings]:
        raise ValueError(f'{wanted_by} needs {" and ".join(needed)} in the config, {example}')
    base = settings['base_batch_size']
    if not is_number(base) or not 0 < base < float('inf'):
        raise ValueError(
            f'{wanted_by} needs a positive number of images in {_BASE}, got {base!r}; {example}'
        )


def find_reference(cfg: Config, rate: float) -> tuple[float, float, str] | None:
    """Return a learning rate, the total batch size that it was chosen for, and their file.

    If a config inherits `base_batch_size` but sets its own learning rate, the two do not belong
    together. Then both are those of the file that sets `base_batch_size`; else the file is ''.
    `rate` is that of the optimizer as configured. None if there is no valid `base_batch_size`.
    """
    base: Any = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    try:
        check_auto_scale_lr(dict(enable=False, base_batch_size=base), '')
    except ValueError:
        return None
    # '' if it was changed since the files were read
    files = {key: file for key, _, file in origins_of(cfg).list_leaves(cfg, otherwise='')}
    if file := files.get(_BASE):
        source = Config.fromfile(config_path(file) if '::' in file else file)
        here, there = (value_at(part.to_dict(), _OPTIMIZER) or {} for part in (cfg, source))
        found, same_kind = there.get('lr'), here.get('type') == there.get('type')
        if same_kind and isinstance(found, float | int) and found != rate:
            return found, base, file
    return rate, base, ''

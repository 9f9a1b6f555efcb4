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

from ghmdet.config.origins import origins_of
from ghmdet.config.shipped import config_path

_BASE = 'auto_scale_lr.base_batch_size'
_RATE = 'optim_wrapper.optimizer.lr'


class Batch(NamedTuple):
    """Total batch size: the images of one step of the optimizer."""

    processes: int
    images: int
    """In a batch of one process."""
    accumulated: int
    """Batches of one process."""

    @property
    def total(self) -> int:
        """Of all processes."""
        return self.processes * self.images * self.accumulated


class Reference(NamedTuple):
    """A learning rate and the total batch size that it was chosen for."""

    rate: float
    images: float
    origin: str
    """The file that sets both; '' if they are those of the config."""


def step_batch(runner: Runner, wrapper: OptimWrapper) -> Batch:
    """Return the total batch size; the train loop must be built."""
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
    """Check that the config has the batch size that its learning rate was chosen for.

    Args:
        settings: `auto_scale_lr` of the config.
        wanted_by: the option that scales, for the message.

    Raises:
        ValueError: a key is missing, or `base_batch_size` is not a positive number.
    """
    settings = settings or {}
    missing = [key for key in ('enable', 'base_batch_size') if key not in settings]
    example = (
        'e.g. auto_scale_lr=dict(enable=False, base_batch_size=16) for a learning rate chosen for '
        'a total batch size of 16'
    )
    if missing:
        raise ValueError(
            f'{wanted_by} needs {" and ".join(f"auto_scale_lr.{key}" for key in missing)} in the '
            f'config, {example}'
        )
    base = settings['base_batch_size']
    if isinstance(base, bool) or not isinstance(base, int | float) or not 0 < base < float('inf'):
        raise ValueError(
            f'{wanted_by} needs a positive number of images in {_BASE}, got {base!r}; {example}'
        )


def find_reference(cfg: Config, rate: float) -> Reference | None:
    """Return a learning rate and the total batch size that it was chosen for.

    If a config inherits `base_batch_size` but sets its own learning rate, the two do not belong
    together. Then both are those of the file that sets `base_batch_size`.

    Args:
        cfg: of the run.
        rate: learning rate of the optimizer as configured.

    Returns:
        None if the config has no valid `base_batch_size`.
    """
    base: Any = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    try:
        check_auto_scale_lr(dict(enable=False, base_batch_size=base), '')
    except ValueError:
        return None
    origin = _origin_of_base(cfg)
    if origin is not None:
        source = Config.fromfile(config_path(origin) if '::' in origin else origin)
        same_kind = _optimizer(source).get('type') == _optimizer(cfg).get('type')
        rate_there = _optimizer(source).get('lr')
        if same_kind and isinstance(rate_there, float | int) and rate_there != rate:
            return Reference(rate_there, base, origin)
    return Reference(rate, base, '')


def _optimizer(cfg: Config) -> dict[str, Any]:
    return (cfg.get('optim_wrapper') or {}).get('optimizer') or {}


def _origin_of_base(cfg: Config) -> str | None:
    """The file that sets `base_batch_size`, unless that was changed since the files were read."""
    files = {key: file for key, _, file in origins_of(cfg).list_leaves(cfg, otherwise='')}
    return files.get(_BASE) or None

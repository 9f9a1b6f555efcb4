"""The linear rule: a learning rate belongs to a number of images a step, and grows with it.

"Accurate, Large Minibatch SGD", arXiv:1706.02677, section 2.1. `auto_scale_lr.base_batch_size` is
the number that the learning rate of the config was chosen for.
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
    """Images of one step of the optimizer."""

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
    """What the linear rule starts from."""

    rate: float
    images: float
    origin: str
    """'' for the config as it is, else the file that has both."""


def step_batch(runner: Runner, wrapper: OptimWrapper) -> Batch:
    """Return the images of a step; the train loop must be built."""
    loader = runner.train_dataloader
    size = getattr(loader.batch_sampler, 'batch_size', None) or loader.batch_size or 1
    return Batch(runner.world_size, size, getattr(wrapper, '_accumulative_counts', 1))


def wrappers_of(runner: Runner) -> Iterator[tuple[str, OptimWrapper]]:
    """The optimizer wrappers by name, '' where there is but one."""
    if isinstance(runner.optim_wrapper, OptimWrapperDict):
        yield from runner.optim_wrapper.items()
    else:
        yield '', runner.optim_wrapper


def check_auto_scale_lr(settings: Any, wanted_by: str) -> None:
    """Raise where there is no batch size that the learning rate was meant for.

    Args:
        settings: `auto_scale_lr` of the config.
        wanted_by: what wants to scale, for the message.

    Raises:
        ValueError: a key is missing, or `base_batch_size` is not a positive number.
    """
    settings = settings or {}
    missing = [key for key in ('enable', 'base_batch_size') if key not in settings]
    example = (
        'e.g. auto_scale_lr=dict(enable=False, base_batch_size=16) for a learning rate meant for '
        '16 images a step'
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
    """Return the learning rate and the number of images that belong together.

    A config that inherits `base_batch_size` and sets its own learning rate says nothing of the
    batch which that is for. Then it is the pair in the file that sets `base_batch_size`.

    Args:
        cfg: of the run.
        rate: learning rate of the optimizer as configured.

    Returns:
        None where the config has no usable `base_batch_size`.
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

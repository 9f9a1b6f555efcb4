"""What FSDP cannot do here, said at the start; see docs/distributed.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from ghmdet.config.errors import ConfigError


def check_strategy(cfg: Config) -> None:
    """Refuse what would stop, or lose the weights, at the first checkpoint.

    Raises:
        ConfigError: the model is to be split by FSDP in a way that cannot be loaded or saved.

    Example:
        >>> check_strategy(Config(dict(runner_type='FlexibleRunner', strategy='FSDPStrategy')))
        Traceback (most recent call last):
        ...
        ghmdet.config.errors.ConfigError: strategy (FSDPStrategy) must have \
state_dict_cfg='full': of others no checkpoint can be saved
    """
    wrapper, strategy = cfg.get('model_wrapper_cfg'), cfg.get('strategy')
    if 'runner_type' not in cfg:
        if _name(wrapper) == 'MMFullyShardedDataParallel':
            raise ConfigError(
                'model_wrapper_cfg (MMFullyShardedDataParallel): the Runner would save one '
                "process's part of the weights; use runner_type='FlexibleRunner' and "
                "strategy=dict(type='FSDPStrategy', state_dict_cfg='full'), or leave "
                'model_wrapper_cfg out'
            )
        return
    if _name(strategy) != 'FSDPStrategy':
        return
    states: Any = strategy.get('state_dict_cfg') if isinstance(strategy, Mapping) else None
    if states != 'full' and not (
        isinstance(states, Mapping) and states.get('state_dict_type') == 'FULL_STATE_DICT'
    ):
        raise ConfigError(
            "strategy (FSDPStrategy) must have state_dict_cfg='full': of others no checkpoint can "
            'be saved'
        )
    if cfg.get('resume') or cfg.get('load_from'):
        source = cfg.get('load_from') or 'the newest checkpoint of the work dir'
        raise ConfigError(
            f'strategy (FSDPStrategy): {source} cannot be loaded into a model that FSDP splits. '
            "Test, resume and fine-tune without runner_type and strategy, or with 'DDPStrategy'"
        )


def _name(part: Any) -> str:
    """Name of the class that a config of a part names, without a scope."""
    kind = part.get('type') if isinstance(part, Mapping) else part
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]

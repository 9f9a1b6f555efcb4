"""FSDP where it cannot save or load is refused before anything is built."""

import pytest
from mmengine.config import Config

from ghmdet.checks.settings import check_strategy
from ghmdet.config.errors import ConfigError

FULL = dict(type='FSDPStrategy', state_dict_cfg='full')


@pytest.mark.parametrize(
    ('cfg', 'text'),
    [
        (
            dict(model_wrapper_cfg=dict(type='mmengine.MMFullyShardedDataParallel')),
            "would save one process's part of the weights; use runner_type='FlexibleRunner'",
        ),
        (
            dict(runner_type='FlexibleRunner', strategy=dict(type='FSDPStrategy')),
            "must have state_dict_cfg='full'",
        ),
        (
            dict(runner_type='FlexibleRunner', strategy=FULL | dict(state_dict_cfg='local')),
            "must have state_dict_cfg='full'",
        ),
        (
            dict(runner_type='FlexibleRunner', strategy=FULL, load_from='a.pth'),
            'a.pth cannot be loaded into a model that FSDP splits. Test, resume and',
        ),
        (
            dict(runner_type='FlexibleRunner', strategy=FULL, resume=True),
            'the newest checkpoint of the work dir cannot be loaded',
        ),
    ],
)
def test_refused(cfg, text):
    with pytest.raises(ConfigError) as error:
        check_strategy(Config(cfg))
    assert text in str(error.value)


@pytest.mark.parametrize(
    'cfg',
    [
        dict(model_wrapper_cfg=dict(find_unused_parameters=True), load_from='a.pth'),
        dict(runner_type='FlexibleRunner', strategy=FULL, resume=False, load_from=None),
        dict(
            runner_type='FlexibleRunner',
            strategy=FULL | dict(state_dict_cfg=dict(state_dict_type='FULL_STATE_DICT')),
        ),
        dict(runner_type='FlexibleRunner', strategy=dict(type='DDPStrategy'), resume=True),
        dict(runner_type='FlexibleRunner', load_from='a.pth'),
    ],
)
def test_accepted(cfg):
    assert check_strategy(Config(cfg)) is None

"""Networks that several tests use."""

import copy
import functools

import pytest
from mmengine.config import Config

import ghmdet
from ghmdet.registry import MODELS
from tests import golden


@pytest.fixture(scope='session')
def golden_model():
    """Function that returns a copy of a shipped model with the weights of the golden figures."""

    @functools.cache
    def build(name):
        model = MODELS.build(Config.fromfile(ghmdet.config_path(name)).model)
        model.load_state_dict(golden.seeded_state_dict(model.state_dict(), golden.SEED))
        return model

    return lambda name: copy.deepcopy(build(name))

"""What mmengine calls by name in ghmdet.utils."""

from collections import OrderedDict

import pytest
from mmengine.hub import get_model
from mmengine.registry import MODELS, DefaultScope

from ghmdet.utils import register_all_modules


@pytest.fixture(autouse=True)
def no_scope(monkeypatch):
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())


def scope():
    current = DefaultScope.get_current_instance()
    return current and current.scope_name


def test_ours_becomes_the_default_scope_unless_told_not_to(recwarn):
    register_all_modules(init_default_scope=False)
    assert scope() is None
    register_all_modules()
    register_all_modules()
    assert scope() == 'ghmdet'
    assert len(DefaultScope._instance_dict) == 1
    assert MODELS.build(dict(type='GHMC')).bins == 10
    assert len(recwarn) == 0


def test_another_scope_is_replaced_with_a_warning():
    DefaultScope.get_instance('theirs', scope_name='mmpretrain')
    register_all_modules(init_default_scope=False)
    assert scope() == 'mmpretrain'
    with pytest.warns(UserWarning, match="was 'mmpretrain' and is now ghmdet"):
        register_all_modules()
    assert scope() == 'ghmdet'


def test_the_hub_builds_our_models_and_leaves_the_scope():
    model = get_model('ghmdet::retinanet_ghm_r18_fpn_shapes.py')
    assert type(model).__module__ == 'ghmdet.models.retinanet'
    assert model.bbox_head.num_classes == 3
    assert scope() is None

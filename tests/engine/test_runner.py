"""From a config to processes and a Runner."""

from __future__ import annotations

import io
import os
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import distributed

from ghmdet.checks.start_check import StartCheckHook
from ghmdet.engine import (
    amp,
    apply_amp,
    apply_amp_to_test,
    apply_auto_scale_lr,
    build_runner,
    launcher,
)
from ghmdet.engine.hooks.log_values import PeakMemoryHook
from ghmdet.engine.launcher import (
    set_up_launcher,
)
from tests.two_processes import run_processes


class Plain(BaseModel):
    def forward(self, inputs, mode='loss'):
        return {}


@RUNNERS.register_module(force=True)
class LoudRunner(Runner):
    pass


@pytest.fixture
def on_cpu(monkeypatch):
    """A machine without accelerator whose environment names no launcher."""
    for module in (launcher, amp):
        monkeypatch.setattr(module, 'get_device', lambda: 'cpu')
    for name in list(os.environ):
        if name.startswith(('SLURM', 'OMPI', 'MASTER')) or name.endswith(('RANK', 'WORLD_SIZE')):
            monkeypatch.delenv(name)
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
        monkeypatch.setenv(name, '')  # so that what the code sets is undone after the test
        monkeypatch.delenv(name)


@pytest.fixture
def joined(monkeypatch):
    """Collects the calls that would join processes."""
    calls = []
    monkeypatch.setattr(distributed, 'init_process_group', lambda **kw: calls.append(kw))
    return calls


@pytest.fixture
def on_gpu(monkeypatch):
    for module in (launcher, amp):
        monkeypatch.setattr(module, 'get_device', lambda: 'cuda')


# --- the launcher -----------------------------------------------------------------------------


def test_no_launcher_or_a_gpu_leaves_all_to_mmengine(monkeypatch, joined):
    for device, name in (('cpu', 'none'), ('cuda', 'pytorch')):
        monkeypatch.setattr(launcher, 'get_device', lambda device=device: device)
        cfg = Config({'launcher': name})
        set_up_launcher(cfg)
        assert 'model_wrapper_cfg' not in cfg
    assert joined == []


def test_unknown_launcher():
    with pytest.raises(ValueError, match="one of none, pytorch, slurm, mpi, got 'ssh'"):
        set_up_launcher(Config({'launcher': 'ssh'}))


def test_torchrun_variables_are_needed(on_cpu, joined):
    with pytest.raises(ValueError, match=r'expects RANK, LOCAL_RANK, WORLD_SIZE.*torchrun'):
        set_up_launcher(Config({'launcher': 'pytorch'}))
    assert joined == []


def give(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_pytorch(on_cpu, joined, monkeypatch):
    give(monkeypatch, RANK='1', LOCAL_RANK='1', WORLD_SIZE='2', MASTER_ADDR='node', MASTER_PORT='7')
    cfg = Config({'launcher': 'pytorch', 'env_cfg': {'dist_cfg': {'timeout': 90}}})
    set_up_launcher(cfg)
    assert [(c['backend'], c['timeout'].total_seconds()) for c in joined] == [('gloo', 90)]
    assert (os.environ['MASTER_ADDR'], os.environ['MASTER_PORT']) == ('node', '7')
    assert cfg.model_wrapper_cfg == {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': False,
        'device_ids': None,
    }


def test_wrapper_keeps_what_the_config_says(on_cpu, joined, monkeypatch):
    give(monkeypatch, RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='node')
    wrapper = {'broadcast_buffers': True, 'device_ids': [0]}
    cfg = Config(
        {'launcher': 'pytorch', 'find_unused_parameters': True, 'model_wrapper_cfg': wrapper}
    )
    set_up_launcher(cfg)
    assert cfg.model_wrapper_cfg.broadcast_buffers is True
    assert cfg.model_wrapper_cfg.find_unused_parameters is True
    assert cfg.model_wrapper_cfg.device_ids is None
    assert joined[0]['timeout'] is None


def test_a_wrapper_of_another_class_is_left_alone(on_cpu, joined, monkeypatch):
    give(monkeypatch, RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='node')
    wrapper = {'type': 'MMSeparateDistributedDataParallel'}
    cfg = Config({'launcher': 'pytorch', 'model_wrapper_cfg': wrapper})
    set_up_launcher(cfg)
    assert cfg.model_wrapper_cfg == wrapper


def test_processes_already_joined_are_not_joined_again(on_cpu, joined, monkeypatch):
    monkeypatch.setattr(launcher, 'is_distributed', lambda: True)
    cfg = Config({'launcher': 'pytorch'})
    set_up_launcher(cfg)
    assert joined == []
    assert cfg.model_wrapper_cfg.device_ids is None


SLURM = {'SLURM_PROCID': '3', 'SLURM_LOCALID': '1', 'SLURM_NTASKS': '4'}
MPI = {
    'OMPI_COMM_WORLD_RANK': '3',
    'OMPI_COMM_WORLD_LOCAL_RANK': '1',
    'OMPI_COMM_WORLD_SIZE': '4',
}


@pytest.mark.parametrize(
    ('launcher', 'variables'),
    [
        ('slurm', {**SLURM, 'SLURM_NNODES': '1'}),
        ('mpi', {**MPI, 'OMPI_COMM_WORLD_LOCAL_SIZE': '4'}),
    ],
)
def test_slurm_and_mpi_on_one_machine(on_cpu, joined, monkeypatch, launcher, variables):
    give(monkeypatch, **variables)
    set_up_launcher(Config({'launcher': launcher}))
    names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
    assert [os.environ[name] for name in names] == ['3', '1', '4', '127.0.0.1', '29500']
    assert len(joined) == 1


def test_slurm_on_many_machines_asks_scontrol(on_cpu, joined, monkeypatch, tmp_path):
    (tmp_path / 'scontrol').write_text('#!/bin/sh\nprintf "n07\\nn08\\n"\n')
    (tmp_path / 'scontrol').chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    give(monkeypatch, **SLURM, SLURM_NODELIST='n[07-08]', SLURM_NNODES='2')
    cfg = Config({'launcher': 'slurm', 'env_cfg': {'dist_cfg': {'port': 1234}}})
    set_up_launcher(cfg)
    assert (os.environ['MASTER_ADDR'], os.environ['MASTER_PORT']) == ('n07', '1234')


@pytest.mark.parametrize(('launcher', 'variables'), [('slurm', SLURM), ('mpi', MPI)])
def test_address_of_rank_0_unknown(on_cpu, joined, monkeypatch, launcher, variables):
    give(monkeypatch, **variables)
    with pytest.raises(ValueError, match=f"'{launcher}' expects MASTER_ADDR"):
        set_up_launcher(Config({'launcher': launcher}))


SCRIPT = """
import sys

import torch
from mmengine.config import Config
from mmengine.dist import all_gather, get_rank
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from torch.utils.data import Dataset
from ghmdet.engine import build_runner

@DATASETS.register_module()
class Numbers(Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        return torch.tensor([1.0 + 2 * index])  # rank 0 sees 1, rank 1 sees 3

@MODELS.register_module()
class Slope(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
    def forward(self, *inputs, mode='loss'):
        return {'loss': (self.weight * torch.stack(inputs)).sum()}

cfg = Config({
    'model': {'type': 'Slope'},
    'work_dir': sys.argv[1],
    'launcher': 'pytorch',
    'log_level': 'ERROR',
    'train_dataloader': {
        'dataset': {'type': 'Numbers'}, 'batch_size': 1,
        'sampler': {'type': 'DefaultSampler', 'shuffle': False},
    },
    'train_cfg': {'by_epoch': True, 'max_epochs': 1},
    'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 1.0}},
})
runner = build_runner(cfg)
runner.train()
weights = all_gather(runner.model.module.weight.detach())
if get_rank() == 0:
    print('weights', [w.item() for w in weights], type(runner.model).__name__)
torch.distributed.destroy_process_group()
"""


def test_two_processes_average_their_gradients(tmp_path):
    out = run_processes(SCRIPT, tmp_path, tmp_path / 'work')
    # the gradients are 1 and 3: their mean, 2, moves both copies from 0 to -2
    assert 'weights [-2.0, -2.0] MMDistributedDataParallel' in out


# --- the Runner -------------------------------------------------------------------------------


def test_runner_gets_one_door_check_and_one_memory_report(tmp_path):
    cfg = Config({'model': {'type': Plain}, 'work_dir': str(tmp_path), 'log_level': 'ERROR'})
    runner = build_runner(cfg)
    assert type(runner) is Runner
    kinds = [type(hook) for hook in runner.hooks]
    assert (kinds.count(StartCheckHook), kinds.count(PeakMemoryHook)) == (1, 1)
    assert runner.hooks.index(next(h for h in runner.hooks if type(h) is StartCheckHook)) <= 1


def test_runner_type_and_a_hook_of_the_config(tmp_path):
    cfg = Config(
        {
            'model': {'type': Plain},
            'work_dir': str(tmp_path),
            'runner_type': 'LoudRunner',
            'custom_hooks': [{'type': StartCheckHook, 'image_limit': 5}],
            'log_level': 'ERROR',
        }
    )
    runner = build_runner(cfg)
    assert type(runner) is LoudRunner
    assert [h.image_limit for h in runner.hooks if type(h) is StartCheckHook] == [5]


# --- options ----------------------------------------------------------------------------------


@pytest.mark.parametrize('wrapper', [{'type': 'OptimWrapper'}, {'type': OptimWrapper}, {}])
def test_amp(on_cpu, wrapper):
    cfg = Config({'optim_wrapper': {**wrapper, 'clip_grad': {'max_norm': 35}}, 'val_cfg': {}})
    apply_amp(cfg)
    assert cfg.optim_wrapper == {
        'type': 'AmpOptimWrapper',
        'loss_scale': 'dynamic',
        'clip_grad': {'max_norm': 35},
    }
    assert cfg.val_cfg == {'fp16': True}


@pytest.mark.parametrize(
    'val_cfg', [None, {'type': 'ValLoop', 'fp16': False}, {'type': 'MyLoop'}, {'type': Plain}]
)
def test_amp_leaves_validation_as_the_config_wants_it(on_cpu, val_cfg):
    cfg = Config({'optim_wrapper': {}, 'val_cfg': val_cfg})
    apply_amp(cfg)
    assert cfg.val_cfg == val_cfg


def test_amp_for_a_test(on_cpu):
    cfg = Config({'test_cfg': {'type': 'TestLoop', 'fp16': False}})
    apply_amp_to_test(cfg)
    assert cfg.test_cfg == {'type': 'TestLoop', 'fp16': True}


@pytest.mark.parametrize(('has_it', 'dtype'), [(True, torch.bfloat16), (False, torch.float16)])
def test_loops_autocast_to_what_the_card_has(on_gpu, monkeypatch, has_it, dtype):
    before = torch.get_autocast_dtype('cuda')
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: has_it)
    try:
        apply_amp_to_test(Config({'test_cfg': {}}))
        assert torch.get_autocast_dtype('cuda') == dtype  # which mmengine's loops ask for
    finally:
        torch.set_autocast_dtype('cuda', before)


def test_amp_on_mps(monkeypatch):
    monkeypatch.setattr(amp, 'get_device', lambda: 'mps')
    with pytest.raises(ValueError, match=r'\(--amp, AmpOptimWrapper\) is not available on mps'):
        apply_amp(Config({'optim_wrapper': {}}))


@pytest.mark.parametrize('kind', ['AmpOptimWrapper', AmpOptimWrapper])
def test_amp_twice_is_said(on_cpu, monkeypatch, kind):
    logger, stream = MMLogger.get_instance(f'amp {kind}'), io.StringIO()
    monkeypatch.setattr(logger.handlers[0], 'stream', stream)
    cfg = Config({'optim_wrapper': {'type': kind, 'loss_scale': 512.0}})
    apply_amp(cfg)
    assert '--amp does not change optim_wrapper' in stream.getvalue()
    assert cfg.optim_wrapper.loss_scale == 512.0


def test_amp_with_another_wrapper(on_cpu):
    with pytest.raises(ValueError, match=r'needs optim_wrapper\.type to be .* but it is ApexOptim'):
        apply_amp(Config({'optim_wrapper': {'type': 'ApexOptimWrapper'}}))


def test_auto_scale_lr():
    cfg = Config({'auto_scale_lr': {'enable': False, 'base_batch_size': 16}})
    apply_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr == {'enable': True, 'base_batch_size': 16}


@pytest.mark.parametrize(
    ('given', 'missing'),
    [
        ({}, 'auto_scale_lr.enable and auto_scale_lr.base_batch_size'),
        ({'auto_scale_lr': {'enable': False}}, 'needs auto_scale_lr.base_batch_size in'),
        ({'auto_scale_lr': {'base_batch_size': 16}}, 'needs auto_scale_lr.enable in'),
        ({'auto_scale_lr': None}, 'auto_scale_lr.enable and'),
    ],
)
def test_auto_scale_lr_needs_both_keys(given, missing):
    with pytest.raises(ValueError, match=missing):
        apply_auto_scale_lr(Config(given))


@pytest.mark.parametrize('base', [0, -16, None, '16', True])
def test_auto_scale_lr_needs_a_batch_size(base):
    cfg = Config({'auto_scale_lr': {'enable': False, 'base_batch_size': base}})
    with pytest.raises(
        ValueError, match='--auto-scale-lr needs a positive number of images in'
    ) as e:
        apply_auto_scale_lr(cfg)
    assert f'auto_scale_lr.base_batch_size, got {base!r}' in str(e.value)


def test_apple_gpus_do_not_count(monkeypatch):
    monkeypatch.setattr(launcher, 'get_device', lambda: 'mps')
    assert not launcher.has_accelerator()
    monkeypatch.setattr(launcher, 'get_device', lambda: 'npu')
    assert launcher.has_accelerator()


@pytest.mark.parametrize(
    ('machine', 'amx', 'avx', 'warned'),
    [
        ('x86_64', False, False, True),
        ('x86_64', False, True, False),
        ('AMD64', True, False, False),
        ('aarch64', False, False, False),
    ],
)
def test_amp_on_a_cpu_that_is_slow_in_bfloat16(on_cpu, monkeypatch, machine, amx, avx, warned):
    monkeypatch.setattr(amp.platform, 'machine', lambda: machine)
    monkeypatch.setattr(torch.cpu, '_is_amx_tile_supported', lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: avx, raising=False)
    logger, stream = MMLogger.get_instance(f'{machine}{amx}{avx}'), io.StringIO()
    monkeypatch.setattr(logger.handlers[0], 'stream', stream)
    apply_amp_to_test(Config({'test_cfg': {}}))
    assert ('--amp works, but is slower than float32' in stream.getvalue()) == warned


@pytest.mark.parametrize(
    ('platform', 'device', 'expected'),
    [('linux', 'cpu', [(-4, 0), (-1, -1)]), ('linux', 'cuda', []), ('darwin', 'cpu', [])],
)
def test_freed_memory_is_kept_on_the_cpu_only(platform, device, expected, monkeypatch):
    # malloc.h: M_MMAP_MAX is -4, of which none; M_TRIM_THRESHOLD is -1, and -1 turns it off.
    calls = []
    libc = SimpleNamespace(mallopt=lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(launcher.ctypes, 'CDLL', lambda name: libc)
    monkeypatch.setattr(launcher, 'sys', SimpleNamespace(platform=platform))
    monkeypatch.setattr(launcher, 'get_device', lambda: device)
    environ = {}
    monkeypatch.setattr(launcher.os, 'environ', environ)
    launcher.keep_freed_memory()
    assert calls == expected
    assert environ == ({'ONEDNN_PRIMITIVE_CACHE_CAPACITY': '400'} if expected else {})
    environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'] = '0'  # a user's own
    launcher.keep_freed_memory()
    assert environ['ONEDNN_PRIMITIVE_CACHE_CAPACITY'] == '0'

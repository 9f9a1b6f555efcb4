"""Checkpoint files that try to do something when they are read."""

import builtins
import collections
import importlib
import os
import pickle
import shutil
import subprocess
import zipfile

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MessageHub, MMLogger
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler as OneCycle


def write(path, payload, protocol=2):
    """A zip checkpoint whose pickle is the payload, without torch.save's help."""
    raw = payload if isinstance(payload, bytes) else pickle.dumps(payload, protocol)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', raw)
        archive.writestr('archive/version', '3\n')
        archive.writestr('archive/byteorder', 'little')
    return path


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


class Own:
    """A class that only its author has."""


class Named:
    """Pickles as a class itself, to which a state is then given."""

    def __init__(self, owner, state):
        self.owner, self.state = owner, state

    def __reduce__(self):
        return getattr, (self.owner, 'mean'), self.state


def escape(*names):
    """`HistoryBuffer.__init__.__globals__`, as a chain of getattr."""
    target = HistoryBuffer
    for name in names:
        target = Call(getattr, target, name)
    return target


ONE_CYCLE = OneCycle.__name__
# Name -> (makes the content, which would leave the file m; what the refusal names).
HOSTILE = {
    'os.system': (lambda m: Call(os.system, f'touch {m}'), 'posix.system'),
    'subprocess': (lambda m: Call(subprocess.Popen, ['touch', str(m)]), 'subprocess.Popen'),
    'shutil': (lambda m: Call(shutil.copyfile, '/etc/hostname', str(m)), 'shutil.copyfile'),
    'eval': (lambda m: Call(eval, f'open({str(m)!r}, "w")'), 'eval'),
    'exec': (lambda m: Call(exec, f'open({str(m)!r}, "w")'), 'exec'),
    'open': (lambda m: Call(open, str(m), 'w'), 'io.open'),
    'import': (lambda m: Call(builtins.__import__, 'this'), '__import__'),
    'importlib': (lambda m: Call(importlib.import_module, 'this'), 'importlib.import_module'),
    'getattr escape': (lambda m: escape('__init__', '__globals__'), 'HistoryBuffer, '),
    'getattr of tensor': (lambda m: Call(getattr, torch.Tensor, 'tofile'), 'Tensor, '),
    'getattr of scheduler': (lambda m: Call(getattr, OneCycle, '__init__'), f'{ONE_CYCLE}, '),
    'state of a method': (lambda m: Named(HistoryBuffer, {'__code__': 1}), 'Can only build'),
    'mmengine.logging logger': (lambda m: Call(MMLogger, 'x', 'x', str(m)), 'MMLogger'),
    'mmengine.logging hub': (lambda m: Call(MessageHub, 'x'), 'MessageHub'),
    'scheduler made': (lambda m: Call(OneCycle, 1), ONE_CYCLE),
    'collections.ChainMap': (lambda m: Call(collections.ChainMap, {}), 'collections.ChainMap'),
    'namedtuple': (lambda m: Call(collections.namedtuple, 'a', 'b'), 'collections.namedtuple'),
    'numpy.load': (lambda m: Call(np.load, str(m)), 'numpy.load'),
    'numpy.memmap': (lambda m: Call(np.memmap, str(m), 'u1', 'w+', 0, (4,)), 'memmap'),
    'numpy.save': (lambda m: Call(np.save, str(m), 1), 'numpy.save'),
    'numpy.fromfile': (lambda m: Call(np.fromfile, str(m)), 'fromfile'),
    'torch.nn': (lambda m: Call(torch.nn.Linear, 1, 1), 'torch.nn.modules.linear.Linear'),
    'torch.save': (lambda m: Call(torch.save, 1, str(m)), 'torch.serialization.save'),
    'torch.hub.load': (lambda m: Call(torch.hub.load, str(m), 'x'), 'torch.hub.load'),
    'torch.load': (lambda m: Call(torch.load, str(m)), 'torch.serialization.load'),
    'own class': (lambda m: Own(), 'hostile.Own'),
    'object dtype': (lambda m: np.dtype('O'), "numpy.dtype('O8')"),
    'object array': (lambda m: np.array([None]), "numpy.dtype('O8')"),
    'record dtype': (lambda m: np.dtype([('a', 'O')]), "numpy.dtype('V8')"),
    'dtype by comma': (lambda m: Call(np.dtype, 'f8,O'), "numpy.dtype('f8,O')"),
    'dtype class': (lambda m: Call(np.dtypes.ObjectDType), 'ObjectDType'),
}

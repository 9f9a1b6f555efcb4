"""Try every way of naming a config of ghmdet with the installed package, outside its source tree.

    python tools/dev/check_install.py [--only REGEX] [--jobs N]

Needs only ghmdet and its requirements, and no network. Each form runs in its own process in an
empty folder; the exit code is 1 if one of them fails.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from pathlib import Path

_LIMIT = 600  # seconds for one form
_PACKAGES = ('torch', 'torchvision', 'mmengine', 'mmcv-lite', 'numpy', 'setuptools')

# What all programs begin with. The package itself is imported by each form where it should be.
_PRELUDE = """
import subprocess, sys
from functools import partial
from pathlib import Path
from mmengine.config import Config
NAME = 'retinanet_ghm_r50_fpn_1x_coco'
SHAPES = 'retinanet_ghm_r18_fpn_shapes'
URL = ('https://download.openmmlab.com/mmdetection/v2.0/ghm/' + NAME + '/' + NAME
       + '_20200130-a437fda3.pth')

def equal(got, expected):
    if got != expected:
        sys.exit(f'expected {expected!r}, got {got!r}')

def is_ours(cfg, num_classes=80, bins=30):
    head = cfg.model.bbox_head
    equal((head.num_classes, head.loss_cls.type, head.loss_cls.bins), (num_classes, 'GHMC', bins))
    equal((head.loss_bbox.type, head.loss_bbox.mu, cfg.model.backbone.depth), ('GHMR', 0.02, 50))
    equal((cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.clip_grad.max_norm), (0.01, 35))
    equal((cfg.default_scope, cfg.train_cfg.max_epochs), ('ghmdet', 12))

def child(text, file='child.py'):
    Path(file).write_text(text)
    return Config.fromfile(file)

def run(*command, program=sys.executable):
    done = subprocess.run([program, *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f'{command}: {(done.stdout + done.stderr)[-3000:]}')
    return done.stdout + done.stderr
"""
_CHANGES = 'model = dict(bbox_head=dict(num_classes=3, loss_cls=dict(bins=5)))\\n'
_LAZY = """
TEXT = '''
from mmengine.config import read_base
with read_base():
    from ghmdet.configs.%s import *
model.bbox_head.num_classes = 3
model.merge(dict(bbox_head=dict(loss_cls=dict(bins=5))))
'''
"""
_COMMAND = """
import sysconfig
ghmdet = partial(run, program=Path(sysconfig.get_path('scripts')) / 'ghmdet')
"""
_OWN_CONFIG = f"""{_COMMAND}
ghmdet('shapes', '--out', 'drawn', '--train', 8, '--val', 4)
Path('own_parts.py').write_text('')
Path('own.py').write_text(f'''
_base_ = "ghmdet::{{SHAPES}}.py"
custom_imports = dict(imports='own_parts')
loader = dict(num_workers=0, persistent_workers=False,
              dataset=dict(data_prefix=dict(img='images/')))
train_dataloader = val_dataloader = test_dataloader = loader
model = dict(test_cfg=dict(score_thr=0.001))
train_cfg = dict(max_epochs=1, val_interval=1)
''')
"""
_TRAIN_AND_TEST = """
import json
from ghmdet.datasets import draw_shapes
draw_shapes(Path('data/shapes'), dict(train=8, val=4), seed=0)
OPTIONS = ['--cfg-options', 'train_cfg.max_epochs=1', 'train_dataloader.num_workers=0',
           'train_dataloader.persistent_workers=False', 'val_dataloader.num_workers=0',
           'val_dataloader.persistent_workers=False', 'test_dataloader.num_workers=0',
           'test_dataloader.persistent_workers=False', 'default_hooks.logger.interval=1']

def train_and_test(train, train_config, test, test_config):
    work_dir = Path('work_dirs') / Path(train_config).stem
    log = run(*train, train_config, *OPTIONS)
    if f'ghmdet {ghmdet.__version__} from {Path(ghmdet.__file__).resolve().parent}' not in log:
        sys.exit('the log does not say which copy of ghmdet runs')
    checkpoint = Path((work_dir / 'last_checkpoint').read_text())
    equal(checkpoint.name, 'epoch_1.pth')
    run(*test, test_config, checkpoint, '--work-dir', 'tested', *OPTIONS)
    [metrics] = Path('tested').glob('*/*.json')
    if 'coco/bbox_mAP' not in json.loads(metrics.read_text()):
        sys.exit(f'no coco/bbox_mAP in {metrics.read_text()}')
"""

FORMS = {
    'import ghmdet, without torch': """
import ghmdet
equal([m for m in ('torch', 'mmcv', 'cv2', 'pkg_resources') if m in sys.modules], [])
""",
    'Config.fromfile(config_path(name))': """
import ghmdet
for name in (NAME, NAME + '.py', 'ghm/' + NAME, 'ghmdet::ghm/' + NAME + '.py'):
    is_ours(Config.fromfile(ghmdet.config_path(name)))
""",
    'get_config(name)': """
import ghmdet
for name in (NAME, 'ghm/' + NAME + '.py', 'ghmdet::ghm/' + NAME + '.py', 'ghmdet::' + NAME,
             'retinanet_r50_fpn_ghm-1x_coco', ghmdet.config_path(NAME)):
    is_ours(ghmdet.get_config(name))
try:
    ghmdet.get_config('retinanet_ghm_r50_1x_coco')
except FileNotFoundError as error:
    equal(NAME in str(error), True)
else:
    sys.exit('an unknown name was accepted')
""",
    "_base_ = 'ghmdet::...'": f"""
import ghmdet
for name in ('ghm/' + NAME + '.py', 'ghm/' + NAME, NAME + '.py', NAME):
    cfg = child(f'_base_ = "ghmdet::{{name}}"\\n{_CHANGES}')
    is_ours(cfg, num_classes=3, bins=5)
    equal(cfg.model._scope_, 'ghmdet')
cfg = child('_base_ = ["ghmdet::_base_/models/retinanet_r50_fpn.py"]\\n')
equal(cfg.model.bbox_head.loss_cls.type, 'FocalLoss')
""",
    "_base_ = __import__('ghmdet')...": f"""
equal('ghmdet' in sys.modules, False)
cfg = child(f'_base_ = __import__("ghmdet").config_path("{{NAME}}")\\n{_CHANGES}')
is_ours(cfg, num_classes=3, bins=5)
""",
    'read_base, ghmdet.configs.ghm': f"""{_LAZY}
import ghmdet
cfg = child(TEXT % ('ghm.' + NAME))
is_ours(cfg, num_classes=3, bins=5)
cfg.dump('dumped.py')
equal(Config.fromfile('dumped.py').to_dict(), cfg.to_dict())
""",
    'read_base, flat and _base_': f"""{_LAZY}
import ghmdet
is_ours(child(TEXT % NAME), num_classes=3, bins=5)
cfg = child(TEXT % '_base_.models.retinanet_r50_fpn')
equal((cfg.model.bbox_head.num_classes, cfg.model.bbox_head.loss_bbox.type), (3, 'L1Loss'))
""",
    'hub.get_config (hub first), list_models': """
from mmengine import hub
import ghmdet
cfg = hub.get_config('ghmdet::ghm/' + NAME + '.py', pretrained=True)
is_ours(cfg)
equal(cfg.model_path, URL)
equal(hub.get_config('ghmdet::' + NAME, pretrained=True).model_path, URL)
from mmengine.infer import BaseInferencer
found = BaseInferencer.list_models('ghmdet')
equal([n for n in found if n.startswith('retinanet_ghm_')],
      [f'retinanet_ghm_{b}_fpn_1x_coco' for b in ('r50', 'r101', 'x101_32x4d', 'x101_64x4d')])
equal('retinanet_r50_fpn_ghm-1x_coco' in found, True)
""",
    'hub.get_config and get_model': """
import ghmdet
from mmengine import hub
is_ours(hub.get_config('ghmdet::ghm/' + NAME + '.py'))
model = hub.get_model('ghmdet::' + SHAPES + '.py')
equal((type(model).__module__, model.bbox_head.num_classes), ('ghmdet.models.retinanet', 3))
""",
    'get_model(name), checkpoint=...': """
import ghmdet, torch
model = ghmdet.get_model(SHAPES)
equal((type(model).__name__, model.bbox_head.num_classes), ('RetinaNet', 3))
torch.save({'state_dict': model.state_dict()}, 'weights.pth')
again = ghmdet.get_model(SHAPES, checkpoint='weights.pth')
equal(torch.equal(again.bbox_head.retina_cls.weight, model.bbox_head.retina_cls.weight), True)
""",
    # Without a network: a copy of the metafiles names one on this machine.
    'get_model(pretrained=True), local copy': """
import hashlib, shutil, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
import ghmdet, torch
from ghmdet.config import shipped
from mmengine import hub
weights = ghmdet.get_model(NAME).state_dict()
Path('web').mkdir()
torch.save({'state_dict': weights, 'meta': {'CLASSES': ('person',) * 80}}, 'web/raw.pth')
digest = hashlib.sha256(Path('web/raw.pth').read_bytes()).hexdigest()[:8]
Path('web/raw.pth').rename(f'web/published-{digest}.pth')
server = ThreadingHTTPServer(('127.0.0.1', 0), partial(SimpleHTTPRequestHandler, directory='web'))
threading.Thread(target=server.serve_forever, daemon=True).start()
copy = Path('copy/.mim').resolve()
shutil.copytree(shipped.MIM_ROOT, copy)
metafile = copy / 'configs/ghm/metafile.yml'
local = f'http://127.0.0.1:{server.server_port}/published-{digest}.pth'
metafile.write_text(metafile.read_text().replace(URL, local))
shipped.MIM_ROOT = copy
hub.hub.get_installed_path = lambda package: str(copy.parent)
expected = weights['bbox_head.retina_cls.weight']
for model in (ghmdet.get_model(NAME, pretrained=True),
              hub.get_model('ghmdet::ghm/' + NAME + '.py', pretrained=True)):
    equal(torch.equal(model.bbox_head.retina_cls.weight, expected), True)
""",
    'python -m ghmdet.train / test': f"""
import ghmdet
{_TRAIN_AND_TEST}
train_and_test(['-m', 'ghmdet.train'], SHAPES, ['-m', 'ghmdet.test'], f'ghmdet::{{SHAPES}}.py')
""",
    'tools/train.py, tools/test.py': f"""
import ghmdet
{_TRAIN_AND_TEST}
tools = Path(ghmdet.__file__).parent / '.mim' / 'tools'
Path('text.py').write_text(f'_base_ = "ghmdet::{{SHAPES}}.py"')
Path('lazy.py').write_text('from mmengine.config import read_base\\n'
    f'with read_base():\\n    from ghmdet.configs.{{SHAPES}} import *\\n')
train_and_test([tools / 'train.py'], 'text.py', [tools / 'test.py'], 'lazy.py')
""",
    'ghmdet COMMAND --help': f"""{_COMMAND}
import ghmdet_command
from concurrent.futures import ThreadPoolExecutor
names = list(ghmdet_command.PROGRAMS)
with ThreadPoolExecutor(2) as pool:
    for name, text in zip(names, pool.map(lambda name: ghmdet(name, '--help'), names)):
        equal(text[: len(name) + 15], f'usage: ghmdet {{name}} ')
""",
    'ghmdet convert, train, test, report': f"""{_OWN_CONFIG}
file = 'drawn/annotations/train.json'
ghmdet('coco', 'to-yolo', file, '--out', 'yolo', '--images', 'drawn/train')
ghmdet('convert', 'yolo', '--out', 'data', '--split', '0.5,0.5')
ghmdet('check', 'data/annotations/train.json')
Path('workers.py').write_text('''
_base_ = "own.py"
loader = dict(num_workers=1, persistent_workers=True)
train_dataloader = dict(multiprocessing_context='spawn', **loader)
val_dataloader = dict(multiprocessing_context='forkserver', **loader)
''')
Path('argparse.py').write_text('1 / 0')  # of the current folder, hence not imported
data = ['--data-root', 'data']
log = ghmdet('train', 'workers.py', *data, '--work-dir', 'run', '--report')
equal('report written to' in log, True)
log = ghmdet('test', 'own.py', 'run/epoch_1.pth', *data)
equal('coco/bbox_mAP: ' in log, True)
ghmdet('report', 'run', '--out', 'report.html')
equal(Path('report.html').read_text()[:15], '<!DOCTYPE html>')
""",
    'ghmdet compare, predict, export': f"""{_OWN_CONFIG}
Path('drawn/images').symlink_to('train')
file = Path('drawn/annotations/train.json')
file.with_name('val.json').write_text(file.read_text())
ghmdet('compare', 'own.py', '--data', 'a=drawn', '--seeds', 2, '--jobs', 2, '--out', 'compared')
equal(len(Path('compared/runs.csv').read_text().splitlines()), 3)
given = 'own.py', 'compared/a/base/seed_0/epoch_1.pth'
ghmdet('predict', *given, 'drawn/val', '--out', 'found')
ghmdet('export', *given, '--format', 'pt2', '--check', 'drawn/val', '--out', 'model.pt2')
equal(Path('model.pt2').is_file(), True)
""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--only', default='', help='regular expression of the forms to try')
    parser.add_argument('--jobs', type=int, default=1, help='how many programs at once')
    args = parser.parse_args()
    print(describe_environment(), flush=True)
    chosen = [form for form in FORMS if re.search(args.only, form)]
    if not chosen:
        parser.error(f'--only {args.only!r} matches none of: {", ".join(FORMS)}')
    failed = 0
    with (
        tempfile.TemporaryDirectory(prefix='check_install_') as folder,
        ThreadPoolExecutor(args.jobs) as pool,
    ):
        for form, (problem, seconds) in zip(
            chosen, pool.map(partial(try_form, Path(folder)), chosen), strict=True
        ):
            print(f'{form:40} {seconds:5.1f} s  {"FAILED" if problem else "ok"}', flush=True)
            failed += bool(problem)
            print(problem, end='', flush=True)
    print(f'{len(chosen) - failed} of {len(chosen)} forms work')
    sys.exit(failed > 0)


def describe_environment() -> str:
    """Versions, and where ghmdet is imported from."""
    versions = [f'Python {platform.python_version()}']
    for package in _PACKAGES:
        try:
            versions.append(f'{package} {metadata.version(package)}')
        except metadata.PackageNotFoundError:
            versions.append(f'{package} none')
    where = subprocess.run(
        [sys.executable, '-c', 'import ghmdet; print(ghmdet.__version__, ghmdet.__file__)'],
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
        env=_environment(Path(tempfile.gettempdir())),
        timeout=_LIMIT,
    )
    return f'{", ".join(versions)}\nghmdet {where.stdout.strip() or where.stderr}'


def try_form(folder: Path, form: str) -> tuple[str, float]:
    """Run one form in an empty folder; return what went wrong ('' if nothing) and the seconds."""
    cwd = Path(tempfile.mkdtemp(dir=folder))
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, '-c', _PRELUDE + FORMS[form]],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=_environment(folder),
        timeout=_LIMIT,
    )
    problem = f'{done.stdout}{done.stderr}'[-3000:] + '\n' if done.returncode else ''
    return problem, time.perf_counter() - started


def _environment(folder: Path) -> dict[str, str]:
    """Without PYTHONPATH, with an empty cache of downloads, without a proxy for 127.0.0.1."""
    kept = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    return {**kept, 'TORCH_HOME': str(folder / 'torch'), 'no_proxy': '127.0.0.1'}


if __name__ == '__main__':
    main()

"""Advice of `env` and of the programs in tools/."""

import os
import re
import runpy
from pathlib import Path

import pytest

from ghmdet import env
from ghmdet.datasets import CocoDataset
from ghmdet.files import decode_text, read_lines
from tests.advice.conftest import TOOLS, edit, options
from tests.tools.dataset_converters.test_pascal_voc import add, convert, make_object, make_xml, root  # noqa: F401

SMALL_ANCHORS = 'model.bbox_head.anchor_generator.octave_base_scale=0.5'


@pytest.mark.follows(
    'no anchor of IoU >= {} (train_cfg.assigner.pos_iou_thr) and will hardly be learnt',
    '  {} -> {}. Train with it from the start',
)
def test_the_anchors_that_are_suggested(run, run_tool):
    first = run(options(SMALL_ANCHORS))
    share = r'(\d+)% of 3 boxes looked at in the training set have no anchor of IoU >= 0.5'
    assert 'tools/analysis_tools/anchor_report.py CONFIG shows which' in first.text
    assert re.search(share, first.text)[1] == '100'
    _, text = run_tool(
        'analysis_tools/anchor_report.py', 'tiny.py', *options(SMALL_ANCHORS).split()
    )
    suggestion = re.search(r'suggestion: (model = .*)', text)[1]
    promised = float(re.search(r'-> ([\d.]+)%. Train with it from the start', text)[1])
    then = run(suggestion)
    assert then.code == 0, then.error
    assert round(promised) == int(re.search(share, then.text)[1]) < 50


@pytest.mark.follows('Correct them in the file; tools/check_dataset.py lists them all')
@pytest.mark.follows('{}: {} errors in the data, see above and the report')
@pytest.mark.follows('only its decoder: correct the errors first')
def test_errors_of_the_data(run, run_tool):
    check = 'check_dataset.py', 'tiny.py', '--workers', 0, '--pipeline'
    first = run(
        edit(lambda data: [a.update(bbox=[1, 2]) for a in data['annotations'][:2]] and None)
    )
    assert 'tools/check_dataset.py lists them all' in first.error
    code, text = run_tool(*check)
    assert code == 1
    assert '2 errors in the data, see above and the report' in text
    report = Path('check_tiny/report.txt').read_text()
    assert report.count('bbox must be four finite numbers') == 2
    assert 'correct the errors first' in text
    run()
    code, text = run_tool(*check)
    assert code == 0, text
    assert 'correct the errors first' not in text


@pytest.mark.follows('--pipeline needs a config', '--workers and --pictures must not be negative')
@pytest.mark.follows('no folder of images beside the file; name it with --img-dir')
@pytest.mark.follows('{}. --allow-skipped accepts this')
def test_arguments_of_the_check(run, run_tool):
    run()
    file = 'data/annotations/val.json'
    for wrong, part in (
        ([file, '--pipeline'], '--pipeline needs a config'),
        ([file, '--workers', -1], 'must not be negative'),
    ):
        code, text = run_tool('check_dataset.py', *wrong)
        assert (code, part in text) == (2, True)
    assert run_tool('check_dataset.py', 'tiny.py', '--pipeline', '--workers', 0)[0] == 0
    os.rename('data/val', 'pictures')
    code, text = run_tool('check_dataset.py', file, '--workers', 0)
    assert (code, 'name it with --img-dir' in text) == (1, True)
    assert '--allow-skipped accepts this' in text
    assert run_tool('check_dataset.py', file, '--workers', 0, '--allow-skipped')[0] == 0
    assert run_tool('check_dataset.py', file, '--workers', 0, '--img-dir', 'pictures')[0] == 0


@pytest.mark.follows('--max-images must be at least 1', '--runs must be at least 1')
def test_numbers_of_at_least_one(run, run_tool, monkeypatch):
    run()
    report = 'analysis_tools/anchor_report.py', 'tiny.py', '--max-images'
    code, text = run_tool(*report, 0)
    assert (code, '--max-images must be at least 1' in text) == (2, True)
    assert run_tool(*report, 1)[0] == 0
    monkeypatch.syspath_prepend(TOOLS / 'analysis_tools')
    benchmark = runpy.run_path(str(TOOLS / 'analysis_tools/benchmark.py'))
    with pytest.raises(SystemExit):
        benchmark['parse_args'](['loss', '--runs', '0'])
    assert benchmark['parse_args'](['loss', '--runs', '1'])[0].runs == 1


@pytest.mark.follows('perhaps it is damaged: move it away', 'a {} file cannot contain {}; use .pth')
def test_publishing(run, run_tool):
    run()
    publish = 'model_converters/publish_model.py', 'checkpoint.pth'
    keys = '--save-keys', 'meta', 'optimizer'
    code, text = run_tool(*publish, 'out.safetensors', *keys)
    assert (code, 'cannot contain optimizer; use .pth' in text) == (1, True)
    assert run_tool(*publish, 'out.pth', *keys)[0] == 0
    (file,) = Path().glob('out-*.pth')
    file.write_bytes(b'damaged')
    code, text = run_tool(*publish, 'out.pth', *keys)
    assert (code, 'move it away' in text) == (1, True)
    file.rename('away.pth')
    assert run_tool(*publish, 'out.pth', *keys)[0] == 0
    assert file.stat().st_size > 1000


@pytest.mark.follows('--sets takes names of lists without folder and ending')
@pytest.mark.follows('{} were left out, as listed above; correct them, or accept this with')
def test_the_voc_converter(root, capsys):  # noqa: F811
    with pytest.raises(SystemExit):
        convert(root, '--sets', 'ImageSets/Main/val.txt')
    assert 'names of lists without folder and ending' in capsys.readouterr().err
    assert list(convert(root, '--sets', 'val')) == ['val']
    add(root, 'd', make_xml(make_object('dog', ('9', '9', '2', '2'))))
    convert(root, error='1 boxes were left out, as listed above; correct them, or accept this')
    assert len(convert(root, '--allow-skipped')['train']['annotations']) == 1
    (root / 'Annotations/d.xml').write_text(make_xml(make_object('dog', ('2', '2', '9', '9'))))
    assert len(convert(root)['train']['annotations']) == 2


@pytest.mark.follows(' It may be ')
def test_the_folder_of_the_voc_converter(root, capsys):  # noqa: F811
    for name in ('Annotations', 'ImageSets', 'JPEGImages'):
        (root / 'VOC2012').mkdir(exist_ok=True)
        (root / name).rename(root / 'VOC2012' / name)
    with pytest.raises(SystemExit):
        convert(root)
    inner = re.search(r'is VOC_ROOT right\? It may be (\S+)$', capsys.readouterr().err.strip())[1]
    assert sorted(convert(Path(inner))) == ['train', 'val']


@pytest.mark.follows('cannot create the link {} ({}): set data_prefix.img=')
def test_images_that_cannot_be_linked(root, capsys, monkeypatch):  # noqa: F811
    def refuse(self, *args, **kwargs):
        raise OSError('no links here')

    monkeypatch.setattr(Path, 'symlink_to', refuse)
    convert(root)
    folder = re.search(r"set data_prefix.img='(.*)' in the config", capsys.readouterr().err)[1]
    dataset = CocoDataset(
        data_root=str(root / 'out'),
        ann_file='annotations/train.json',
        data_prefix=dict(img=folder),
        metainfo=dict(classes=('cat', 'dog')),
    )
    dataset.check_image_files(limit=9)
    assert Path(dataset[0]['img_path']).is_file()


@pytest.mark.follows('declares the unknown encoding {}; save it as UTF-8')
@pytest.mark.follows('if it is text in another encoding, save it as UTF-8')
def test_text_in_another_encoding(tmp_path):
    text = 'Käse\n'
    file = tmp_path / 'classes.txt'
    file.write_bytes(text.encode('latin-1'))
    with pytest.raises(ValueError, match='if it is text in another encoding, save it as UTF-8'):
        read_lines(file)
    file.write_text(text, encoding='utf-8')
    assert read_lines(file) == ['Käse']
    with pytest.raises(ValueError, match='unknown encoding .x-unknown.; save it as UTF-8'):
        decode_text(text.encode('latin-1'), 'a.xml', 'x-unknown')
    assert decode_text(text.encode(), 'a.xml', 'x-unknown') == text


@pytest.mark.follows(
    '{} has metadata, but there is no module {}: install it again',
    '{} is missing: pip install ',
    'pip install -U "{}>={}"',
    'pip uninstall both, then install one',
    reason='nothing is installed here: the versions are changed as pip would change them',
)
@pytest.mark.parametrize(
    ('versions', 'has', 'message'),
    [
        (
            dict.fromkeys(('mmcv-lite', 'mmcv', 'onedl-mmcv')),
            False,
            r'mmcv-lite is missing: pip install "mmcv-lite>=([\d.]+)"',
        ),
        ({}, False, r'mmcv-lite has metadata, but there is no module mmcv.cnn: install it again'),
        (
            {'mmcv-lite': '2.1.0'},
            True,
            r'2.1.0 is older than ([\d.]+): pip install -U "mmcv-lite>=\1"',
        ),
        ({'mmcv': '2.2.0'}, True, r'mmcv-lite and mmcv are both .*: pip uninstall both, then'),
    ],
    ids=['missing', 'damaged', 'old', 'doubled'],
)
def test_packages_as_pip_leaves_them(versions, has, message, monkeypatch, capsys):
    def look(versions, has):
        with monkeypatch.context() as patch:
            old_version, old_has = env._version, env._has
            patch.setattr(
                env, '_version', lambda n: versions[n] if n in versions else old_version(n)
            )
            patch.setattr(env, '_has', lambda name: old_has(name) and (has or name != 'mmcv'))
            patch.setattr(env, '_describe_torch', lambda *_: None)  # takes seconds
            env.main()
        return capsys.readouterr().out

    found = re.search(message, look(versions, has))
    installed = dict(mmcv=None, **{'mmcv-lite': '2.2.0'})
    if found.groups():
        installed['mmcv-lite'] = found[1]
    after = look(installed, True)
    assert not re.search(message, after)
    assert 'all requirements of ghmdet are met' in after

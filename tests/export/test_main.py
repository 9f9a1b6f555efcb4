"""The program: what it writes, prints and refuses."""

import shutil
import sys

import pytest
import torch

from ghmdet import Detector
from ghmdet.export import __main__ as program


@pytest.fixture
def run(exported, monkeypatch, capsys):
    """Call the program; `file` stands for what it would write, else it is to stop before."""

    real = program.write

    def call(*words, file=None, checkpoint='model.pth'):
        def write(draft, *rest):
            assert file is not None
            shutil.copy(file, draft)

        monkeypatch.setattr(program, 'write', real if file == 'real' else write)
        words = ['export.py', exported / 'config.py', exported / checkpoint, *words]
        monkeypatch.setattr(sys, 'argv', [str(word) for word in words])
        program.main()
        return capsys.readouterr().out

    return call


def test_report(run, exported, tmp_path):
    target = tmp_path / 'new' / 'm.onnx'
    out = run('--out', target, file=exported / 'model.onnx')
    lines = [line for line in out.splitlines() if ' is not used' not in line]  # of the config
    ann_file = exported / 'data/annotations/val.json'
    assert lines[0] == f'comparing on 6 images: {ann_file} ...'
    assert lines[1].endswith(' detections, 100.00% of them with a partner in the file')
    assert lines[2] == 'without a partner: 0 in both, and 0 excepted'
    assert lines[3].startswith('worst difference: box 0.000')
    assert lines[4].endswith(': 0.0000 lost')
    assert lines[5].startswith('3.2 MB, the weights of the original ')
    assert lines[6].startswith('CPU time ')
    assert lines[7:] == [f'written: {target}']
    assert [each.name for each in target.parent.iterdir()] == ['m.onnx']
    with pytest.raises(FileExistsError, match='exists; --exist-ok replaces it'):
        run('--out', target, file=exported / 'model.onnx')
    assert run('--out', target, '--exist-ok', file=exported / 'model.onnx').endswith(f'{target}\n')


def test_the_name_is_that_of_the_config_beside_the_checkpoint(run, exported, tmp_path):
    shutil.copy(exported / 'model.pth', tmp_path / 'best.pth')
    out = run('--format', 'onnx', file=exported / 'model.onnx', checkpoint=tmp_path / 'best.pth')
    assert out.splitlines()[-1] == f'written: {tmp_path / "config.onnx"}'


def test_a_file_that_detects_something_else_is_an_error(run, exported, tmp_path):
    """Its weights are those of another training."""
    checkpoint = torch.load(exported / 'model.pth')
    checkpoint['state_dict']['bbox_head.retina_reg.bias'] += 0.01
    torch.save(checkpoint, tmp_path / 'other.pth')
    target, words = tmp_path / 'm.onnx', dict(checkpoint=tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'it is kept as .*m\.unchecked\.onnx'):
        run('--out', target, file=exported / 'model.onnx', **words)
    assert not target.exists()
    assert (tmp_path / 'm.unchecked.onnx').exists()
    run('--out', target, '--exist-ok', file=exported / 'model.onnx')  # replaces the draft
    assert not (tmp_path / 'm.unchecked.onnx').exists()


def test_a_stop_leaves_no_file(run, exported, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr('ghmdet.export.check.compare', stop)
    with pytest.raises(KeyboardInterrupt):
        run('--out', tmp_path / 'm.onnx', file=exported / 'model.onnx')
    assert [*tmp_path.iterdir()] == []


@pytest.mark.follows('--static must be a height and a width in pixels')
def test_static_torch_export(run, exported, tmp_path, capsys):
    """Written in earnest; an image is padded to the size, in the original too."""
    target = tmp_path / 'm.pt2'
    with pytest.raises(SystemExit):
        run('--out', target, '--static', 0, 180)
    assert 'a height and a width in pixels, got [0, 180]' in capsys.readouterr().err
    run('--out', target, '--static', 170, 180, file='real')
    photo = exported / 'data/val/00001.jpg'
    found, original = Detector(target)(photo), Detector(exported / 'model.onnx')(photo)
    assert len(found) > 0
    # The padding is larger than that of the other file, which changes features near it.
    assert not torch.equal(torch.tensor(found.scores), torch.tensor(original.scores))


@pytest.mark.long
def test_onnx_with_8_bits(run, exported, tmp_path):
    target, photos = tmp_path / 'm.onnx', exported / 'data/val'
    out = run('--out', target, '--int8', photos, '--check', photos, file='real')
    assert f'calibrating on 6 images: {photos} ...' in out
    assert target.stat().st_size < 0.5 * (exported / 'model.onnx').stat().st_size
    assert len(Detector(target)(photos / '00001.jpg')) > 0


@pytest.mark.follows('calibrate on more images, which are like those of the test')
def test_a_loss_by_8_bits_is_a_warning(capsys, exported):
    kind = program.check.Comparison
    lost = kind(detections=4, pairs=3, alone=['a'], ap=[0.5, 0.489])
    program.report(lost, exported / 'model.onnx', torch.nn.Linear(1, 1))
    out, err = capsys.readouterr()
    assert '75.00% of them' in out
    assert 'AP 0.4890, of the original 0.5000: 0.0110 lost' in out
    assert err.startswith('warning: more than 0.01 of AP is lost')
    program.report(kind(ap=[0.5, 0.4901]), exported / 'model.onnx', torch.nn.Linear(1, 1))
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ([], 'expected --format onnx or --format pt2, or --out F with such an ending'),
        (['--out', 'm.xml'], 'expected --format onnx or --format pt2'),
        (['--format', 'pt2', '--int8', '9'], '--int8 needs --format onnx'),
    ],
)
@pytest.mark.follows('expected --format onnx or --format pt2', '--int8 needs --format onnx')
def test_wrong_arguments(run, exported, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit):
        run(*words)
    assert message in capsys.readouterr().err
    right = ['--out', tmp_path / 'm.onnx']
    right += ['--int8', exported / 'data/val'] if '--int8' in words else []
    assert run(*right, file=exported / 'model.onnx').endswith('m.onnx\n')


@pytest.mark.follows('--out {}: the name must end in .{}')
def test_a_name_with_another_ending(run, exported, tmp_path):
    with pytest.raises(ValueError, match=r'm\.onnx: the name must end in \.pt2'):
        run('--out', tmp_path / 'm.onnx', '--format', 'pt2')
    run('--out', tmp_path / 'm.pt2', '--format', 'pt2', file=exported / 'model.pt2')
    assert (tmp_path / 'm.pt2').exists()


def test_what_is_refused_before_the_tracing(run, exported, tmp_path, monkeypatch):
    out = ['--out', tmp_path / 'm.onnx']
    (tmp_path / 'file').touch()
    with pytest.raises(ValueError, match=r'no file of this name can be created in .*file'):
        run('--out', tmp_path / 'file' / 'm.onnx')
    with pytest.raises(FileNotFoundError, match="'nowhere' does not exist"):
        run(*out, '--check', 'nowhere')
    with pytest.raises(FileNotFoundError, match="'nowhere' does not exist"):
        run(*out, '--int8', 'nowhere')
    with pytest.raises(ValueError, match=r'--static \[64, 160\]: after the resize .* has'):
        run(*out, '--static', 64, 160)
    monkeypatch.delattr('ghmdet.models.retina_head.RetinaHead.detect')
    with pytest.raises(ValueError, match='got RetinaNet with RetinaHead'):
        run(*out)


@pytest.mark.follows('--format {} needs a package: pip install {}')
def test_missing_packages(run, exported, monkeypatch, tmp_path):
    monkeypatch.setattr(program, 'find_spec', lambda name: None if 'script' in name else name)
    words = ['--out', tmp_path / 'm.onnx']
    with pytest.raises(ModuleNotFoundError, match=r'--format onnx needs .*pip install onnxscript$'):
        run(*words)
    monkeypatch.undo()  # it is installed
    run(*words, file=exported / 'model.onnx')
    assert (tmp_path / 'm.onnx').exists()

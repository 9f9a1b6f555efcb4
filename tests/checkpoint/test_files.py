"""Which checkpoints a work dir holds, and which of them are whole."""

from __future__ import annotations

import os
import zipfile

import pytest
import torch
from mmengine.config import Config

from ghmdet.checkpoint.files import find_damage, list_checkpoints, read_pointer
from tests.hostile import Own


def config(work_dir, **hook):
    return Config(dict(work_dir=str(work_dir), default_hooks=dict(checkpoint=hook)))


def touch(folder, *names):
    """Empty files, each a second younger than the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    for second, name in enumerate(names):
        (folder / name).write_bytes(b'')
        os.utime(folder / name, (1000 + second, 1000 + second))


def names(cfg):
    return [os.path.basename(path) for path in list_checkpoints(cfg)]


# --- the list -----------------------------------------------------------------------------------


def test_the_one_written_last_comes_first(tmp_path):
    touch(tmp_path, 'epoch_24.pth', 'epoch_2.pth', 'iter_9.pth', 'epoch_3.pth')
    for name in ('epoch_11.pth', 'epoch_9.pth'):  # at the same time: the number counts
        touch(tmp_path, name)
    order = 'epoch_3 iter_9 epoch_2 epoch_24 epoch_11 epoch_9'
    assert names(config(tmp_path)) == [f'{name}.pth' for name in order.split()]


def test_what_is_no_checkpoint_to_go_on_from(tmp_path):
    touch(tmp_path, 'best_coco_bbox_mAP_epoch_3.pth', '.epoch_3.pth.tmp', 'epoch_3.pth.bak')
    touch(tmp_path, 'epoch_x.pth', 'epoch_3-0a1b2c3d.pth', 'last_checkpoint', 'xepoch_1.pth')
    (tmp_path / 'epoch_7.pth').mkdir()
    (tmp_path / 'epoch_8.pth').symlink_to(tmp_path / 'nowhere')
    assert names(config(tmp_path)) == []
    assert names(config(tmp_path / 'absent')) == []


def test_names_and_folder_of_the_hook(tmp_path):
    touch(tmp_path / 'work', 'epoch_1.pth', 'model.007.pth', 'model_x007.pth')
    touch(tmp_path / 'out' / 'work', 'model.0012.pth')
    hook = dict(filename_tmpl='model.{:03d}.pth', out_dir=str(tmp_path / 'out'))
    cfg = config(tmp_path / 'work', **hook)
    assert sorted(list_checkpoints(cfg)) == [
        f'{tmp_path}/out/work/model.0012.pth',
        f'{tmp_path}/work/epoch_1.pth',
        f'{tmp_path}/work/model.007.pth',
    ]
    cfg = config(tmp_path / 'work', out_dir='s3://bucket', filename_tmpl='model.007.pth')
    assert sorted(names(cfg)) == ['epoch_1.pth', 'model.007.pth']


# --- the pointer --------------------------------------------------------------------------------


def point(folder, text):
    if text is None:
        (folder / 'last_checkpoint').mkdir()
    else:
        (folder / 'last_checkpoint').write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_pointer(config(folder))


def test_what_the_pointer_names(tmp_path):
    assert read_pointer(config(tmp_path)) == (None, '')
    touch(tmp_path, 'epoch_1.pth', 'epoch_2.pth')
    wanted = (f'{tmp_path}/epoch_2.pth', '')
    for before in (f'{tmp_path}/', f'  {tmp_path}/', '', '/before/it/was/moved/'):
        assert point(tmp_path, f'{before}epoch_2.pth \n\n') == wanted
    touch(tmp_path / 'elsewhere', 'epoch_2.pth')
    assert point(tmp_path, f'{tmp_path}/elsewhere/epoch_2.pth')[0].endswith('where/epoch_2.pth')
    assert point(tmp_path, 's3://bucket/epoch_5.pth') == ('s3://bucket/epoch_5.pth', '')


@pytest.mark.parametrize(
    ('text', 'problem'),
    [
        (b'', 'is empty'),
        (b' \n\t\n', 'is empty'),
        (bytes(range(256)), 'does not contain the name of a file'),
        (b'epoch_1.pth\0', 'does not contain the name of a file'),
        (b'epoch_1.pth\nepoch_2.pth', 'does not contain the name of a file'),
        (b'/gone/epoch_9.pth', 'names /gone/epoch_9.pth, which does not exist'),
        (b'/tmp', 'names /tmp, which is a folder'),
        (b'x' * 5000, f'names {"x" * 5000}, which does not exist'),
        (None, 'cannot be read (Is a directory)'),
    ],
)
def test_a_pointer_that_is_of_no_use(tmp_path, text, problem):
    touch(tmp_path, 'epoch_1.pth', 'epoch_2.pth')
    assert point(tmp_path, text) == (None, f'{tmp_path}/last_checkpoint {problem}')


# --- damage -------------------------------------------------------------------------------------


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    torch.save(dict(state_dict=dict(a=torch.arange(5000.0)), meta=dict(epoch=1)), path)
    return path


def test_whole_files(whole, tmp_path):
    old, refused = tmp_path / 'epoch_2.pth', tmp_path / 'epoch_3.pth'
    weights = dict(a=torch.arange(9.0))
    torch.save(dict(state_dict=weights), old, _use_new_zipfile_serialization=False)
    assert old.read_bytes()[:2] != b'PK'
    torch.save(dict(state_dict={}, meta=Own()), refused)  # loading it gives the reason
    for path in (whole, old, refused, 's3://bucket/epoch_1.pth'):
        assert find_damage(str(path)) is None


def test_damaged_files(whole):
    path, data = str(whole), whole.read_bytes()
    whole.write_bytes(data[: len(data) // 2])
    told = find_damage(path)
    assert told.startswith(f'{path} ({len(data) // 2} bytes) cannot be read (')
    assert 'It is truncated or damaged, as an interrupted save' in told
    whole.write_bytes(b'')
    assert find_damage(path) == f'{path} is empty (0 bytes): the save or download did not finish.'
    whole.write_bytes(b'garbage' * 100)
    assert find_damage(path).startswith(f"{path} is not a checkpoint: it begins with b'garbage")
    # One number among the weights: torch.load does not notice.
    at = data.index(torch.tensor([77.0, 78.0]).numpy().tobytes())
    whole.write_bytes(data[:at] + b'\x01' + data[at + 1 :])
    assert torch.load(path)['state_dict']['a'][77] != 77
    assert find_damage(path) == (
        f'{path} is damaged: the checksum of epoch_1/data/0 in it is wrong'
    )
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('readme.txt', 'hello')
    assert find_damage(path).startswith(f'{path} (')
    os.remove(path)
    assert find_damage(path).startswith(f'no checkpoint {path}; ')


def test_no_cut_and_no_flipped_bit_is_an_accident(whole):
    """Whatever stands in the file, the answer is a text or None."""
    data, generator = whole.read_bytes()[-3000:], torch.Generator().manual_seed(0)
    head = whole.read_bytes()[:-3000]
    answers = []
    for place in torch.randint(3000, (60,), generator=generator).tolist():
        broken = bytearray(data)
        broken[place] ^= 0xFF
        whole.write_bytes(head + broken)
        answers.append(find_damage(str(whole)))
        whole.write_bytes(head + data[:place])
        assert isinstance(find_damage(str(whole)), str)
    assert sum(answer is not None for answer in answers) > 30  # the others hit the padding

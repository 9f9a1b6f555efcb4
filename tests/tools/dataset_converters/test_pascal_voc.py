from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from ghmdet.datasets import CocoDataset

TOOL = Path(__file__).parents[3] / 'tools' / 'dataset_converters' / 'pascal_voc.py'
BCCD = Path(__file__).parents[4] / 'shared' / 'data' / 'bccd'

spec = importlib.util.spec_from_file_location('pascal_voc_tool', TOOL)
voc = importlib.util.module_from_spec(spec)
# A dataclass looks its module up.
sys.modules[spec.name] = voc
spec.loader.exec_module(voc)

Box = tuple[str, str, str, str]


def make_object(name: str, box: Box, extra: str = '') -> str:
    corners = zip(('xmin', 'ymin', 'xmax', 'ymax'), box, strict=True)
    inner = ''.join(f'<{key}>{value}</{key}>' for key, value in corners)
    return f'<object><name>{name}</name>{extra}<bndbox>{inner}</bndbox></object>'


def make_xml(*objects: str, size: str = '<width>50</width><height>40</height>') -> str:
    return f'<annotation><size>{size}</size>{"".join(objects)}</annotation>'


@pytest.fixture
def root(tmp_path) -> Path:
    """Two images to train on, the second without objects, and one to validate on."""
    for folder in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (tmp_path / folder).mkdir(parents=True)
    add(tmp_path, 'b', make_xml(make_object('dog', ('1', '2', '11', '22'))), suffix='.JPG')
    add(tmp_path, 'a.1', make_xml())
    add(tmp_path, 'c', make_xml(make_object('cat', ('5', '6', '7.5', '9'))), split='val')
    return tmp_path


def add(root: Path, image_id: str, xml: str, split: str = 'train', suffix: str = '.png') -> None:
    (root / 'Annotations' / f'{image_id}.xml').write_text(xml)
    Image.new('RGB', (50, 40)).save(root / 'JPEGImages' / f'{image_id}{suffix}')
    with (root / 'ImageSets' / 'Main' / f'{split}.txt').open('a') as file:
        file.write(f'{image_id}\n')


def make_ann(category_id: int, bbox: list[float], area: float) -> dict:
    ids = {'id': 1, 'image_id': 1, 'category_id': category_id}
    return ids | {'bbox': bbox, 'area': area, 'iscrowd': 0}


def convert(root: Path, *args: str, error: str = '') -> dict[str, dict]:
    """The files written; `error` is what the program ends with."""
    if error:
        with pytest.raises(ValueError, match=error):
            voc.main([str(root), '--out', str(root / 'out'), *args])
    else:
        voc.main([str(root), '--out', str(root / 'out'), *args])
    files = (root / 'out' / 'annotations').iterdir()
    return {file.stem: json.loads(file.read_text()) for file in files}


def test_boxes_ids_and_classes(root, capsys):
    converted = convert(root)
    size = {'width': 50, 'height': 40}
    categories = [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog'}]
    assert converted == {
        'train': {
            'images': [
                {'id': 1, 'file_name': 'b.JPG', **size},
                {'id': 2, 'file_name': 'a.1.png', **size},
            ],
            'annotations': [make_ann(2, [0, 1, 10, 20], 200)],
            'categories': categories,
        },
        'val': {
            'images': [{'id': 1, 'file_name': 'c.png', **size}],
            'annotations': [make_ann(1, [4, 5, 2.5, 3], 7.5)],
            'categories': categories,
        },
    }
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        'train: 2 images, boxes: cat 0, dog 1; 0 of other classes left out; problems: 0',
        'val: 1 images, boxes: cat 1, dog 0; 0 of other classes left out; problems: 0',
    ]
    assert err == ''


def test_given_classes_keep_their_order_and_leave_others_out(root, capsys):
    converted = convert(root, '--sets', 'val', '--classes', 'zebra', 'cat')
    assert set(converted) == {'val'}
    assert converted['val']['categories'] == [{'id': 1, 'name': 'zebra'}, {'id': 2, 'name': 'cat'}]
    assert converted['val']['annotations'] == [make_ann(2, [4, 5, 2.5, 3], 7.5)]
    out, err = capsys.readouterr()
    assert 'zebra 0, cat 1; 0 of other classes left out' in out
    assert err == "no object has the class 'zebra'\n"


def test_classes_of_which_no_box_is_there(root, capsys):
    error = '^train has no box of the classes Dog, zebra, only of dog. The annotation files are'
    converted = convert(root, '--sets', 'train', '--classes', 'Dog', 'zebra', error=error)
    assert [image['id'] for image in converted['train']['images']] == [1, 2]
    assert converted['train']['annotations'] == []
    assert "no object has the class 'Dog' (did you mean 'dog'?)" in capsys.readouterr().err
    # As advised:
    converted = convert(root, '--sets', 'train', '--classes', 'dog', 'zebra')
    assert [ann['category_id'] for ann in converted['train']['annotations']] == [1]


@pytest.mark.parametrize('allow', [(), ('--allow-skipped',)])
def test_a_set_without_images_or_boxes_is_an_error(root, allow):
    (root / 'ImageSets' / 'Main' / 'val.txt').write_text('nothing\nof_this\n')
    (root / 'ImageSets' / 'Main' / 'test.txt').write_text('a.1\n')
    lost = '' if allow else '; 2 images were left out, as listed above'
    converted = convert(root, *allow, error=f'^val has no image; test has no box{lost}')
    assert [len(converted[name]['images']) for name in ('train', 'val', 'test')] == [2, 0, 1]


def test_bad_boxes_are_reported(root, capsys):
    boxes = [('9', '1', '9', '5'), ('1', '5', '3', '4'), ('1', '1', 'nan', '4')]
    boxes += [('1', '', '3', '4'), ('1', 'x', '3', '4'), ('3', '3', '8', '8')]
    others = (make_object('', ('1', '2', '3', '4')), '<object><name>dog</name></object>')
    huge = [
        ('-1e308', '1', '1e308', '4'),
        ('1', '1', '1e200', '1e200'),
        ('9' * 5000, '1', '2', '3'),
    ]
    objects = [make_object('dog', box) for box in boxes], [make_object('dog', box) for box in huge]
    add(root, 'd', make_xml(*objects[0], *others, *objects[1], size=''))
    error = '^10 boxes were left out, as listed above; .* accept this with --allow-skipped'
    anns = convert(root, error=error)['train']['annotations']
    assert [ann['bbox'] for ann in anns] == [[0, 1, 10, 20], [2, 2, 5, 5]]
    assert [ann['id'] for ann in anns] == [1, 2]
    out, err = capsys.readouterr()
    prefix = f'train: {root / "Annotations" / "d.xml"}: '
    lines = [line.removeprefix(prefix) for line in err.splitlines()]
    not_finite = [line.split(': {')[0] for line in lines[7:]]
    assert not_finite == [f'object {i}: box is not finite' for i in (8, 9, 10)]
    assert max(map(len, lines)) < 400
    assert lines[:7] == [
        "object 0: box is degenerate: {'xmin': '9', 'ymin': '1', 'xmax': '9', 'ymax': '5'}",
        "object 1: box is degenerate: {'xmin': '1', 'ymin': '5', 'xmax': '3', 'ymax': '4'}",
        "object 2: box is not finite: {'xmin': '1', 'ymin': '1', 'xmax': 'nan', 'ymax': '4'}",
        "object 3: box is not four numbers: {'xmin': '1', 'ymin': '', 'xmax': '3', 'ymax': '4'}",
        "object 4: box is not four numbers: {'xmin': '1', 'ymin': 'x', 'xmax': '3', 'ymax': '4'}",
        'object 6: has no name',
        'object 7: box is not four numbers: '
        "{'xmin': None, 'ymin': None, 'xmax': None, 'ymax': None}",
    ]
    assert 'problems: 10' in out.splitlines()[0]
    assert convert(root, '--allow-skipped')['train']['annotations'] == anns


def test_files_that_are_missing_or_refused(root, capsys):
    (root / 'ImageSets' / 'Main' / 'test.txt').write_text('gone\nc\n\nbare\nbomb\nbad\nempty\nc\n')
    add(root, 'empty', make_xml())
    (root / 'JPEGImages' / 'empty.png').write_bytes(b'')
    for image_id in ('bare', 'bomb', 'bad'):
        Image.new('RGB', (32, 24)).save(root / 'JPEGImages' / f'{image_id}.png')
    bomb = '<!DOCTYPE a [<!ENTITY x "boom">]><annotation><size>&x;</size></annotation>'
    (root / 'Annotations' / 'bomb.xml').write_bytes(bomb.encode('utf-16'))
    (root / 'Annotations' / 'bad.xml').write_text('<annotation>')
    converted = convert(root, '--sets', 'test', error='^5 images were left out, as listed above')
    assert [image['file_name'] for image in converted['test']['images']] == ['c.png']
    out, err = capsys.readouterr()
    gone, bare, bomb, bad, empty = err.splitlines()
    assert empty == f'test: empty: image {root}/JPEGImages/empty.png is empty (0 bytes)'
    assert gone == f'test: gone: no image of this name in {root / "JPEGImages"}'
    assert 'bare.xml: no such file' in bare
    assert bomb.endswith('bomb.xml: has a DOCTYPE, which is refused')
    assert 'bad.xml: no element found: line 1, column 12' in bad
    assert 'test: 1 images, boxes: cat 1' in out
    assert 'problems: 5' in out


@pytest.mark.parametrize(
    ('xml_wh', 'used_wh', 'problems'),
    [
        ((32, 24), (32, 24), 0),
        ((24, 32), (24, 32), 0),
        ((50, 40), (24, 32), 1),
        ((0, 0), (24, 32), 0),
        (('x', 9), (24, 32), 0),
        (('9' * 5000, 40), (24, 32), 0),
    ],
)
def test_the_size_of_an_image_with_an_exif_orientation(root, capsys, xml_wh, used_wh, problems):
    exif = Image.Exif()
    exif[0x0112] = 8
    size = f'<width>{xml_wh[0]}</width><height>{xml_wh[1]}</height>'
    add(root, 'd', make_xml(size=size), suffix='.jpeg')
    Image.new('RGB', (32, 24)).save(root / 'JPEGImages' / 'd.jpeg', exif=exif)
    image = convert(root)['train']['images'][2]
    assert (image['width'], image['height']) == used_wh
    err = capsys.readouterr().err
    assert err.count('d.xml: size is (50, 40), but the image has (24, 32)') == problems


def test_xml_that_is_meant_to_harm(root, capsys):
    laughs = '<!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    secret = root / 'secret.txt'
    secret.write_text('dog')
    texts = {
        'laughs': f'{laughs}<annotation><object><name>&b;</name></object></annotation>',
        'external': f'<!DOCTYPE a [<!ENTITY x SYSTEM "{secret.as_uri()}">]><a>&x;</a>',
        'remote': '<!DOCTYPE a SYSTEM "http://192.0.2.1/a.dtd"><annotation/>',
        'huge': ' ' * (16 * 2**20 + 1),
        'deep': '<a>' * 100_000 + '</a>' * 100_000,
        'encoding': '<?xml version="1.0" encoding="no-such"?><annotation/>',
        'bytes': '<?xml version="1.0" encoding="hex"?><annotation/>',
    }
    for name, text in texts.items():
        add(root, name, text)
        if name in ('encoding', 'bytes'):
            (root / 'Annotations' / f'{name}.xml').write_bytes(text.encode() + b'\xe4')
    (root / 'Annotations' / 'folder.xml').mkdir()
    Image.new('RGB', (50, 40)).save(root / 'JPEGImages' / 'folder.png')
    with (root / 'ImageSets' / 'Main' / 'train.txt').open('a') as file:
        file.write('folder\n../secret\n../../etc/passwd\n/etc/passwd\n')
    files = {path for path in root.parent.rglob('*') if path.is_file()}
    converted = convert(root, error='^10 images were left out, as listed above')
    names = [image['file_name'] for image in converted['train']['images']]
    assert names == ['b.JPG', 'a.1.png', 'deep.png']  # which has no objects
    lines = [line.split(': ', 1)[1] for line in capsys.readouterr().err.splitlines()]
    folder, nowhere = root / 'Annotations', f'no image of this name in {root / "JPEGImages"}'
    assert lines == [
        f'{folder}/laughs.xml: has a DOCTYPE, which is refused',
        f'{folder}/external.xml: has a DOCTYPE, which is refused',
        f'{folder}/remote.xml: has a DOCTYPE, which is refused',
        f'{folder}/huge.xml: has 16777217 bytes, more than 16777216',
        f"{folder}/encoding.xml: declares the unknown encoding 'no-such'; save it as UTF-8",
        f"{folder}/bytes.xml: declares the unknown encoding 'hex'; save it as UTF-8",
        f'{folder}/folder.xml: no such file',
        f'../secret: {nowhere}',
        f'../../etc/passwd: {nowhere}',
        f'/etc/passwd: {nowhere}',
    ]
    written = {path for path in root.parent.rglob('*') if path.is_file()} - files
    assert written == {root / 'out' / 'annotations' / f'{name}.json' for name in ('train', 'val')}


def test_difficult_objects_are_marked_or_skipped(root, capsys):
    hard = make_object('dog', ('1', '1', '3', '3'), extra='<difficult>1</difficult>')
    add(root, 'd', make_xml(hard, make_object('dog', ('1', '1', '4', '4'))))
    anns = convert(root)['train']['annotations']
    assert [(ann['area'], ann['iscrowd']) for ann in anns] == [(200, 0), (4, 0), (9, 0)]
    assert [(ann.get('ignore'), ann.get('difficult')) for ann in anns] == [
        *((None, None), (1, 1), (None, None)),
    ]
    assert 'cat 0, dog 3 (1 of them difficult: ignore=1); 0 of' in capsys.readouterr().out
    dataset = CocoDataset(
        str(root / 'out/annotations/train.json'),
        data_prefix={'img': str(root / 'out/JPEGImages')},
        metainfo={'classes': ('cat', 'dog')},
    )
    flags = [instance['ignore_flag'] for instance in dataset.get_data_info(2)['instances']]
    assert flags == [1, 0]
    anns = convert(root, '--skip-difficult')['train']['annotations']
    assert [ann['area'] for ann in anns] == [200, 9]


def write_list(root: Path, name: str, *lines: str, encoding: str = 'utf-8') -> None:
    text = ''.join(f'{line}\r\n' for line in lines)
    (root / 'ImageSets' / 'Main' / f'{name}.txt').write_bytes(text.encode(encoding))


@pytest.mark.parametrize(
    ('line', 'found'),
    [
        ('b', 'b.JPG'),
        ('b.JPG', 'b.JPG'),
        ('b.jpg', 'b.JPG'),
        ('B', 'b.JPG'),
        ('b.png', 'b.JPG'),
        ('b.xml', 'b.JPG'),
        ('JPEGImages/b.JPG', 'b.JPG'),
        ('./JPEGImages/b.JPG', 'b.JPG'),
        ('./b', 'b.JPG'),
        ('VOC2007/jpegimages/b', 'b.JPG'),
        ('./JPEGImages/b.JPG ./Annotations/b.xml', 'b.JPG'),
        ('/home/me/VOC2007/JPEGImages/sub/c 1.png', 'sub/c 1.png'),
        ('/home/me/pictures/sub/c 1.png', 'sub/c 1.png'),
        ('C:\\pictures\\b.JPG', 'b.JPG'),
        ('sub\\c 1', 'sub/c 1.png'),
        ('sub/c 1', 'sub/c 1.png'),
        ('sub/c 1 -1', 'sub/c 1.png'),
        ('b  1', 'b.JPG'),
        ('b -1', 'b.JPG'),
        ('b\t0', 'b.JPG'),
        ('a.1', 'a.1.png'),
        ('a', None),
        ('other/b', None),
        ('../b', None),
        ('b 2', None),
    ],
)
def test_what_lines_of_lists_name(root, capsys, line, found):
    (root / 'Annotations' / 'sub').mkdir()
    (root / 'JPEGImages' / 'sub').mkdir()
    add(root, 'sub/c 1', make_xml(make_object('cat', ('1', '1', '9', '9'))), split='other')
    write_list(root, 'mine', 'c', line, line)
    error = '' if found else '^1 images were left out'
    converted = convert(root, '--sets', 'mine', error=error)
    names = [image['file_name'] for image in converted['mine']['images']]
    assert names == ['c.png', *([found] if found else [])]
    assert capsys.readouterr().err.count('no image of this name') == (not found)


def test_a_line_that_names_an_image_as_it_is_wins(root):
    """Among an image called `b 1`, one called `b.JPG.png`, and `b.png` beside `b.JPG`."""
    for image_id in ('b 1', 'b.JPG', 'b'):
        add(root, image_id, make_xml(make_object('dog', ('1', '2', '3', '4'))), split='other')
    write_list(root, 'mine', 'b 1', 'b.png', 'b.JPG')
    names = [image['file_name'] for image in convert(root, '--sets', 'mine')['mine']['images']]
    assert names == ['b 1.png', 'b.png', 'b.JPG']


def test_the_xml_decides_between_images_of_one_id(root):
    add(root, 'd', make_xml(), split='mine')
    Image.new('RGB', (50, 40)).save(root / 'JPEGImages' / 'd.jpg')
    for name in ('d.png', 'd.jpg'):
        named = make_xml().replace('<size>', f'<filename>{name}</filename><size>')
        (root / 'Annotations' / 'd.xml').write_text(named)
        error = '^mine has no box'
        images = convert(root, '--sets', 'mine', error=error)['mine']['images']
        assert [image['file_name'] for image in images] == [name]


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be'])
def test_lists_in_any_encoding(root, encoding):
    add(root, 'b\u00e9', make_xml(make_object('dog', ('1', '2', '3', '4'))), split='other')
    write_list(root, 'mine', 'be\u0301', 'c', encoding=encoding)
    names = [image['file_name'] for image in convert(root, '--sets', 'mine')['mine']['images']]
    assert names == ['b\u00e9.png', 'c.png']


def test_a_list_in_an_undeclared_encoding(root):
    write_list(root, 'mine', 'c', 'b\u00e9', encoding='windows-1252')
    with pytest.raises(ValueError, match=r'mine.txt: expected text in UTF-8, but byte 0xe9 at of'):
        voc.main([str(root), '--out', str(root / 'out'), '--sets', 'mine'])
    write_list(root, 'mine', 'c')  # as advised
    assert len(convert(root, '--sets', 'mine')['mine']['images']) == 1


@pytest.mark.parametrize(
    ('written', 'declared', 'name'),
    [
        ('windows-1252', 'windows-1252', 'caf\u00e9 \u20ac'),
        ('latin-1', 'ISO-8859-1', 'caf\u00e9'),
        ('gb18030', 'gb2312', '\u6731\u9555\u57fa'),  # the second is not in GB 2312
        ('gbk', 'GBK', '\u732b'),
        ('gbk', 'x-gbk', '\u732b'),
        ('cp932', 'Shift_JIS', '\u732b\u2460'),
        ('euc_jp', 'EUC-JP', '\u732b'),
        ('iso2022_jp', 'ISO-2022-JP', '\u732b'),
        ('cp949', 'euc-kr', '\uace0\uc591\ub618'),  # the last is not in EUC-KR
        ('cp949', 'windows-949', '\uace0'),
        ('big5', 'Big5', '\u8c93'),
        ('cp1251', 'windows-1251', '\u043a\u043e\u0442'),
        ('utf-8', 'utf-16', '\u732b'),  # as .NET writes
        ('utf-8', 'gb2312', '\u732b'),  # converted later
        ('utf-8', 'no-such', '\u732b'),
        ('utf-8-sig', 'utf-8', '\u732b'),
        ('utf-16', 'utf-8', '\u732b'),
        ('utf-16', 'utf-16', '\u732b'),
        ('utf-16-le', 'utf-8', '\u732b'),
        ('utf-16-be', 'utf-16', '\u732b'),
    ],
)
def test_xml_in_any_encoding(root, written, declared, name):
    head = f'<?xml version="1.0" encoding="{declared}"?>\r\n'
    add(root, 'd', '', split='mine')
    text = head + make_xml(make_object(name, ('1', '1', '9', '9')))
    (root / 'Annotations' / 'd.xml').write_bytes(text.encode(written))
    assert convert(root, '--sets', 'mine')['mine']['categories'] == [{'id': 1, 'name': name}]


def test_xml_in_an_undeclared_encoding_is_named(root, capsys):
    text = make_xml('\n', make_object('caf\u00e9', ('1', '1', '9', '9')))
    add(root, 'd', '', split='mine')
    (root / 'Annotations' / 'd.xml').write_bytes(text.encode('windows-1252'))
    convert(root, '--sets', 'mine', error='^mine has no image; 1 images were left out')
    err = capsys.readouterr().err
    assert err.startswith(f'mine: {root}/Annotations/d.xml: expected text in UTF-8, but byte 0xe9 ')
    assert 'in line 2 is not' in err
    (root / 'Annotations' / 'd.xml').write_bytes(text.encode())  # as advised
    assert len(convert(root, '--sets', 'mine')['mine']['annotations']) == 1


def test_folders_and_files_in_another_case(root):
    for old, new in {
        'Annotations': 'annotations',
        'JPEGImages': 'jpegimages',
        'ImageSets/Main/val.txt': 'ImageSets/Main/Val.TXT',
        'ImageSets': 'imagesets',
    }.items():
        (root / old).rename(root / new)
    (root / 'annotations/b.xml').rename(root / 'annotations/B.XML')
    converted = convert(root)
    assert [image['file_name'] for image in converted['train']['images']] == ['b.JPG', 'a.1.png']
    assert len(converted['train']['annotations']) == len(converted['val']['annotations']) == 1
    assert (root / 'out' / 'JPEGImages' / 'c.png').is_file()


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (['nowhere'], 'no folder nowhere/Annotations: is VOC_ROOT right?'),
        (['{root}/..'], 'Annotations: is VOC_ROOT right? It may be {root}/../{name}'),
        (['{root}', '--sets', 'train', 'tset'], "tset.txt']; in "),
        (['{root}', '--sets', '../../x'], "without folder and ending, got ['../../x']"),
        (['{root}', '--sets', '..'], "without folder and ending, got ['..']"),
        (['{root}'], "no such lists: ('train', 'val', 'test'); in {root}/ImageSets/Main are: mine"),
    ],
)
def test_wrong_arguments_end_with_one_line(root, capsys, args, words):
    for name in ('train', 'val') if len(args) == 1 else ():
        (root / f'ImageSets/Main/{name}.txt').rename(root / 'ImageSets/Main/mine.txt')
    with pytest.raises(SystemExit) as info:
        voc.main([arg.format(root=root) for arg in args] + ['--out', str(root / 'out')])
    assert info.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith('pascal_voc.py: ')
    assert words.format(root=root, name=root.name) in err
    assert err.count('\n') == 1
    assert not (root / 'out').exists()


def test_images_are_linked_and_linked_again(root, monkeypatch, capsys):
    link = root / 'out' / 'JPEGImages'
    for _ in range(2):
        convert(root)
        assert link.resolve() == (root / 'JPEGImages').resolve()
        assert link.is_symlink()
    link.unlink()
    link.mkdir()
    convert(root)
    assert not link.is_symlink()
    link.rmdir()

    def refuse(self, *args, **kwargs):
        raise OSError('no links here')

    monkeypatch.setattr(Path, 'symlink_to', refuse)
    convert(root)
    folder = str((root / 'JPEGImages').resolve())
    assert f'(no links here): set data_prefix.img={folder!r}' in capsys.readouterr().err


@pytest.mark.skipif(not BCCD.is_dir(), reason='no ../shared/data')
def test_bccd(tmp_path, capsys):
    with pytest.raises(ValueError, match='^2 boxes were left out, .* with --allow-skipped'):
        voc.main([str(BCCD), '--out', str(tmp_path)])
    capsys.readouterr()
    voc.main([str(BCCD), '--out', str(tmp_path), '--allow-skipped'])
    err = capsys.readouterr().err
    assert [line.split(': box')[0].rsplit('/', 1)[1] for line in err.splitlines()] == [
        'BloodImage_00343.xml: object 3',
        'BloodImage_00338.xml: object 12',
    ]
    lengths = {}
    for name in ('train', 'val', 'test'):
        dataset = CocoDataset(
            str(tmp_path / 'annotations' / f'{name}.json'),
            data_prefix={'img': str(BCCD / 'JPEGImages')},
            metainfo={'classes': ('WBC', 'RBC', 'Platelets')},
        )
        assert dataset.cat_ids == [3, 2, 1]
        lengths[name] = len(dataset)
    assert lengths == {'train': 205, 'val': 87, 'test': 72}
    dataset.check_image_files(limit=10)

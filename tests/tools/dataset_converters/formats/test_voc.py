from __future__ import annotations

from pathlib import Path

import pytest
from export_records import Export
from formats import voc
from PIL import Image

from tests.tools.dataset_converters.test_pascal_voc import make_object, make_xml


def add_image(path: Path, size: tuple[int, int] = (50, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', size).save(path)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def list_boxes(export: Export) -> dict[str, list[tuple]]:
    return {i.path.name: [(box.name, box.corners) for box in i.boxes] for i in export.images}


def counts_agree(export: Export) -> bool:
    given = sum(len(image.boxes) for image in export.images)
    return export.num_boxes == given + export.lost['boxes'] + export.skipped.total()


DOG = make_object('dog', ('1', '2', '11', '22,5'))


@pytest.mark.parametrize(
    ('xml', 'image', 'images'),
    [
        ('a.xml', 'a.JPG', None),  # LabelImg: beside each other
        ('Annotations/a.xml', 'images/a.png', None),
        ('Annotations/a.xml', 'JPEGImages/A.jpg', None),
        ('a.XML', '../pictures/sub/a.jpg', '../pictures'),
    ],
)
def test_a_folder_without_lists(tmp_path, xml, image, images):
    source = tmp_path / 'source'
    write(source / xml, make_xml(DOG, make_object('cat', ('5', '6', '7', '9'))))
    path = add_image(source / image).resolve()
    export = voc.read(source, source / images if images else None)
    (read,) = export.images
    assert (read.path, read.size_wh, read.split) == (path, (50, 40), '')
    assert [box.corners for box in read.boxes] == [(1, 2, 11, 22.5), (5, 6, 7, 9)]
    assert [box.name for box in read.boxes] == ['dog', 'cat']
    assert voc.recognise(source) == '1 .xml files have the element <annotation>'


def test_a_folder_of_xml_files_whose_images_are_beside_it(tmp_path):
    write(tmp_path / 'labels/a.xml', make_xml())
    path = add_image(tmp_path / 'photos/a.jpg')
    assert [(i.path, i.boxes) for i in voc.read(tmp_path / 'labels', None).images] == [(path, [])]


@pytest.mark.parametrize(
    ('names', 'used'),
    [
        ('<filename>a.png</filename>', 'a.png'),
        ('<filename>a.jpg</filename>', 'a.jpg'),
        (r'<filename>a</filename><path>C:\me\a.jpg</path>', 'a.jpg'),
        ('<filename>other.png</filename>', None),
        ('', None),
    ],
)
def test_the_xml_decides_between_images_of_one_name(tmp_path, capsys, names, used):
    text = make_xml(DOG).replace('<annotation>', f'<annotation>{names}')
    write(tmp_path / 'a.xml', text)
    add_image(tmp_path / 'a.jpg')
    add_image(tmp_path / 'a.png')
    export = voc.read(tmp_path, None)
    assert [image.path.name for image in export.images] == ([used] if used else [])
    assert export.lost == ({} if used else {'images': 1, 'boxes': 1})
    assert counts_agree(export)
    assert ('2 images fit' in capsys.readouterr().err) == (used is None)


def test_an_image_of_another_name_and_none(tmp_path, capsys):
    named = '<annotation><filename>photo 7.jpg</filename>'
    write(tmp_path / 'a.xml', make_xml(DOG).replace('<annotation>', named))
    write(tmp_path / 'b.xml', make_xml(DOG, DOG))
    add_image(tmp_path / 'photo 7.jpg')
    export = voc.read(tmp_path, None)
    assert list_boxes(export) == {'photo 7.jpg': [('dog', (1, 2, 11, 22.5))]}
    assert export.lost == {'images': 1, 'boxes': 2}
    expected = f"{tmp_path}/b.xml: no image named 'b' in {tmp_path}\n"
    assert capsys.readouterr().err == expected


def test_equal_names_in_folders(tmp_path):
    for split, corner in (('train', '3'), ('valid', '4')):
        write(tmp_path / split / 'a.xml', make_xml(make_object('dog', ('1', '1', corner, '5'))))
        add_image(tmp_path / split / 'a.jpg')
    found = [
        (i.path.parent.name, i.split, i.boxes[0].corners) for i in voc.read(tmp_path, None).images
    ]
    assert found == [('train', 'train', (1, 1, 3, 5)), ('valid', 'val', (1, 1, 4, 5))]


def test_lists_are_splits(tmp_path, capsys):
    for image_id in 'abcd':
        write(tmp_path / f'VOC2007/Annotations/{image_id}.xml', make_xml(DOG))
        add_image(tmp_path / f'VOC2007/JPEGImages/{image_id}.jpg')
        add_image(tmp_path / f'VOC2007/SegmentationClass/{image_id}.png')
    lists = tmp_path / 'VOC2007/ImageSets/Main'
    write(lists / 'train.txt', 'b\nJPEGImages/a.jpg\nnone\n')
    write(lists / 'val.txt', 'C  1\n')
    write(lists / 'trainval.txt', 'a\nb\nc\n')
    export = voc.read(tmp_path, None)
    found = [(image.path.name, image.split) for image in export.images]
    assert found == [('b.jpg', 'train'), ('a.jpg', 'train'), ('c.jpg', 'val')]
    out, err = capsys.readouterr()
    assert '1 XML files are in none of train.txt, val.txt, and are left out' in out
    assert err.endswith(f'none: no XML file in {tmp_path}/VOC2007/Annotations\n')
    assert export.lost == {'images': 1}


def test_other_shapes_become_boxes(tmp_path):
    inner = '<cx>20</cx><cy>10</cy><w>10</w><h>6</h><angle>1.5707963267948966</angle>'
    rotated = f'<object><name>dog</name><robndbox>{inner}</robndbox></object>'
    points = '<x1>1</x1><y1>2</y1><x2>9</x2><y2>3</y2><x3>4</x3><y3>8.5</y3>'
    roboflow = f'<object><name>cat</name><polygon>{points}</polygon></object>'
    points = '<pt><x>3</x><y>9</y></pt><pt><x>5</x><y>4</y></pt><pt><x>2</x><y>6</y></pt>'
    labelme = f'<object><name>cat</name><polygon>{points}</polygon></object>'
    write(tmp_path / 'a.xml', make_xml(rotated, roboflow, labelme, DOG))
    add_image(tmp_path / 'a.png')
    export = voc.read(tmp_path, None)
    boxes = [(box.name, pytest.approx(box.corners)) for box in export.images[0].boxes]
    assert boxes == [
        ('dog', (17, 5, 23, 15)),
        ('cat', (1, 2, 9, 8.5)),
        ('cat', (2, 4, 5, 9)),
        ('dog', (1, 2, 11, 22.5)),
    ]
    assert export.converted == {'rotated boxes': 1, 'polygons': 2}


def test_faults(tmp_path, capsys):
    bad = make_object('dog', ('9', '1', '9', '5')), make_object('dog', ('1', '1', 'inf', '5'))
    word = '<object><name>dog</name><robndbox><cx>x</cx></robndbox></object>'
    write(tmp_path / 'a.xml', make_xml(*bad, make_object('', ('1', '1', '2', '2')), word, DOG))
    write(tmp_path / 'b.xml', '<annotation>')
    write(tmp_path / 'c.xml', '<annotations/>')
    write(tmp_path / 'd.xml', '')
    for name in 'abcd':
        add_image(tmp_path / f'{name}.jpg')
    write(tmp_path / '__MACOSX/a.xml', 'of macOS')
    export = voc.read(tmp_path, None)
    assert (export.num_boxes, export.lost) == (5, {'boxes': 4, 'images': 3})
    assert export.reasons == {'degenerate': 1, 'not finite': 1}
    assert counts_agree(export)
    lines = [line.removeprefix(f'{tmp_path}/') for line in capsys.readouterr().err.splitlines()]
    assert [line.split(': {')[0] for line in lines] == [
        'a.xml: object 0: box is degenerate',
        'a.xml: object 1: box is not finite',
        'a.xml: object 2: has no name',
        'a.xml: object 3: has a <robndbox> or <polygon> that is not numbers',
        'b.xml: no element found: line 1, column 12',
        'c.xml: expected <annotation>, got <annotations>',
        'd.xml: no element found: line 1, column 0',
    ]


@pytest.mark.follows('name their folder with --images')
def test_nothing_to_read(tmp_path):
    with pytest.raises(ValueError, match='no XML file there or below'):
        voc.read(tmp_path, None)
    write(tmp_path / 'set/a.xml', make_xml())
    with pytest.raises(FileNotFoundError, match='no images in .*name their folder with --images'):
        voc.read(tmp_path / 'set', None)
    folder = add_image(tmp_path.parent / f'{tmp_path.name}_photos/a.jpg').parent
    assert len(voc.read(tmp_path / 'set', folder).images) == 1  # as advised

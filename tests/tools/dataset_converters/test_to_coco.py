from __future__ import annotations

import json
from pathlib import Path

import formats
import pytest
import to_coco
from coco_output import find_box_fault
from export_records import Box
from PIL import Image

from ghmdet.datasets import CocoDataset
from ghmdet.datasets.image_file import ImageError, read_image
from tests.tools.dataset_converters.formats.test_coco_json import make_ann, save
from tests.tools.dataset_converters.formats.test_voc import add_image, write
from tests.tools.dataset_converters.test_pascal_voc import make_object, make_xml

DOG = make_object('dog', ('1', '2', '11', '22'))


@pytest.fixture
def source(tmp_path) -> Path:
    """Three images of LabelImg: two dogs, a difficult cat, nothing."""
    folder = tmp_path / 'source'
    hard = make_object('cat', ('5', '6', '7.5', '60'), extra='<difficult>1</difficult>')
    for name, text in (('b', make_xml(DOG, DOG)), ('a', make_xml(hard)), ('c', make_xml())):
        write(folder / f'{name}.xml', text)
        add_image(folder / f'{name}.jpg')
    return folder


def convert(source: Path, *args: str, error: str = '', out: str = 'out') -> dict[str, dict]:
    """The annotation files; `error` is what the program ends with."""
    folder = source.parent / out
    command = [str(source), '--out', str(folder), *args]
    if error:
        with pytest.raises((ValueError, OSError), match=error):
            to_coco.main(command)
    else:
        to_coco.main(command)
    files = sorted((folder / 'annotations').glob('*.json'))
    return {file.stem: json.loads(file.read_text()) for file in files}


def count_images(converted: dict[str, dict]) -> dict[str, int]:
    return {split: len(file['images']) for split, file in converted.items()}


def test_files_and_report(source, capsys):
    converted = convert(source)
    size = {'width': 50, 'height': 40}
    cat = {'bbox': [5, 6, 2.5, 54], 'area': 135, 'ignore': 1, 'difficult': 1}
    dog = {'bbox': [1, 2, 10, 20], 'area': 200}
    assert converted == {
        'all': {
            'info': {'description': 'by to_coco.py from Pascal VOC'},
            'images': [
                {'id': 1, 'file_name': 'a.jpg', **size},
                {'id': 2, 'file_name': 'b.jpg', **size},
                {'id': 3, 'file_name': 'c.jpg', **size},
            ],
            'annotations': [
                {'id': 1, 'image_id': 1, 'category_id': 1, 'iscrowd': 0, **cat},
                {'id': 2, 'image_id': 2, 'category_id': 2, 'iscrowd': 0, **dog},
                {'id': 3, 'image_id': 2, 'category_id': 2, 'iscrowd': 0, **dog},
            ],
            'categories': [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog'}],
        }
    }
    out = source.parent / 'out'
    names = sorted(path.name for path in (out / 'images').iterdir())
    assert names == ['a.jpg', 'b.jpg', 'c.jpg']
    assert (out / 'images/a.jpg').read_bytes() == (source / 'a.jpg').read_bytes()
    printed, err = capsys.readouterr()
    assert err == ''
    assert printed.splitlines() == [
        'format: Pascal VOC (--from voc): 3 .xml files have the element <annotation>',
        f'3 images of {source}',
        '              all',
        'images          3',
        'boxes of cat    1',
        'boxes of dog    2',
        'all boxes       3',
        'boxes: 3 in the files = 3 written + 0 left out',
        '1 boxes are difficult (ignore=1)',
        '1 images have no box',
        '1 boxes reach beyond the image, and are kept as they stand',
        'coordinates: as they stand in the files',
        f"written: data_root='{out}', ann_file annotations/all.json, data_prefix.img='images/'",
    ]
    dataset = CocoDataset(
        ann_file='annotations/all.json',
        data_root=str(out),
        data_prefix={'img': 'images/'},
        metainfo={'classes': ('cat', 'dog')},
        filter_cfg={'filter_empty_gt': False},
    )
    assert len(dataset) == 3
    dataset.check_image_files(limit=3)


def test_a_second_run_writes_the_same(source):
    for args in ((), ('--link',), ('--copy',)):
        convert(source, *args)
        files = {p: p.read_bytes() for p in (source.parent / 'out').rglob('*') if p.is_file()}
        assert len(files) == 4
        convert(source, *args)
        assert {p: p.read_bytes() for p in files} == files
        assert (source.parent / 'out/images/a.jpg').is_symlink() == ('--link' in args)
    images = ['a.jpg', 'b.jpg', 'c.jpg']
    assert sorted(p.name for p in source.iterdir() if p.suffix == '.jpg') == images


@pytest.mark.parametrize(
    ('args', 'bbox', 'line'),
    [
        ((), [1, 2, 10, 20], 'coordinates: as they stand in the files'),
        (('--one-based',), [0, 1, 10, 20], 'coordinates: 1 is subtracted from the corners'),
    ],
)
def test_the_origin(source, capsys, args, bbox, line):
    assert convert(source, *args)['all']['annotations'][1]['bbox'] == bbox
    assert line in capsys.readouterr().out


@pytest.mark.follows('--one-based: the coordinates of')
def test_relative_coordinates_have_no_origin(tmp_path):
    write(tmp_path / 'source/labels/a.txt', '0 0.5 0.5 0.2 0.2')
    add_image(tmp_path / 'source/images/a.jpg')
    source = tmp_path / 'source'
    convert(source, '--one-based', error='--one-based: the coordinates of YOLO are relative')
    annotations = convert(source)['all']['annotations']  # as advised
    assert annotations[0]['bbox'] == pytest.approx([20, 16, 10, 8])


def test_difficult_as_crowd(source, capsys):
    annotation = convert(source, '--difficult', 'crowd')['all']['annotations'][0]
    assert (annotation['iscrowd'], 'ignore' in annotation) == (1, False)
    assert '1 boxes are difficult (iscrowd=1)' in capsys.readouterr().out


def test_classes_and_merged_names(source, capsys):
    converted = convert(source, '--classes', 'zebra', 'dog')['all']
    assert convert(source, '--classes', 'zebra, dog')['all'] == converted
    assert [(c['id'], c['name']) for c in converted['categories']] == [(1, 'zebra'), (2, 'dog')]
    assert [ann['category_id'] for ann in converted['annotations']] == [2, 2]
    out = capsys.readouterr().out
    assert "no box has the class 'zebra'" in out
    assert 'boxes: 3 in the files = 2 written + 1 left out (1 of other classes)' in out
    names = write(source.parent / 'names.txt', 'dog\ncat\n')
    converted = convert(source, '--classes', str(names))['all']
    assert [ann['category_id'] for ann in converted['annotations']] == [2, 1, 1]
    converted = convert(source, '--merge', 'dog=animal', 'cat=animal')['all']
    assert converted['categories'] == [{'id': 1, 'name': 'animal'}]
    assert [ann['category_id'] for ann in converted['annotations']] == [1, 1, 1]


def test_wrong_names(source, capsys):
    error = r"--merge: no box has the class 'Dog' \(did you mean 'dog'\?\); there are cat, dog"
    assert convert(source, '--merge', 'Dog=animal', error=error) == {}
    convert(source, '--merge', 'dog=animal')  # as advised
    error = 'no box is left of the classes Cat, only of cat, dog: nothing is written'
    assert convert(source, '--classes', 'Cat', error=error, out='other') == {}
    assert "no box has the class 'Cat' (did you mean 'cat'?)" in capsys.readouterr().out
    assert len(convert(source, '--classes', 'cat')['all']['annotations']) == 1  # as advised
    error = '--classes names a class twice: cat'
    assert convert(source, '--classes', 'cat', 'cat', error=error, out='other') == {}


def test_faults_of_boxes(tmp_path, capsys):
    source = tmp_path / 'source'
    boxes = [
        (1, 2, 0, 5),
        (1, 2, 3, -1),
        (60, 1, 5, 5),
        (-9, 1, 9, 5),
        (-9, 1, 10, 5),
        (0, 0, 5, 5),
    ]
    annotations = [make_ann(number, 1, box) for number, box in enumerate(boxes, 1)]
    annotations.append(make_ann(7, 2))
    save(source / 'a.json', annotations, ('a.jpg', 'b.jpg'))
    add_image(source / 'a.jpg')
    write(source / 'b.jpg', 'no image')
    error = '^5 boxes and 1 images were left out, as listed above; .* with --allow-skipped. The ann'
    converted = convert(source, error=error)
    assert [ann['bbox'] for ann in converted['all']['annotations']] == [
        [-9, 1, 10, 5],
        [0, 0, 5, 5],
    ]
    out, err = capsys.readouterr()
    reasons = '2 degenerate, 2 outside of the image, 1 of images that cannot be read'
    assert f'boxes: 7 in the files = 2 written + 5 left out ({reasons})' in out
    place = f'{source}/a.json: annotation id'
    lines = err.splitlines()
    assert lines[:4] == [
        f'{place} 1: dog: box is degenerate: 1, 2, 1, 7; 50x40 pixels',
        f'{place} 2: dog: box is degenerate: 1, 2, 4, 1; 50x40 pixels',
        f'{place} 3: dog: box is outside of the image: 60, 1, 65, 6; 50x40 pixels',
        f'{place} 4: dog: box is outside of the image: -9, 1, 0, 6; 50x40 pixels',
    ]
    assert lines[4].startswith(f'{source}/b.jpg: cannot be read as an image')
    assert convert(source, '--allow-skipped') == converted  # as advised


@pytest.mark.parametrize(
    ('corners', 'offset', 'found'),
    [
        ((0, 0, 50, 40), 0, ('', False)),
        ((1, 1, 51, 41), 1, ('', False)),
        ((0, 0, 50.4, 40), 0, ('', False)),  # rounded
        ((0, 0, 51, 40), 0, ('', True)),
        ((50, 0, 60, 40), 0, ('outside of the image', False)),
        ((50, 0, 60, 40), 1, ('', True)),
        ((float('inf'), 0, 60, 40), 0, ('not finite', False)),
        ((0, 0, 1e200, 1e200), 0, ('not finite', False)),
        ((0, float('nan'), 60, 40), 0, ('not finite', False)),
    ],
)
def test_what_is_wrong_with_a_box(corners, offset, found):
    assert find_box_fault(Box('dog', corners), (50, 40), offset) == found


@pytest.mark.follows('images have boxes drawn without their EXIF orientation')
def test_sizes(source, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (50, 40)).save(source / 'a.jpg', exif=exif)  # displayed as 40 x 50
    Image.new('RGB', (60, 40)).save(source / 'b.jpg')
    images = convert(source)['all']['images']
    assert [(i['width'], i['height']) for i in images] == [(50, 40), (60, 40), (50, 40)]
    out, err = capsys.readouterr()
    text = f'{source}/b.jpg: size is (50, 40) in the export, but the image has (60, 40)\n'
    assert err == text
    assert "set color_type='color_ignore_orientation' of LoadImageFromFile" in out
    assert '1 images have another size than the export says; the image counts' in out
    path = source.parent / 'out/images/a.jpg'
    with pytest.raises(ImageError, match='is 40x50 .* but the annotation file says 50x40'):
        read_image(path, expected_wh=(50, 40))
    read = read_image(path, expected_wh=(50, 40), color_type='color_ignore_orientation')
    assert read.shape == (40, 50, 3)  # as advised


@pytest.mark.follows('images are in none of the splits of the export')
def test_splits_of_the_export_and_new_ones(tmp_path, capsys):
    source = tmp_path / 'source'
    for split, count in (('train', 3), ('valid', 2)):
        for number in range(count):
            write(source / split / f'{number}.xml', make_xml(DOG))
            add_image(source / split / f'{number}.jpg')
    converted = convert(source)
    names = {key: [i['file_name'] for i in file['images']] for key, file in converted.items()}
    expected = {
        'train': ['train/0.jpg', 'train/1.jpg', 'train/2.jpg'],
        'val': ['valid/0.jpg', 'valid/1.jpg'],
    }
    assert names == expected
    converted = convert(source, '--split', '0.6,0.2,0.2', out='new')
    assert {key: len(file['images']) for key, file in converted.items()} == {
        'train': 3,
        'val': 1,
        'test': 1,
    }
    out = capsys.readouterr().out
    assert 'splits of the export are joined and split anew: train 3, val 2' in out
    assert '5 images in 5 groups are split with seed 0' in out
    write(source / 'more.xml', make_xml(DOG))
    add_image(source / 'more.jpg')
    error = r'1 images are in none of the splits of the export: more.jpg. .* with --split'
    assert convert(source, error=error, out='third') == {}
    converted = convert(source, '--split', '0.5,0.5', out='third')  # as advised
    assert count_images(converted) == {'train': 3, 'val': 3}


def test_copies_of_an_image_stay_together(tmp_path, capsys):
    source = tmp_path / 'source'
    for number in range(4):
        for copy in ('0a1b', 'ff00', '77ee'):
            name = f'img{number}_jpg.rf.{copy}'
            write(source / f'{name}.xml', make_xml(DOG))
            add_image(source / f'{name}.jpg')
    converted = convert(source, '--split', '0.75,0.25', '--stratify')
    in_train, in_val = (
        {image['file_name'].partition('.rf.')[0] for image in converted[split]['images']}
        for split in ('train', 'val')
    )
    assert (len(in_train), len(in_val), in_train & in_val) == (3, 1, set())
    out = capsys.readouterr().out
    assert '8 images are copies that Roboflow made, and are where their original is' in out
    assert 'boxes of dog  9 (75%)  3 (25%)   12' in out


def test_an_image_in_two_splits(tmp_path, capsys):
    """As coco128, whose train and val are the same folder."""
    source = tmp_path / 'source'
    write(source / 'data.yaml', 'train: images\nval: images\nnames: [dog]')
    for name in 'ab':
        write(source / f'labels/{name}.txt', '0 0.5 0.5 0.2 0.2')
        add_image(source / f'images/{name}.jpg')
    converted = convert(source)
    assert count_images(converted) == {'train': 2, 'val': 2}
    out = capsys.readouterr().out
    assert '2 images are in several splits of the export' in out
    assert 'boxes: 4 in the files = 4 written + 0 left out' in out
    converted = convert(source, '--split', '0.5,0.5', out='new')
    assert count_images(converted) == {'train': 1, 'val': 1}
    line = '4 in the files = 2 written + 2 left out (2 of images that are listed twice)'
    assert line in capsys.readouterr().out


def test_an_image_with_two_annotations(source, capsys):
    write(source / 'copy/b.xml', make_xml(DOG))
    error = '^1 boxes were left out'
    assert len(convert(source, error=error)['all']['annotations']) == 3
    out, err = capsys.readouterr()
    assert err.startswith(f'{source}/b.jpg: is listed twice, with 2 and 1 boxes that differ; the')
    assert '1 of images that are listed twice with other boxes' in out


@pytest.mark.follows('--from images needs a folder of images')
def test_images_alone(tmp_path):
    add_image(tmp_path / 'source/b.jpg')
    add_image(tmp_path / 'source/sub/a.jpg')
    source = tmp_path / 'source'
    convert(source / 'b.jpg', '--from', 'images', error='--from images needs a folder of images')
    converted = convert(source, '--classes', 'dog')
    assert [image['file_name'] for image in converted['all']['images']] == ['b.jpg', 'sub/a.jpg']
    assert converted['all']['annotations'] == []
    assert converted['all']['categories'] == [{'id': 1, 'name': 'dog'}]


@pytest.mark.follows('several formats are there; choose one of')
def test_formats_that_are_not_clear(source, capsys):
    save(source / 'a.json', [make_ann(1, 1)])
    error = (
        'several formats are there; choose one of --from voc: 3 .xml files .*; --from coco: a.json'
    )
    convert(source, error=error)
    convert(source, '--from', 'coco')  # as advised
    (source.parent / 'empty').mkdir()
    listed = ', '.join(reader.NAME for reader in formats.READERS.values())
    convert(source.parent / 'empty', error=f'none of the formats is there: {listed}. Say which')
    archive = write(source.parent / 'export.zip', '')
    convert(archive, error='export.zip is an archive: unpack it')


@pytest.mark.follows('must not be inside of SOURCE, nor SOURCE in its annotations/')
def test_places(source):
    convert(
        source,
        error='must not be inside of SOURCE, .* For example --out .*source_coco',
        out='source/x',
    )
    convert(source, out='source_coco')  # as advised
    convert(source.with_name('Source'), error="no file or folder .*Source, but there is '.*source'")
    convert(source, '--images', 'nowhere', error='--images: no folder nowhere')


@pytest.mark.follows('are of something else and would be overwritten')
def test_what_others_wrote_is_kept(source):
    folder = source.parent / 'out'
    ann_file = write(folder / 'annotations/all.json', '{"images": []}')
    image = write(folder / 'images/b.jpg', 'of somebody')
    error = f'2 files in --out {folder} are of something else .*: {ann_file}, {image}. Give another'
    convert(source, error=error)
    assert (ann_file.read_text(), image.read_text()) == ('{"images": []}', 'of somebody')
    convert(source, out='other')  # as advised
    ann_file.unlink()
    image.unlink()
    convert(source)
    convert(source, '--split', '0.5,0.5', error=r'1 files in --out .*annotations/all.json')


def test_images_that_are_there_already(tmp_path):
    """SOURCE beside the images, in DIR."""
    add_image(tmp_path / 'data/images/a.jpg')
    write(tmp_path / 'data/labels/a.txt', '0 0.5 0.5 0.2 0.2')
    before = (tmp_path / 'data/images/a.jpg').stat()
    for _ in range(2):
        to_coco.main([str(tmp_path / 'data/labels'), '--out', str(tmp_path / 'data')])
        assert (tmp_path / 'data/images/a.jpg').stat() == before
        assert (tmp_path / 'data/annotations/all.json').is_file()


@pytest.mark.parametrize(
    ('args', 'text'),
    [
        (['--merge', 'a'], "--merge takes OLD=NEW, got 'a'"),
        (['--split', '0.8,0.3'], 'the shares of --split must add up to 1, got 0.8,0.3: 1.1'),
        (['--link', '--copy'], 'not allowed with argument'),
    ],
)
def test_arguments(source, capsys, args, text):
    with pytest.raises(SystemExit) as info:
        to_coco.main([str(source), '--out', 'x', *args])
    assert info.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.follows('--stratify and --group-by need --split')
def test_options_of_a_split(source, capsys):
    for option in (['--stratify'], ['--group-by', '^[ab]']):
        with pytest.raises(SystemExit):
            convert(source, *option)
        assert '--stratify and --group-by need --split' in capsys.readouterr().err
        convert(source, *option, '--split', '0.5,0.5')  # as advised


REGION = {'x': 2, 'y': 5, 'width': 20, 'height': 50, 'rectanglelabels': ['dog']}
OF_STUDIO = {'value': REGION, 'original_width': 50, 'original_height': 40}
SHAPE = {'label': 'dog', 'points': [[1, 2], [11, 22]], 'shape_type': 'rectangle'}
RECT = {'name': 'rect', 'x': 1, 'y': 2, 'width': 10, 'height': 20}
CENTRE = {'x': 6, 'y': 12, 'width': 10, 'height': 20}
# One dog at 1, 2, 11, 22 in a.jpg of 50 x 40, as each format has it.
EXPORTS = {
    'voc': {'a.xml': make_xml(DOG)},
    'yolo': {'data.yaml': 'names: [dog]', 'a.txt': '0 0.12 0.3 0.2 0.5'},
    'labelme': {'a.json': json.dumps({'shapes': [SHAPE], 'imagePath': 'a.jpg'})},
    'cvat': {
        'annotations.xml': '<annotations><image name="a.jpg"><box label="dog" xtl="1" ytl="2" '
        'xbr="11" ybr="22"/></image></annotations>'
    },
    'labelstudio': {
        'x.json': json.dumps(
            [{'data': {'image': 'a.jpg'}, 'annotations': [{'result': [OF_STUDIO]}]}]
        )
    },
    'csv': {'x.csv': 'filename,class,xmin,ymin,xmax,ymax\na.jpg,dog,1,2,11,22\n'},
    'via': {
        'via.json': json.dumps(
            {
                'a.jpg9': {
                    'filename': 'a.jpg',
                    'regions': [{'shape_attributes': RECT, 'region_attributes': {'class': 'dog'}}],
                }
            }
        )
    },
    'createml': {
        'x.json': json.dumps(
            [{'image': 'a.jpg', 'annotations': [{'label': 'dog', 'coordinates': CENTRE}]}]
        )
    },
    'openimages': {
        'x-annotations-bbox.csv': 'ImageID,LabelName,XMin,XMax,YMin,YMax\n'
        'a,dog,0.02,0.22,0.05,0.55\n'
    },
    'coco': {
        'x.json': json.dumps(
            {
                'images': [{'id': 1, 'file_name': 'a.jpg'}],
                'categories': [{'id': 1, 'name': 'dog'}],
                'annotations': [{'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [1, 2, 10, 20]}],
            }
        )
    },
}


@pytest.mark.parametrize('name', EXPORTS)
def test_each_format_is_recognised_as_a_folder_and_as_a_file(tmp_path, name, capsys):
    source = tmp_path / 'source'
    add_image(source / 'a.jpg')
    files = [write(source / file, text) for file, text in EXPORTS[name].items()]
    for place in (source, files[0]):
        (dog,) = convert(place, out=str(tmp_path / 'out')).values()
        (annotation,) = dog['annotations']
        assert annotation['bbox'] == pytest.approx([1, 2, 10, 20])
        assert [category['name'] for category in dog['categories']] == ['dog']
        assert f'(--from {name}): ' in capsys.readouterr().out


def test_every_format_is_tried():
    assert [*formats.READERS] == [*EXPORTS, 'images']

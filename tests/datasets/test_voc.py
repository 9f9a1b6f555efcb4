from pathlib import Path

import cv2
import pytest
from mmengine.dataset import ConcatDataset, DefaultSampler

from ghmdet.datasets import VOCDataset
from ghmdet.datasets.samplers import AspectRatioBatchSampler
from ghmdet.datasets.voc import VOC_CLASSES, VOC_PALETTE
from tests.voc_tree import add, draw_voc0712, make_object

TRAINVAL = 'ImageSets/Main/trainval.txt'


def load(root, classes=('dog', 'person'), ann_file=TRAINVAL, **kwargs):
    metainfo = dict(classes=classes)
    return VOCDataset(ann_file, data_root=str(root), metainfo=metainfo, **kwargs)


def instances(dataset, index=0):
    keys = 'bbox', 'bbox_label', 'ignore_flag'
    return [tuple(each[key] for key in keys) for each in dataset[index]['instances']]


def test_an_image_by_hand(tmp_path):
    difficult = '<pose>Left</pose><difficult>1</difficult>'
    objects = [
        make_object('person', (1, 1, 80, 60)),
        make_object('cow', (3, 4, 20, 30)),
        make_object('dog', (10, 20, 30, 45), difficult),
        make_object('dog', ('45.70000076293945', '1,5', 60, 20)),
    ]
    add(tmp_path / 'VOC2012', '2011_003353', objects)
    prefix = dict(sub_data_root='VOC2012/')
    dataset = load(tmp_path, ann_file=f'VOC2012/{TRAINVAL}', data_prefix=prefix)
    assert instances(dataset) == [
        ([0, 0, 79, 59], 1, 0),
        ([9, 19, 29, 44], 0, 1),
        ([44, 0, 59, 19], 0, 0),
    ]
    info = dataset[0]
    assert (info['img_id'], info['height'], info['width']) == ('2011_003353', 60, 80)
    assert info['img_path'] == str(tmp_path / 'VOC2012/JPEGImages/2011_003353.jpg')
    assert dataset.metainfo['dataset_type'] == 'VOC2012'
    assert dataset.counts.dropped == {'of other classes': 1}


def test_its_classes_are_vocs():
    assert len(VOC_CLASSES) == len(VOC_PALETTE) == 20
    assert (VOC_CLASSES[0], VOC_CLASSES[14], VOC_CLASSES[19]) == (
        'aeroplane',
        'person',
        'tvmonitor',
    )
    assert (VOC_PALETTE[0], VOC_PALETTE[14]) == ((106, 0, 228), (220, 20, 60))


@pytest.mark.follows('filter_cfg.bbox_min_size is for training')
def test_filters(tmp_path):
    add(tmp_path, 'small', [make_object('dog', (1, 1, 9, 9))], size_wh=(80, 31))
    add(tmp_path, 'none', [make_object('cow', (1, 1, 9, 9))])
    add(tmp_path, 'hard', [make_object('dog', (1, 1, 60, 60), '<difficult>1</difficult>')])
    add(tmp_path, 'mixed', [make_object('dog', (1, 1, w, 40)) for w in (32, 33)])
    filters = dict(filter_empty_gt=True, min_size=32, bbox_min_size=32)
    dataset = load(tmp_path, filter_cfg=filters)
    assert [info['img_id'] for info in dataset] == ['hard', 'mixed']
    # xmax - xmin below 32, as in MMDetection
    assert instances(dataset, 1) == [([0, 0, 31, 39], 0, 1), ([0, 0, 32, 39], 0, 0)]
    with pytest.raises(ValueError, match='bbox_min_size is for training: with test_mode=True'):
        load(tmp_path, test_mode=True, filter_cfg=filters)
    del filters['bbox_min_size']
    assert len(load(tmp_path, test_mode=True, filter_cfg=filters)) == 4
    with pytest.raises(ValueError, match=r"may have .* and bbox_min_size, got \['bbox_min'\]"):
        load(tmp_path, filter_cfg=dict(bbox_min=32))


def test_two_years_as_one_dataset(tmp_path):
    draw_voc0712(tmp_path)
    add(tmp_path / 'VOC2012', 'tall', [make_object('dog', (1, 1, 30, 50))], size_wh=(40, 90))
    years = [
        VOCDataset(
            f'{year}/{TRAINVAL}',
            data_root=str(tmp_path),
            data_prefix=dict(sub_data_root=f'{year}/'),
        )
        for year in ('VOC2007', 'VOC2012')
    ]
    assert [year.metainfo['dataset_type'] for year in years] == ['VOC2007', 'VOC2012']
    joined = ConcatDataset(years, ignore_keys=['dataset_type'])
    # Of seven images, the last is portrait.
    batches = AspectRatioBatchSampler(DefaultSampler(joined, shuffle=False), 4)
    assert list(batches) == [[0, 1, 2, 3], [6, 4, 5]]
    assert joined.get_data_info(6)['img_id'] == 'tall'


@pytest.mark.parametrize('suffix', ['.png', '.JPG', '.jpeg'])
def test_images_with_other_endings(tmp_path, suffix):
    add(tmp_path, 'a', [make_object('dog', (1, 1, 9, 9))], suffix=suffix)
    assert Path(load(tmp_path)[0]['img_path']).name == f'a{suffix}'


def test_filename_decides_between_two_images(tmp_path):
    head = '<filename>a.png</filename><size><width>80</width><height>60</height></size>'
    add(tmp_path, 'a', [make_object('dog', (1, 1, 9, 9))], head=head, suffix='.png')
    (tmp_path / 'JPEGImages' / 'a.bmp').write_bytes((tmp_path / 'JPEGImages/a.png').read_bytes())
    assert Path(load(tmp_path)[0]['img_path']).name == 'a.png'
    xml = tmp_path / 'Annotations' / 'a.xml'
    xml.write_text(xml.read_text().replace('a.png', 'a'))
    with pytest.raises(ValueError, match=r"filename is 'a', and the images \['a.bmp', 'a.png'\]"):
        load(tmp_path)
    # MMDetection's choice.
    (tmp_path / 'JPEGImages' / 'a.jpg').write_bytes((tmp_path / 'JPEGImages/a.png').read_bytes())
    assert Path(load(tmp_path)[0]['img_path']).name == 'a.jpg'


@pytest.mark.parametrize(
    'lines',
    [
        'a\r\n\r\nsub/b c\r\n',
        '\ufeffa  1\nsub/b c -1\na\n',
        'a.jpg\nsub/b c.jpg\n',
        'a a.xml\nsub/b c',
    ],
)
def test_lines_of_a_list(tmp_path, lines):
    for folder in ('Annotations', 'JPEGImages'):
        (tmp_path / folder / 'sub').mkdir(parents=True)
    for name in ('a', 'sub/b c'):
        add(tmp_path, name, [make_object('dog', (1, 1, 9, 9))], suffix='.png')
    (tmp_path / TRAINVAL).write_text(lines, encoding='utf-8', newline='')
    dataset = load(tmp_path)
    assert [info['img_id'] for info in dataset] == ['a', 'sub/b c']
    assert cv2.imread(dataset[1]['img_path']).shape == (60, 80, 3)


@pytest.mark.parametrize('head', [' ', '<size><width>0</width><height>0</height></size>'])
def test_a_size_that_the_file_lacks_is_that_of_the_image(tmp_path, head):
    add(tmp_path, 'a', [make_object('dog', (1, 1, 9, 9))], size_wh=(70, 50), head=head)
    assert (load(tmp_path)[0]['width'], load(tmp_path)[0]['height']) == (70, 50)
    (tmp_path / 'JPEGImages' / 'a.jpg').unlink()
    (tmp_path / 'JPEGImages' / 'b.jpg').touch()
    with pytest.raises(ValueError, match=r'a.xml: .*a.jpg'):
        load(tmp_path)


def test_boxes_that_cannot_be_used_are_counted(tmp_path):
    boxes = [(5, 5, 5, 9), (9, 9, 3, 3), (200, 5, 220, 9), (1, 1, 9, 9)]
    add(tmp_path, 'a', [make_object('dog', box) for box in boxes])
    dataset = load(tmp_path)
    assert instances(dataset) == [([0, 0, 8, 8], 0, 0)]
    assert dataset.counts.dropped == {'without width or height': 2, 'outside the image': 1}


BROKEN = {
    'no such file': lambda file: file.unlink(),
    'no element found': lambda file: file.write_text('<annotation><size>'),
    'has a DOCTYPE': lambda file: file.write_text('<!DOCTYPE a []><a/>'),
    'box is not four numbers': lambda file: file.write_text(
        f'<annotation>{make_object("dog", (1, 2, "", 4))}</annotation>'
    ),
}


@pytest.mark.parametrize('fault', BROKEN)
def test_broken_files_are_named_or_skipped(tmp_path, fault):
    for name in 'abc':
        add(tmp_path, name, [make_object('dog', (1, 1, 9, 9))])
    BROKEN[fault](tmp_path / 'Annotations' / 'b.xml')
    with pytest.raises(ValueError, match=rf'1 of 3 images .*b\.xml: .*{fault}.*\(line 2 of ') as e:
        load(tmp_path)
    assert "with on_error='skip' of the dataset training leaves them out" in str(e.value)
    dataset = load(tmp_path, on_error='skip')  # as the message advises
    assert [info['img_id'] for info in dataset] == ['a', 'c']


def test_a_name_in_another_case(tmp_path):
    add(tmp_path, 'IMG_1', [make_object('dog', (1, 1, 9, 9))])
    (tmp_path / TRAINVAL).write_text('img_1\n')
    with pytest.raises(ValueError, match=r'img_1.xml: no such file, but there is .*IMG_1.xml'):
        load(tmp_path)
    info = load(tmp_path, fix_names=True)[0]
    assert Path(info['img_path']).name == 'IMG_1.jpg'
    assert info['instances'][0]['bbox'] == [0, 0, 8, 8]


@pytest.mark.follows('name theirs, {}, in metainfo=dict(classes=(...)) of every dataset')
def test_no_object_of_the_classes(tmp_path):
    add(tmp_path, 'a', [make_object(name, (1, 1, 9, 9)) for name in ('Dog', 'cat')])
    with pytest.raises(ValueError, match=r"2 classes .*'dog' \(did you mean 'Dog'\?\).* Dog, cat"):
        load(tmp_path, test_mode=True)
    assert load(tmp_path, classes=('Dog', 'cat')).count_objects().tolist() == [1, 1]


def test_wrong_paths(tmp_path):
    draw_voc0712(tmp_path)
    with pytest.raises(FileNotFoundError, match='no annotation file at .* data_root and ann_file'):
        load(tmp_path)
    list_file = f'VOC2007/{TRAINVAL}'
    with pytest.raises(FileNotFoundError, match='data_prefix.sub_data_root and img_subdir'):
        load(tmp_path, ann_file=list_file)
    with pytest.raises(ValueError, match="has the key 'sub_data_root', the folder of JPEGImages"):
        load(tmp_path, ann_file=list_file, data_prefix=dict(img='VOC2007/JPEGImages/'))
    (tmp_path / 'a.json').write_text(' {"images": []}')
    with pytest.raises(ValueError, match="this is a JSON file: type='CocoDataset' reads it"):
        load(tmp_path, ann_file='a.json')

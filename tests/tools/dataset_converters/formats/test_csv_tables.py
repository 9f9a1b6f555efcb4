from __future__ import annotations

import math

import pytest
from formats import csv_tables

from tests.tools.dataset_converters.formats.test_voc import (
    add_image,
    counts_agree,
    list_boxes,
    write,
)

# The box 10, 4 to 30, 24 of an image of 50 x 40.
CORNERS = (10, 4, 30, 24)


def read(folder, text, name='boxes.csv', images=('a.jpg',)):
    for image in images:
        add_image(folder / image)
    write(folder / name, text)
    export = csv_tables.read(folder, None)
    assert counts_agree(export)
    return export


@pytest.mark.parametrize(
    'text',
    [
        'filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,50,40,dog,10,4,30,24',
        'IMAGE_PATH;Class Name;X Min;Y Min;X Max;Y Max\n..\\x\\a.jpg;dog;10,0;4,0;30,0;24,0',
        'sep=;\nfile;label;left;top;width;height\na.jpg;dog;10;4;20;20',
        'img\tcategory\tx\ty\tw\th\na\tdog\t10\t4\t20\t20',
        'image_id,width,height,bbox,label\na,50,40,"[10.0, 4.0, 20.0, 20.0]",dog',
        'image_id,bbox,label\na,"[10, 4, 30, 24]",dog\na,"[25, 20, 45, 35]",dog',  # xyxy
        'image,label,bbox_xyxy\na.jpg,dog,10 4 30 24',
        'name,class,x_center,y_center,width,height\na.jpg,dog,20,14,20,20',
        'filename,class,xc,yc,w,h\na.jpg,dog,.4,0.35,0.4,0.5',  # relative
        'filename,class,x1,y1,x2,y2,x3,y3,x4,y4\na.jpg,dog,20,4,30,14,20,24,10,14',
        'filename,class,x0,y0,x1,y1\na.jpg,dog,10,4,30,24',
        'filename,image_width,image_height,bbox_x,bbox_y,bbox_width,bbox_height,class\n'
        'a.jpg,50,40,10,4,20,20,dog',
        'picture,class_id,class_name,xmin,ymin,xmax,ymax\na.jpg,3,dog,10,4,30,24',
        '/home/me/a.jpg,10,4,30,24,dog',  # keras-retinanet
        'UNASSIGNED,gs://bucket/a.jpg,dog,0.2,0.1,,,0.6,0.6,,',  # AutoML
    ],
)
def test_columns(tmp_path, text):
    assert csv_tables.recognise(tmp_path) == ''
    export = read(tmp_path, text)
    assert csv_tables.recognise(tmp_path).startswith('boxes.csv has the columns ')
    (image,) = export.images
    assert image.boxes[0].name == 'dog'
    assert image.boxes[0].corners == pytest.approx(CORNERS)
    has_size = ',width,' in text or 'image_width' in text
    assert image.size_wh == ((50, 40) if has_size and 'center' not in text else None)
    assert export.relative == ('0.' in text and '.0' not in text)
    assert export.converted['polygons'] == ('x4' in text)


def test_size_in_place_of_that_of_the_image(tmp_path):
    text = 'filename,class,xmin,ymin,xmax,ymax,width,height\na.jpg,dog,10,4,30,24,20,20'
    assert read(tmp_path, text).images[0].size_wh is None


def test_images_without_boxes_and_order_of_the_classes(tmp_path, capsys):
    write(tmp_path / 'classes.csv', 'cat,1\ndog,0\nbird,2\n')
    text = 'a.jpg,,,,,\nb.jpg,1,2,3,4,cat\nb.jpg,1,2,3,5,dog\n'
    export = read(tmp_path, text, images=('a.jpg', 'b.jpg', 'c.jpg'))
    b = [('cat', (1, 2, 3, 4)), ('dog', (1, 2, 3, 5))]
    assert list_boxes(export) == {'a.jpg': [], 'b.jpg': b}
    assert (export.classes, export.num_boxes) == (['dog', 'cat', 'bird'], 2)
    assert '1 images are in none of the files' in capsys.readouterr().out
    text = 'filename,class,x1,y1,x2,y2\na.jpg,2,1,2,3,4\nb.jpg,,nan,nan,nan,nan\n'
    assert list_boxes(read(tmp_path, text)) == {'a.jpg': [('bird', (1, 2, 3, 4))], 'b.jpg': []}


def test_splits(tmp_path):
    """Roboflow's folders, the tables of TensorFlow's tutorial, and a column."""
    text = 'filename,class,x1,y1,x2,y2\n1.jpg,dog,1,2,3,4'
    read(tmp_path / 'a', text, 'train/_annotations.csv', ['train/1.jpg'])
    export = read(tmp_path / 'a', text, 'valid/_annotations.csv', ['valid/1.jpg'])
    found = [(image.path.parent.name, image.split) for image in export.images]
    assert found == [('train', 'train'), ('valid', 'val')]
    read(tmp_path / 'b', text, 'test_labels.csv', ['train/1.jpg'])
    export = read(tmp_path / 'b', text, 'train_labels.csv', ['test/1.jpg'])
    found = [(image.path.parent.name, image.split) for image in export.images]
    assert found == [('test', 'test'), ('train', 'train')]
    text = 'TEST,1.jpg,dog,0.2,0.1,,,0.6,0.6,,\nVALIDATE,2.jpg,,,,,,,,,'
    export = read(tmp_path / 'c', text, images=['1.jpg', '2.jpg'])
    assert [image.split for image in export.images] == ['test', 'val']


def test_no_class(tmp_path, capsys):
    text = 'image_id,bbox,source\na,"[1, 2, 3, 4]",usask_1'
    assert list_boxes(read(tmp_path, text)) == {'a.jpg': [('object', (1, 2, 4, 6))]}
    assert 'class object: no column names it' in capsys.readouterr().out


def test_faults(tmp_path, capsys):
    text = """filename,class,xmin,ymin,xmax,ymax
        a.jpg,dog,1,2,3,4
        a.jpg,,1,2,3,4
        a.jpg,dog,1,2,3
        a.jpg,dog,1,2,3,4,5
        a.jpg,dog,1,2,x,4
        a.jpg,dog,"1,5",2,3,4
        b.jpg,dog,1,2,3,4
        b.jpg,dog,1,2,3,5

        a.jpg,dog,1,nan,1e999,4"""
    export = read(tmp_path, text)
    assert dict(export.lost) == {'boxes': 7, 'images': 1}
    assert [box.corners[:2] for box in export.images[0].boxes] == [
        (1, 2),
        (1, pytest.approx(math.nan, nan_ok=True)),
    ]
    assert export.images[0].boxes[1].place.endswith('boxes.csv: line 11')
    lines = capsys.readouterr().err
    for message in (
        'line 3: has no class',
        'line 4: expected 6 cells as in the header',
        'line 5: expected 6 cells as in the header',
        "line 6: expected a number of a box, got 'x'",
        "line 7: expected a number of a box, got '1,5'",
        'line 8: b.jpg: no image of this name in',
    ):
        assert message in lines


@pytest.mark.follows('the columns {} mean the same', 'call it filename', 'may all be the class')
@pytest.mark.parametrize(
    ('old', 'new', 'error'),
    [
        ('x1,xmin', 'x1', "the columns 'x1', 'xmin' mean the same; remove all but one"),
        ('class,label', 'class', "the columns 'class', 'label' may all be the class"),
        ('foto', 'filename', "no column names the image, of 'foto'.*call it filename"),
        ('left,oben', 'left,top', 'no .csv file with columns of boxes.*boxes.csv has .*oben'),
    ],
)
def test_columns_that_are_not_clear(tmp_path, old, new, error):
    """Following the advice helps."""
    texts = {
        'x1,xmin': (
            'filename,x1,xmin,y1,x2,y2\na.jpg,1,1,2,3,4',
            'filename,x1,y1,x2,y2\na.jpg,1,2,3,4',
        ),
        'class,label': (
            'filename,class,label,x,y,w,h\na.jpg,dog,big,1,2,2,2',
            'filename,class,x,y,w,h\na.jpg,dog,1,2,2,2',
        ),
        'foto': ('foto,x,y,w,h\nb,1,2,2,2', 'filename,x,y,w,h\na,1,2,2,2'),
        'left,oben': ('image,left,oben,w,h\na,1,2,2,2', 'image,left,top,w,h\na,1,2,2,2'),
    }
    with pytest.raises(ValueError, match=error):
        read(tmp_path, texts[old][0])
    assert new in texts[old][1]
    assert read(tmp_path, texts[old][1]).images[0].boxes[0].corners == (1, 2, 3, 4)


@pytest.mark.parametrize(
    'text',
    [
        '',
        'dog,0\ncat,1\n',
        'epoch,train/box_loss,metrics/mAP50\n1,0.5,0.5\n',
        'ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax\na,x,/m/1,1,0,1,0,1\n',
        'filename,file_size,region_shape_attributes,region_attributes\na.jpg,1,{},{}\n',
        'id,PredictionString\na,0.9 1 2 3 4\n',
    ],
)
def test_tables_of_something_else(tmp_path, text):
    write(tmp_path / 'a.csv', text)
    assert csv_tables.recognise(tmp_path) == ''

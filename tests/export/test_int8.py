"""Convolutions of 8 bits."""

import json

import numpy as np
import pytest

from ghmdet import Detector
from ghmdet.inference import iterate

onnx = pytest.importorskip('onnx')
int8 = pytest.importorskip('ghmdet.export.int8')


def texts(file):
    return {each.key: json.loads(each.value) for each in onnx.load(file).metadata_props}


@pytest.fixture(scope='module')
def quantized(exported, tmp_path_factory):
    target = str(tmp_path_factory.mktemp('int8') / 'm.onnx')
    detector = Detector(exported / 'config.py', exported / 'model.pth')
    sources, file = [*iterate(exported / 'data/val')], str(exported / 'model.onnx')
    int8.quantize(file, target, detector, sources, texts(file))
    return target


def test_metadata(exported, quantized):
    assert texts(quantized) == {**texts(exported / 'model.onnx'), 'int8': True}


def test_all_convolutions_have_weights_of_8_bits(quantized):
    graph = onnx.load(quantized).graph
    kinds = {each.name: each.data_type for each in graph.initializer}
    sources = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == 'Conv']
    weights = [sources[node.input[1]] for node in convolutions]
    assert len(convolutions) >= 15
    assert {node.op_type for node in weights} == {'DequantizeLinear'}
    assert {kinds[node.input[0]] for node in weights} == {onnx.TensorProto.INT8}


def test_the_logits_begin_at_the_score_threshold(quantized):
    """The lowest of 256 values is a score that is dropped; zero must be among them."""
    graph = onnx.load(quantized).graph
    values = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    heads = {n.output[0] for n in graph.node if n.op_type == 'Conv' and 'retina_cls' in n.input[1]}
    nodes = [n for n in graph.node if n.op_type == 'QuantizeLinear' and n.input[0] in heads]
    assert len(nodes) == 3
    threshold = texts(quantized)['score_thr']
    for node in nodes:
        scale, zero = values[node.input[1]], int(values[node.input[2]])
        logits = (np.array([0, 255]) - zero) * scale
        assert 1 / (1 + np.exp(-logits[0])) < threshold
        assert logits[1] == pytest.approx(np.log(threshold / (1 - threshold)) + 8, abs=0.05)


@pytest.mark.parametrize(
    ('score_thr', 'low', 'high'),
    [(0, -9.2102, 5), (0.05, -2.9444, 5.0556), (0.5, 0, 8), (1, 6.9068, 14.9068)],
)
def test_logit_range(score_thr, low, high):
    assert int8.find_logit_range(score_thr) == pytest.approx((low, high), abs=1e-4)


def test_scores(exported, quantized):
    """Of random weights, which 8 bits change more than trained ones."""
    original, file = Detector(exported / 'config.py', exported / 'model.pth'), Detector(quantized)
    photos = [*iterate(exported / 'data/val')]
    best = [[found.scores[0] for _, found in each.run(photos)] for each in (original, file)]
    np.testing.assert_allclose(*best, atol=0.08)

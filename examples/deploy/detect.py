"""Detect in a photograph with an exported model: python detect.py model.onnx photo.jpg."""

import json
import sys

import cv2
import numpy as np
import onnxruntime


def load(file):
    """Return the session and the metadata of an exported file."""
    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    texts = session.get_modelmeta().custom_metadata_map
    return session, {key: json.loads(text) for key, text in texts.items()}


def detect(session, metadata, image):
    """Return boxes x1 y1 x2 y2, scores and labels in a BGR image; the best are first."""
    (height, width), wh = image.shape[:2], metadata['scale']
    if metadata['keep_ratio']:
        factor = min(max(wh) / max(height, width), min(wh) / min(height, width))
        wh = int(width * factor + 0.5), int(height * factor + 0.5)
    if metadata['scale']:
        image = cv2.resize(image, wh, interpolation=cv2.INTER_LINEAR)
    h, w = image.shape[:2]
    images = np.zeros((1, 3, *(metadata['static'] or (h, w))), np.float32)
    images[0, :, :h, :w] = image.transpose(2, 0, 1)
    sizes = np.array([[h, w]], np.int64)
    scale_factors = np.array([[w / width, h / height]], np.float32)
    inputs = dict(images=images, sizes=sizes, scale_factors=scale_factors)
    boxes, scores, labels, num = (each[0] for each in session.run(None, inputs))
    return boxes[:num], scores[:num], labels[:num]


if __name__ == '__main__':
    session, metadata = load(sys.argv[1])
    for box, score, label in zip(*detect(session, metadata, cv2.imread(sys.argv[2])), strict=True):
        print(metadata['classes'][label], score, *box)

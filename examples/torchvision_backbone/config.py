# RetinaNet-GHM with MobileNetV3 on the demo's shapes; README.md says how to train.
_base_ = __import__('ghmdet').config_path('retinanet_ghm_r18_fpn_shapes')

custom_imports = dict(imports=['torchvision_backbone'])

model = dict(
    backbone=dict(
        _delete_=True,
        type='TorchvisionBackbone',
        name='mobilenet_v3_small',
        weights='DEFAULT',  # None: from scratch
        layers=['features.3', 'features.8', 'features.12'],  # strides 8, 16 and 32
    ),
    neck=dict(in_channels=[24, 48, 576], start_level=0),
)

"""The experiments hold the constants that were published, and the networks the published numbers of parameters."""

from __future__ import annotations

from functools import reduce

import pytest
from composing import compose
from full_networks import NORMALISED_CHANNELS, NORMALISED_CHANNELS_AUX, PUBLISHED_TORCHVISION, build, full

from trainer.config.compose import configuration_directory

PAPER = "arXiv 1512.00567 section 8"
SMOOTHING = "arXiv 1512.00567 section 7"
UTILS = "tensorflow/models research/slim/nets/inception_utils.py"
NET = "tensorflow/models research/slim/nets/inception_v3.py"
CLASSIFIER = "tensorflow/models research/slim/train_image_classifier.py"
SINGLE_HOST = "tensorflow/models research/inception/inception/inception_distributed_train.py"
PREPROCESSING = "tensorflow/models research/slim/preprocessing/inception_preprocessing.py"
TPU = "tensorflow/tpu models/experimental/inception/inception_v3.py"
TRANSFER = "arXiv 2002.05709 appendix B.8.1, which follows arXiv 1805.08974"
PRIMITIVES = "pytorch.org/blog, How to Train State-Of-The-Art Models Using TorchVision's Latest Primitives"
TORCHVISION = "pytorch/vision references/classification/train.py"
TORCH_INCEPTION = "pytorch/vision torchvision/models/inception.py"
RAND_AUGMENT = "arXiv 1909.13719, ResNet-50 on ImageNet"

CONSTANTS = {
    "inception_v3_paper": {
        "optimizer.name": ("rmsprop", PAPER),
        "optimizer.learning_rate": (0.045, PAPER),
        "optimizer.rho": (0.9, PAPER),
        "optimizer.momentum": (0.9, CLASSIFIER),
        "optimizer.epsilon": (1.0, PAPER),
        "optimizer.initial_mean_square": (1.0, "tf.compat.v1.train.RMSPropOptimizer"),
        "optimizer.clip_norm": (2.0, PAPER),
        "schedule.name": ("exponential", PAPER),
        "schedule.decay_rate": (0.94, PAPER),
        "schedule.decay_epochs": (2.0, PAPER),
        "schedule.staircase": (True, CLASSIFIER),
        "train.epochs": (100.0, PAPER),
        "train.global_batch_size": (50 * 32, PAPER),
        "train.label_smoothing": (0.1, SMOOTHING),
        "train.aux_weight": (0.4, NET),
        "model.width": (1.0, NET),
        "model.dropout": (1.0 - 0.8, NET),
        "model.weight_decay": (4e-5, UTILS),
        "model.batch_norm.momentum": (0.9997, UTILS),
        "model.batch_norm.epsilon": (0.001, UTILS),
        "model.batch_norm.scale": (False, UTILS),
        "model.initializer": ("variance_scaling", UTILS),
        "ema.decay": (0.9999, SINGLE_HOST),
        "ema.warmup": (True, SINGLE_HOST),
        "ema.batch_norm": (True, SINGLE_HOST),
        "evaluation.weights": ("ema", PAPER),
        "preprocess.image_size": (299, PAPER),
        "preprocess.central_crop.fraction": (0.875, PREPROCESSING),
        "preprocess.normalize.mean": ((0.5, 0.5, 0.5), PREPROCESSING),
        "preprocess.normalize.std": ((0.5, 0.5, 0.5), PREPROCESSING),
    },
    "inception_v3_tpu": {
        "optimizer.name": ("rmsprop", TPU),
        "optimizer.learning_rate": (0.165 * 1024 / 256, TPU),
        "optimizer.rho": (0.9, TPU),
        "optimizer.momentum": (0.9, TPU),
        "optimizer.epsilon": (1.0, TPU),
        "optimizer.initial_mean_square": (1.0, "tf.compat.v1.train.RMSPropOptimizer"),
        "optimizer.clip_norm": (None, TPU),
        "schedule.name": ("exponential", TPU),
        "schedule.decay_rate": (0.94, TPU),
        "schedule.decay_epochs": (3.0, TPU),
        "schedule.staircase": (True, TPU),
        "schedule.minimum_fraction": (1e-4, TPU),
        "train.epochs": (170.0, "Cloud TPU documentation"),
        "train.global_batch_size": (1024, TPU),
        "train.label_smoothing": (0.1, TPU),
        "train.aux_weight": (0.4, TPU),
        "model.num_classes": (1001, TPU),
        "model.width": (1.0, TPU),
        "model.dropout": (1.0 - 0.8, NET),
        "model.weight_decay": (4e-5, UTILS),
        "model.batch_norm.scale": (False, UTILS),
        "model.batch_norm.momentum": (0.996, TPU),
        "model.batch_norm.epsilon": (0.001, TPU),
        "ema.decay": (0.995, TPU),
        "ema.warmup": (True, TPU),
        "ema.batch_norm": (True, TPU),
        "evaluation.weights": ("ema", TPU),
        "preprocess.image_size": (299, TPU),
    },
    "inception_v3_modern": {
        "optimizer.name": ("sgd", PRIMITIVES),
        "optimizer.learning_rate": (0.5, PRIMITIVES),
        "optimizer.momentum": (0.9, PRIMITIVES),
        "optimizer.nesterov": (False, TORCHVISION),
        "optimizer.clip_norm": (None, TORCHVISION),
        "schedule.name": ("cosine", PRIMITIVES),
        "schedule.warmup_epochs": (5.0, PRIMITIVES),
        "schedule.minimum_fraction": (0.0, TORCHVISION),
        "train.epochs": (600.0, PRIMITIVES),
        "train.global_batch_size": (8 * 128, PRIMITIVES),
        "train.label_smoothing": (0.1, PRIMITIVES),
        "train.aux_weight": (0.4, NET),
        "model.width": (1.0, TORCH_INCEPTION),
        "model.dropout": (1.0 - 0.8, NET),
        "model.weight_decay": (2e-5, PRIMITIVES),
        "model.batch_norm.momentum": (1.0 - 0.1, "torch.nn.BatchNorm2d"),
        "model.batch_norm.epsilon": (0.001, TORCH_INCEPTION),
        "model.batch_norm.scale": (True, TORCH_INCEPTION),
        # a share of 1 - 0.99998 times 1024 × 32 / 600 at every 32nd step
        "ema.decay": (1 - (1 - 0.99998) * (8 * 128 * 32 / 600) / 32, TORCHVISION),
        "ema.batch_norm": (True, "pytorch/vision references/classification/utils.py"),
        "evaluation.weights": ("ema", PRIMITIVES),
        "mixing.name": ("mixup_cutmix", PRIMITIVES),
        "mixing.mixup_alpha": (0.2, PRIMITIVES),
        "mixing.cutmix_alpha": (1.0, PRIMITIVES),
        "mixing.probability": (1.0, TORCHVISION),
        "mixing.cutmix_probability": (0.5, TORCHVISION),
        "preprocess.train": (
            ("decode", "random_area_crop", "resize", "horizontal_flip", "rand_augment", "normalize", "random_erasing"),
            "pytorch/vision references/classification/presets.py",
        ),
        "preprocess.image_size": (299, PAPER),
        "preprocess.random_area_crop.min_area": (0.08, "torchvision.transforms.RandomResizedCrop"),
        "preprocess.random_area_crop.max_aspect": (4 / 3, "torchvision.transforms.RandomResizedCrop"),
        "preprocess.rand_augment.num_layers": (2, RAND_AUGMENT),
        "preprocess.rand_augment.magnitude": (9.0, RAND_AUGMENT),
        "preprocess.random_erasing.probability": (0.1, PRIMITIVES),
        "preprocess.random_erasing.min_area": (0.02, "torchvision.transforms.RandomErasing"),
        "preprocess.random_erasing.max_area": (0.33, "torchvision.transforms.RandomErasing"),
        "preprocess.random_erasing.max_aspect": (3.3, "torchvision.transforms.RandomErasing"),
        "preprocess.normalize.mean": ((0.485, 0.456, 0.406), "pytorch/vision references/classification/presets.py"),
        "preprocess.normalize.std": ((0.229, 0.224, 0.225), "pytorch/vision references/classification/presets.py"),
    },
    "finetune": {
        "optimizer.name": ("sgd", TRANSFER),
        "optimizer.learning_rate": (0.01, f"{TRANSFER}: the grid is 0.0001 to 0.1, evenly in its logarithm"),
        "optimizer.momentum": (0.9, TRANSFER),
        "optimizer.nesterov": (True, TRANSFER),
        "schedule.name": ("cosine", "arXiv 1805.08974"),
        "train.global_batch_size": (256, TRANSFER),
        "model.batch_norm.momentum": (0.9, f"{TRANSFER}: max(1 - 10 / steps an epoch, 0.9)"),
        "preprocess.train": (("decode", "random_area_crop", "resize", "horizontal_flip", "normalize"), TRANSFER),
        "preprocess.normalize.mean": ((0.5, 0.5, 0.5), PREPROCESSING),
        "preprocess.normalize.std": ((0.5, 0.5, 0.5), PREPROCESSING),
    },
}


@pytest.mark.parametrize("experiment", CONSTANTS)
def test_every_constant_of_a_recipe_is_the_published_one(experiment: str) -> None:
    config = compose(f"experiment={experiment}", "data=tfrecord", "data.root=x", "data.num_classes=1001")
    assert config.experiment == experiment
    for path, (value, source) in CONSTANTS[experiment].items():
        found = reduce(getattr, path.split("."), config)
        assert found == (pytest.approx(value) if isinstance(value, float) else value), f"{path} ({source})"
    text = (configuration_directory() / "experiment" / f"{experiment}.yaml").read_text()
    lines = text.splitlines()
    assert lines[1].startswith(f"# python -m trainer train experiment={experiment} data=")
    assert lines[2].startswith("# Hours: ")
    assert lines[3].startswith("# Accuracy")


def test_parameter_counts_for_1000_and_1001_classes_with_and_without_the_auxiliary_head() -> None:
    body = 21_802_784  # research/slim/nets/inception_v3_test.py, testModelHasExpectedNumberOfParameters
    aux_1000 = PUBLISHED_TORCHVISION[0] - PUBLISHED_TORCHVISION[1] + NORMALISED_CHANNELS_AUX
    assert PUBLISHED_TORCHVISION[1] + NORMALISED_CHANNELS == body + 2049 * 1000
    model = build(full(**{"model.num_classes": 1001}))
    aux = sum(layer.count_params() for layer in model.layers if layer.name.startswith("aux_logits."))
    assert aux == aux_1000 + 769  # the classifier's 768 weights and bias for one class more
    assert model.count_params() - aux == body + 2049 * 1001

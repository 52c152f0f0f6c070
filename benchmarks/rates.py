"""How many images a second: decoding on one core, a ResNet-50 by itself, and `observe`, which does both.

What docs/scale.md plans with. The weights are random, which takes no less time; the photographs are linked as often as --copies
says, so that starting the workers counts for little.

Example: python benchmarks/rates.py --data DIR --device cuda --workers 8
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

import subspect
from _archives import unpacked
from _resnet50 import resnet50
from _rows import Row, publish, row
from subspect.images.decoding import decode

PREPROCESSING = subspect.Preprocessing(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
ARCHIVE = "imagenet-val-1300"
_DECODED = 200  # images
_BATCH = 64


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("SUBSPECT_DATA"), help="folder with the data")
    parser.add_argument("--device", default="cpu", help="of the network")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode for observe")
    parser.add_argument("--copies", type=int, default=1, help="how often each photograph is observed")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("pass --data DIR, or set SUBSPECT_DATA")
    with tempfile.TemporaryDirectory() as folder:
        images = unpacked(Path(arguments.data), ARCHIVE, Path(folder))
        files = sorted(images.rglob("*.jpg"))
        rows = row("bytes of a photograph, in the mean", sum(file.stat().st_size for file in files) / len(files), "")
        rows += alone(files[:_DECODED], arguments.device)
        for copy in range(1, arguments.copies):
            for file in files:
                os.link(file, file.with_name(f"{copy}-{file.name}"))
        rows += observed(images, Path(folder) / "study", arguments.device, arguments.workers)
    return 0 if publish("Images a second", rows, arguments.json) else 1


def alone(files: list[Path], device: str) -> list[Row]:
    """Time decoding and the network by themselves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    pixels = [PREPROCESSING(decode(file)) for file in files]
    rows = row("decoded, resized and cropped by one core", len(files) / (time.perf_counter() - begun), "images/s")
    model, batch = network().to(device), torch.stack(pixels[:_BATCH]).to(device)
    times = 1 if device == "cpu" else 30
    with torch.inference_mode():
        for _ in range(5 * (device != "cpu")):
            float(model(batch).sum())
        begun = time.perf_counter()
        float(sum(model(batch).sum() for _ in range(times)))
    rate = times * len(batch) / (time.perf_counter() - begun)
    torch.set_num_threads(before)
    where = "one core" if device == "cpu" else torch.cuda.get_device_name(device)
    return [*rows, *row(f"ResNet-50 on {where}, float32, batches of {_BATCH}", rate, "images/s")]


def observed(images: Path, study: Path, device: str, workers: int) -> list[Row]:
    """Time observe."""
    own = subspect.Network(network(), preprocessing=PREPROCESSING, class_names=[str(label) for label in range(1000)])
    labels = {folder.name: int(folder.name[:4]) for folder in images.iterdir()}
    begun = time.perf_counter()
    made = subspect.observe(own, images, study, device=device, workers=workers, class_map=labels, show_progress=False)
    seconds = time.perf_counter() - begun
    n = len(made.image_set("train"))
    return row(f"observe, {n:,} images, {workers} workers, starting included", n / seconds, "images/s")


def network() -> nn.Module:
    """Return a ResNet-50 with random weights."""
    torch.manual_seed(0)
    return resnet50().eval()


if __name__ == "__main__":
    sys.exit(main())

"""A folder as Hugging Face has them: a transformers network whose head is the decomposed one, with a model card.

The head is a plain linear layer in which all weights outside the supports are zero, so that
``AutoModelForImageClassification.from_pretrained(folder)`` reads it without subspect. The folder gets its name only after it
was read back so and said what the decomposed network says. It is sent to the hub only when the user names a repository.
"""

from __future__ import annotations

import copy
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subspect.giving.card import model_card
from subspect.ground.errors import SubspectError, shortened, some
from subspect.ground.folders import whole_folder
from subspect.ground.packages import package, quietly
from subspect.heads.decomposition import Decomposition
from subspect.heads.head import DecomposedHead
from subspect.images.processors import Processor
from subspect.networks.finding import Head, logits_of
from subspect.networks.network import Network
from subspect.networks.summands import with_layers
from subspect.studies.study import Study

TOLERANCE = 1e-4  #: by which logits may differ; where some are larger than 1, that share of the largest
_PURPOSE = "writing a Hugging Face folder"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_UNNAMED = re.compile("LABEL_[0-9]+")  # what transformers calls classes that were given no names


def check_transformers(model: nn.Module) -> None:
    """Check that a network is one of transformers'.

    Raises:
        MissingExtra: transformers is not installed.
        SubspectError: it is none.
    """
    if not isinstance(model, package("transformers", "hf", _PURPOSE).PreTrainedModel):
        raise SubspectError(
            f"a Hugging Face folder holds a network of transformers, and this is {type(model).__name__}; name the network as "
            "hf:NAME or hf:FOLDER, or write another format: .onnx, .pt2, .safetensors"
        )


def check_repository(name: str) -> None:
    """Check the name of a repository on the hub.

    Raises:
        SubspectError: it is none.
    """
    if not _REPOSITORY.fullmatch(name):
        raise SubspectError(f"a repository on the hub is called USER/NAME; got {shortened(name)!r}")


def write_folder(
    path: Path, study: Study, decomposition: Decomposition, network: Network, head: Head, pixels: Tensor
) -> tuple[int, float]:
    """Write the folder, once what was written says the same as the decomposed network.

    Args:
        path: the folder; nothing may be there yet.
        study: of the network.
        decomposition: of this study.
        network: of this study, a network of transformers.
        head: of the network.
        pixels: (n, …) real images, as the network takes them.

    Returns:
        The bytes of all its files, and the largest difference of a logit.

    Raises:
        SubspectError: it cannot be written or read back, or says something else; nothing is left behind then.
    """
    small = decomposition.apply(network.model).cpu()
    dense = _with_zeros(small, network.model)
    processor = _processor(network)
    with whole_folder(path) as part, quietly():
        try:
            _name_classes(dense, study.identity.class_names)
            dense.save_pretrained(part)  # type: ignore[operator]
            if processor is not None:
                processor.save_pretrained(part)
        except (OSError, SubspectError):
            raise
        except Exception as error:  # of transformers', of any kind
            raise SubspectError(
                f"transformers cannot save this network: {type(error).__name__}: {shortened(str(error), 300)}"
            ) from error
        (part / "README.md").write_text(model_card(study, decomposition, processor is not None), encoding="utf-8")
        difference = _checked(part, small, head, pixels.cpu(), processor is not None)
        size = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
    return size, difference


def push(folder: Path, repository: str) -> str:
    """Send a folder to a new private repository on the hub, with the login that huggingface_hub has; return its address.

    Raises:
        SubspectError: the repository is there already, or cannot be reached or written.
    """
    api = package("huggingface_hub", "hf", "pushing to the hub").HfApi()
    try:
        made = api.create_repo(repository, repo_type="model", private=True, exist_ok=False)
        api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Decomposed by subspect")
    except Exception as error:  # of the hub's client, of any kind
        reason = f"{type(error).__name__}: {shortened(str(error).strip().partition(chr(10))[0], 300)}"
        raise SubspectError(
            f"{folder} is written, but could not be pushed to {repository}: {reason}; a repository that is there already is "
            "left as it is: name a new one, log in with 'hf auth login', or push the folder yourself with 'hf upload'"
        ) from error
    return str(made)


def _with_zeros(small: nn.Module, model: nn.Module) -> nn.Module:
    """Return a network with plain linear layers in place of decomposed ones.

    Raises:
        SubspectError: a layer has no bias to hold that of the decomposed head.
    """
    decomposed = {name: one for name, one in small.named_modules() if isinstance(one, DecomposedHead)}

    return with_layers(small, {name: partial(_plain, name, own, model) for name, own in decomposed.items()})


def _plain(name: str, own: DecomposedHead, model: nn.Module, _: nn.Module) -> nn.Module:
    """Return the layer of a network that a decomposed one stands for, with its weights and zeros."""
    made = copy.deepcopy(model.get_submodule(name)).cpu()
    if made.bias is None:
        raise SubspectError(
            f"the head {name!r} has no bias, so that a folder of its architecture cannot hold the decomposed head's; write "
            "another format: .onnx, .pt2, .safetensors"
        )
    with torch.no_grad():
        weight: Tensor = made.weight  # type: ignore[assignment]
        weight.copy_(own.dense_weight().reshape(weight.shape))
        made.bias.copy_(own.bias)  # type: ignore[operator]
    return made


def _name_classes(model: nn.Module, names: tuple[str, ...]) -> None:
    """Give classes the study's names where the network's own configuration has none; and forget where it was loaded from."""
    config: Any = model.config
    config._name_or_path = ""
    if all(_UNNAMED.fullmatch(str(name)) for name in (config.id2label or {}).values()):
        config.id2label = dict(enumerate(names))
        config.label2id = {name: label for label, name in enumerate(names)}


def _processor(network: Network) -> Any:
    """Return the image processor that a network's preprocessing is; None where it is another."""
    given = getattr(network.preprocessing, "function", None)
    return given.processor if isinstance(given, Processor) else None


def _checked(folder: Path, small: nn.Module, head: Head, pixels: Tensor, prepared: bool) -> float:
    """Return the largest difference of a logit between the folder, read back, and the decomposed network."""
    read = _read_back(folder, prepared)
    apart, wanted = 0.0, torch.zeros(())
    with torch.inference_mode():
        for batch in (1, len(pixels)):
            images = pixels[:batch].float()
            wanted, found = (logits_of(one.float().eval()(images), head, batch) for one in (copy.deepcopy(small), read))
            apart = max(apart, float((found - wanted).abs().max()))
    if not apart <= TOLERANCE * max(1.0, float(wanted.abs().max())):
        raise SubspectError(
            f"what was written differs from the decomposed network by {apart:.2e} in a logit when read back, more than "
            f"{TOLERANCE:g}, so nothing was kept"
        )
    return apart


def _read_back(folder: Path, prepared: bool) -> nn.Module:
    """Return the network of a folder as transformers reads it."""
    transformers = package("transformers", "hf", _PURPOSE)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        if prepared:
            transformers.AutoImageProcessor.from_pretrained(folder, **options)
        read, told = transformers.AutoModelForImageClassification.from_pretrained(
            folder, output_loading_info=True, **options
        )
    except Exception as error:  # of transformers', of any kind
        raise SubspectError(
            f"what was written cannot be read back, so nothing was kept: {type(error).__name__}: "
            f"{shortened(str(error).strip().partition(chr(10))[0], 300)}"
        ) from error
    odd = sorted({*told["missing_keys"], *told["unexpected_keys"]})
    if odd:
        raise SubspectError(f"what was written lacks, or has besides, {some(odd)} when read back, so nothing was kept")
    network: nn.Module = read
    return network

"""Which few features decide each class of a trained image classifier?

::

    network = subspect.Network(model, preprocessing=subspect.Preprocessing(resize=256, crop=224, mean=…, std=…))
    study = subspect.observe(network, "images/train", "study", "train")
    subspect.observe(network, "images/test", "study", "test")
    decomposition = subspect.decompose(study, k=5)
    fidelity = subspect.evaluate(study, decomposition)
    subspect.write_report(study, decomposition, fidelity)
    small = decomposition.apply(model)
"""

from subspect.budget import Auto, Mean
from subspect.decompose import decompose, decompose_by_file, decompose_each
from subspect.decomposition import Decomposition, load_decomposition
from subspect.errors import MissingExtra, SubspectError
from subspect.fidelity import Fidelity, evaluate
from subspect.head import DecomposedHead
from subspect.images import Arrays, DatasetImages, Images, open_images
from subspect.job import Job, run
from subspect.network import Network
from subspect.observe import observe
from subspect.preprocessing import Preprocessing
from subspect.report import write_report
from subspect.study import Study
from subspect.supports import Supports
from subspect.zoo import load_network

__version__ = "0.1.0.dev0"

__all__ = [
    "Arrays",
    "Auto",
    "DatasetImages",
    "DecomposedHead",
    "Decomposition",
    "Fidelity",
    "Images",
    "Job",
    "Mean",
    "MissingExtra",
    "Network",
    "Preprocessing",
    "Study",
    "SubspectError",
    "Supports",
    "decompose",
    "decompose_by_file",
    "decompose_each",
    "evaluate",
    "load_decomposition",
    "load_network",
    "observe",
    "open_images",
    "run",
    "write_report",
]

"""Which few features decide each class of a trained image classifier?

::

    network = subspect.Network(model, preprocessing=subspect.Preprocessing(resize=256, crop=224, mean=…, std=…))
    study = subspect.observe(network, "images/train", "study", "train")
    subspect.observe(network, "images/test", "study", "test")
    decomposition = subspect.decompose(study, k=5)
    fidelity = subspect.evaluate(study, decomposition)
    subspect.write_report(study, decomposition, fidelity)
    subspect.explain(study, decomposition, network, "cat.jpg").plot()
    small = decomposition.apply(model)
"""

from subspect.budget import Auto, Mean
from subspect.compare import Comparison, compare
from subspect.decompose import decompose, decompose_by_file, decompose_each
from subspect.decomposition import Decomposition, load_decomposition
from subspect.depth import Depth, depth
from subspect.diff import Difference, diff
from subspect.edit import Edited, edit
from subspect.errors import MissingExtra, SubspectError
from subspect.essentiality import Essentiality, essentiality
from subspect.explain import Explanation, explain
from subspect.export import Exported, export
from subspect.fidelity import Fidelity, evaluate
from subspect.geometry import Geometry, geometry
from subspect.head import DecomposedHead
from subspect.images import Arrays, DatasetImages, Images, open_images
from subspect.job import Job, run
from subspect.maps import read_maps
from subspect.network import Network
from subspect.observe import observe
from subspect.preprocessing import Preprocessing
from subspect.report import write_report
from subspect.retrain import Retrained, Settings, retrain, retrain_both
from subspect.selectivity import Selectivity, selectivity
from subspect.specialise import Specialised, specialise
from subspect.study import Study
from subspect.supports import Supports
from subspect.tradeoff import Tradeoff, tradeoff
from subspect.verify import Verified, verify
from subspect.zoo import load_network

__version__ = "0.1.0.dev0"

__all__ = [
    "Arrays",
    "Auto",
    "Comparison",
    "DatasetImages",
    "DecomposedHead",
    "Decomposition",
    "Depth",
    "Difference",
    "Edited",
    "Essentiality",
    "Explanation",
    "Exported",
    "Fidelity",
    "Geometry",
    "Images",
    "Job",
    "Mean",
    "MissingExtra",
    "Network",
    "Preprocessing",
    "Retrained",
    "Selectivity",
    "Settings",
    "Specialised",
    "Study",
    "SubspectError",
    "Supports",
    "Tradeoff",
    "Verified",
    "compare",
    "decompose",
    "decompose_by_file",
    "decompose_each",
    "depth",
    "diff",
    "edit",
    "essentiality",
    "evaluate",
    "explain",
    "export",
    "geometry",
    "load_decomposition",
    "load_network",
    "observe",
    "open_images",
    "read_maps",
    "retrain",
    "retrain_both",
    "run",
    "selectivity",
    "specialise",
    "tradeoff",
    "verify",
    "write_report",
]

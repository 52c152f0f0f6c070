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

from subspect.asking.compare import Comparison, compare
from subspect.asking.depth import Depth, depth
from subspect.asking.diff import Difference, diff
from subspect.asking.essentiality import Essentiality, essentiality
from subspect.asking.explain import Explanation, explain
from subspect.asking.geometry import Geometry, geometry
from subspect.asking.selectivity import Selectivity, selectivity
from subspect.choosing.decompose import decompose, decompose_by_file, decompose_each
from subspect.choosing.sizes import Auto, Mean
from subspect.giving.edit import Edited, edit
from subspect.giving.export import Exported, export
from subspect.giving.retrain import retrain, retrain_both
from subspect.giving.specialise import Specialised, specialise
from subspect.giving.tradeoff import Tradeoff, tradeoff
from subspect.giving.training import Retrained, Settings
from subspect.ground.errors import MissingExtra, SubspectError
from subspect.heads.decomposition import Decomposition
from subspect.heads.head import DecomposedHead
from subspect.heads.supports import Supports
from subspect.images.memory import Arrays, DatasetImages
from subspect.images.opening import open_images
from subspect.images.preprocessing import Preprocessing
from subspect.images.sources import Images
from subspect.job import Job, run
from subspect.measuring.fidelity import Fidelity, evaluate
from subspect.networks.maps import read_maps
from subspect.networks.naming import load_network
from subspect.networks.network import Network
from subspect.report import write_report
from subspect.studies.decompositions import load_decomposition
from subspect.studies.observe import observe
from subspect.studies.study import Study
from subspect.studies.verify import Verified, verify

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

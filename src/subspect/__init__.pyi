from .asking.compare import Comparison, compare
from .asking.depth import Depth, depth
from .asking.diff import Difference, diff
from .asking.essentiality import Essentiality, essentiality
from .asking.explain import Explanation, explain
from .asking.geometry import Geometry, geometry
from .asking.selectivity import Selectivity, selectivity
from .choosing.decompose import decompose, decompose_by_file, decompose_each
from .choosing.sizes import Auto, Mean
from .giving.edit import Edited, edit
from .giving.export import Exported, export
from .giving.retrain import retrain, retrain_both
from .giving.specialise import Specialised, specialise
from .giving.tradeoff import Tradeoff, tradeoff
from .giving.training import Retrained, Settings
from .ground.errors import MissingExtra, SubspectError
from .heads.decomposition import Decomposition
from .heads.head import DecomposedHead
from .heads.supports import Supports
from .images.memory import Arrays, DatasetImages
from .images.opening import open_images
from .images.preprocessing import Preprocessing
from .images.sources import Images
from .job import Job, run
from .measuring.fidelity import Fidelity, evaluate
from .networks.maps import read_maps
from .networks.naming import load_network
from .networks.network import Network
from .report import write_report
from .studies.decompositions import load_decomposition
from .studies.observe import observe
from .studies.study import Study
from .studies.verify import Verified, verify

__version__: str

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

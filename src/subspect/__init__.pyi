from .asking.compare import Comparison, ConfusedImage, Separator, compare
from .asking.depth import Depth, Member, Trend, depth
from .asking.diff import ClassChange, Difference, MatchedFeature, diff
from .asking.essentiality import Curves, Essentiality, Replaced, essentiality
from .asking.explain import Explanation, ImageLike, explain
from .asking.geometry import Geometry, geometry
from .asking.neighbours import Neighbour
from .asking.selectivity import LayerSelectivity, Selectivity, selectivity
from .checking.check import check
from .checking.finding import Check, Finding, Skipped
from .checking.result import Checked
from .checking.verify import Fault, Verified, verify
from .choosing.decompose import decompose, decompose_by_file, decompose_each
from .choosing.sizes import Auto, Budget, Mean
from .estimator import SparseHeadClassifier
from .giving.edit import Edited, edit
from .giving.export import Exported, FileCost, export
from .giving.export_features import ExportedFeatures, export_features
from .giving.retrain import Retrained, retrain
from .giving.settings import Settings
from .giving.specialise import specialise
from .giving.specialised import Specialised
from .giving.timing import Ratio
from .giving.tradeoff import Tradeoff, TradeoffPoint, tradeoff
from .giving.training import Epoch, Trained
from .giving.without_cue import SwappedAccuracy, WithoutCue
from .ground.clusters import engine
from .ground.errors import MissingExtra, SubspectError
from .ground.memory import memory_limit
from .ground.results import Result
from .heads.cost import NetworkSize
from .heads.decomposition import Decomposition
from .heads.head import DecomposedHead
from .heads.history import Chosen, CurvePoint, Dropped, Promised, Refitted, Settled
from .heads.supports import Supports
from .heads.terms import Term
from .heads.ternary import Ternary
from .heads.trusted import FeatureRow, Trusted
from .images.memory import Arrays, DatasetImages
from .images.opening import ImageSource, open_images
from .images.preprocessing import Preprocessing, PreprocessingLike
from .images.sources import Images
from .job import Job, run
from .measuring.fidelity import Cost, Estimate, Fidelity, evaluate
from .measuring.where import Where
from .networks.doctor import Doctor, doctor
from .networks.finding import Head
from .networks.maps import Read, read_maps
from .networks.naming import load_network
from .networks.network import Network
from .report import write_report
from .report.cards import Cards, cards
from .statistics.dimensions import Spread
from .studies.decompositions import load_decomposition
from .studies.features import from_features
from .studies.image_set import ImageSet
from .studies.name_features import FeatureNames, name_features
from .studies.observe import observe
from .studies.study import Study, StudyLike, open_study
from .swapping.cue import Cue
from .swapping.cues import cues
from .swapping.result import Cues, Swapped
from .tracing.filters import filters
from .tracing.result import AblatedFilters, ClassFilter, EssentialFilters, Filters, LayerFilters

__version__: str

__all__ = [
    "AblatedFilters",
    "Arrays",
    "Auto",
    "Budget",
    "Cards",
    "Check",
    "Checked",
    "Chosen",
    "ClassChange",
    "ClassFilter",
    "Comparison",
    "ConfusedImage",
    "Cost",
    "Cue",
    "Cues",
    "CurvePoint",
    "Curves",
    "DatasetImages",
    "DecomposedHead",
    "Decomposition",
    "Depth",
    "Difference",
    "Doctor",
    "Dropped",
    "Edited",
    "Epoch",
    "EssentialFilters",
    "Essentiality",
    "Estimate",
    "Explanation",
    "Exported",
    "ExportedFeatures",
    "Fault",
    "FeatureNames",
    "FeatureRow",
    "Fidelity",
    "FileCost",
    "Filters",
    "Finding",
    "Geometry",
    "Head",
    "ImageLike",
    "ImageSet",
    "ImageSource",
    "Images",
    "Job",
    "LayerFilters",
    "LayerSelectivity",
    "MatchedFeature",
    "Mean",
    "Member",
    "MissingExtra",
    "Neighbour",
    "Network",
    "NetworkSize",
    "Preprocessing",
    "PreprocessingLike",
    "Promised",
    "Ratio",
    "Read",
    "Refitted",
    "Replaced",
    "Result",
    "Retrained",
    "Selectivity",
    "Separator",
    "Settings",
    "Settled",
    "Skipped",
    "SparseHeadClassifier",
    "Specialised",
    "Spread",
    "Study",
    "StudyLike",
    "SubspectError",
    "Supports",
    "Swapped",
    "SwappedAccuracy",
    "Term",
    "Ternary",
    "Tradeoff",
    "TradeoffPoint",
    "Trained",
    "Trend",
    "Trusted",
    "Verified",
    "Where",
    "WithoutCue",
    "cards",
    "check",
    "compare",
    "cues",
    "decompose",
    "decompose_by_file",
    "decompose_each",
    "depth",
    "diff",
    "doctor",
    "edit",
    "engine",
    "essentiality",
    "evaluate",
    "explain",
    "export",
    "export_features",
    "filters",
    "from_features",
    "geometry",
    "load_decomposition",
    "load_network",
    "memory_limit",
    "name_features",
    "observe",
    "open_images",
    "open_study",
    "read_maps",
    "retrain",
    "run",
    "selectivity",
    "specialise",
    "tradeoff",
    "verify",
    "write_report",
]

"""Which few features decide each class of a trained image classifier?

::

    network = subspect.Network(model, preprocessing=subspect.Preprocessing(resize=256, crop=224, mean=…, std=…))
    study = subspect.observe(network, "images/train", "study")
    subspect.observe(network, "images/test", "study", "test")
    decomposition = study.decompose(k=5)
    decomposition.evaluate()
    decomposition.compare("cat", "dog")
    decomposition.explain(network, "cat.jpg").plot()
    decomposition.report("report.html", network=network)
    small = decomposition.apply(model)

Methods are thin: each is the function of its name, ``subspect.compare(study, decomposition, first="cat", second="dog")``.
"""

from importlib.util import find_spec

import lazy_loader

__version__ = "0.2.0"

# What is imported, and from where, stands in __init__.pyi; each is loaded when it is first asked for.
__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)
if find_spec("sklearn") is None:  # so that `from subspect import *` and help() pass by what needs it
    __all__.remove("SparseHeadClassifier")


def __dir__() -> list[str]:
    return list(__all__)

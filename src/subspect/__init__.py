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

import lazy_loader

__version__ = "0.1.0.dev0"

# What is imported, and from where, stands in __init__.pyi; each is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""From where on something is a finding: every number of every check, in one place.

Losses and pulls of cues are in median margins, shares from 0 to 1. Of a figure with a 95 % interval, it is the end nearer to
nothing that must reach the threshold: what chance may have made is no finding.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rests:
    """What a class must lose when a cue is swapped, and by how much others given the cue must move towards it."""

    loss: float
    pull: float


CORNER = Rests(0.4, 0.4)  # a corner holds a sixteenth of the image: no class should need it
BORDER = Rests(1.0, 0.5)  # half of the image: objects reach into it
COLOUR = Rests(1.2, 0.1)  # many classes have a colour of their own, and lose some margin without it
TONES = Rests(0.6, 0.6)  # brightness, contrast: a dim copy of any image is harder, but doesn't pull towards a class
GRAIN = Rests(
    0.75, 0.0
)  # the finest frequencies: noise of a camera or a file; on tiny images also the things themselves
TEXTURE = Rests(2.0, 1.5)  # amplitudes of all frequencies: they also hold sizes and outlines, on which classes may rest
OVER_CENTRE = 1.0  # times the loss by the centre that the loss by the border must be above
GRAIN_OVER_LAYOUT = 1.0  # times the loss by the layout that the loss by the grain must be above
TEXTURE_OVER_LAYOUT = 1.5  # likewise by the texture
EDGE = 0.3  # of a feature's variance that the border or a corner must explain
EDGE_OVER_CENTRE = (
    3.0  # times what the centre explains of it: where objects fill the image, many features see their edge
)

ALONE = 0.8  # of the positive mean contribution, by one feature: with the rest gone the class mostly stays
UNSTABLE = 0.5  # of redrawn samples: below, another sample would rather have led to another feature
SUBSTITUTE = 0.95  # of a feature's worth that another makes good: what is left is noise
MANY = 3.0  # times the median number of features

SHARED = 0.5  # Jaccard index of two classes' features: of three features in all, more than one in both at k = 2
CONFUSED = 0.05  # of the images of one class
CONFUSED_IMAGES = 2  # one image alone is no habit

APART = 0.10  # of accuracy, between two image sets
MISCALIBRATED = 0.05  # expected calibration error, beyond what chance makes of so many images
BETTER = 0.05  # of accuracy, with the images prepared in another way
PREPARED = 64, 256  # images that are prepared in other ways, in a moment; and where a way looks better, to be sure
SUSPECTS = 0.01  # of the images
SUSPECT_IMAGES = 10  # that many are worth a look, of however many images
LISTED = 20  # ids of suspects

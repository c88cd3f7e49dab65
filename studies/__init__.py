"""Studies with derivatives: one file a study, registered when this is imported."""

from studies import (
    activations,
    from_scratch,
    image_ascent,
    initialisation,
    isometry,
    layers,
    least_squares,
    pinn,
    probabilities,
    published,
    regression,
    representation,
    saturation,
)
from studies.study import STUDIES, Options, Row, Study, find_study, read, run

__all__ = [
    "STUDIES",
    "Options",
    "Row",
    "Study",
    "activations",
    "find_study",
    "from_scratch",
    "image_ascent",
    "initialisation",
    "isometry",
    "layers",
    "least_squares",
    "pinn",
    "probabilities",
    "published",
    "read",
    "regression",
    "representation",
    "run",
    "saturation",
]

"""Studies with derivatives: one file a study, registered when this is imported."""

from studies import (
    from_scratch,
    image_ascent,
    initialisation,
    isometry,
    layers,
    least_squares,
    pinn,
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
    "find_study",
    "from_scratch",
    "image_ascent",
    "initialisation",
    "isometry",
    "layers",
    "least_squares",
    "pinn",
    "published",
    "read",
    "regression",
    "representation",
    "run",
    "saturation",
]

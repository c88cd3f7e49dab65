"""What derivatives show: one file a study, registered when this is imported."""

from studies import isometry, least_squares, pinn, representation
from studies.study import STUDIES, Options, Row, Study, find_study, read, run

__all__ = ["STUDIES", "Options", "Row", "Study", "find_study", "isometry", "least_squares", "pinn", "read", "representation", "run"]

"""Studies with derivatives: one file a study, registered when this is imported."""

from importlib import import_module
from pkgutil import iter_modules

from studies.study import STUDIES, Options, Row, Study, Tables, find_study, read, run

__all__ = ["STUDIES", "Options", "Row", "Study", "Tables", "find_study", "read", "run"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

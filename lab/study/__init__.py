"""Studies: a grid of trainings, evaluated in many variants, with one result file for each cell of the grid."""

from lab.study.grid import Cell, Study, load_study
from lab.study.run import run_studies, run_study

__all__ = ["Cell", "Study", "load_study", "run_studies", "run_study"]

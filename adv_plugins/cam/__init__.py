"""Class activation maps over time (TAF): their equations, their layer, and the objective."""

from .layer import CamLayer, cam_layer_of
from .objective import FeatureObjective, TemporalCAM

__all__ = ['CamLayer', 'FeatureObjective', 'TemporalCAM', 'cam_layer_of']

"""The parts of the studies: data, nets, training, measurements, statistics and results."""

# First of all: it repairs the imports of MMAction2, which the nets use.
import adv_plugins  # noqa: F401

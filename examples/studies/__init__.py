"""The parts of the studies: data, nets, training, measurements, statistics and results."""

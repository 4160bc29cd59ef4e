"""Ways to compute a network's scores: as a graph in the runtimes that are installed."""

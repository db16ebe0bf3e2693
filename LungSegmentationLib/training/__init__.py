"""How a network learns from a prepared cohort: losses, slices, schedule, trainer, checkpoints."""

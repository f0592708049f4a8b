"""How fast and how right the solvers are: timing beside others, a training trajectory, and a long stress run."""

"""Whether methods reach the Pareto set of problems whose answer is known, and how far they go for it."""

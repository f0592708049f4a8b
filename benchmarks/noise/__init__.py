"""What mini-batches' noise hides from a solve, and what helps, on problems whose answer is known."""

"""Training around pruning: schedules, a loop, sparse training, sensitivity."""

"""What every backend shares: the training plan, schedules, checkpoints, launchers, prefetching."""

"""Shared parts of training for all backends: plan, schedules, checkpoints, launchers, prefetching."""

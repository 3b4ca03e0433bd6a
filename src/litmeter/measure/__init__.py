"""Measurement: turns of subjects, schedules of them, the one loop, and its log."""

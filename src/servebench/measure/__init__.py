"""From what was recorded to what is reported: throughput, percentiles, verdicts, telemetry."""

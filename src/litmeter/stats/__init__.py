"""Pure statistics: records of requests, rates, percentiles, intervals, stability."""

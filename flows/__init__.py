"""Floor 3: batch jobs; the only place that knows Prefect."""

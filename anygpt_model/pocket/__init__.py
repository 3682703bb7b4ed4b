"""The embedded weights, in the published layout, and their model card; data only."""

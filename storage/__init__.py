"""Floor 1: the SQL store and the media blobs. Knows no tensor and no graph."""

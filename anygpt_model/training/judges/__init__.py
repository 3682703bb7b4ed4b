"""Outside judges: models and measures that nobody here trained, one a file. A judge never sees what was intended."""

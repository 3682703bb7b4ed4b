"""What the pocket is asked and who judges the answers: one file a modality, held-out data only."""

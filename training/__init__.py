"""What made the checkpoint that ships: python -m training.train. It is in no wheel."""

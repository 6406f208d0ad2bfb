"""What the TPU compiler says of the programs."""

"""Memory and cost of our programs on TPUs, from the TPU compiler (`compile_tpu`)."""

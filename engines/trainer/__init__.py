"""LoRA training of one fine-tune job in a process of its own."""

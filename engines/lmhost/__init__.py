"""An OpenAI-compatible LM host on torch: one base model, many LoRA adapters."""

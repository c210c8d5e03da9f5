"""What each step decides, one module a step. Pure: values in, values out."""

"""Real vLLM on a real GPU: does it accept what Shoal renders, does Shoal read what it says, how fast is it?"""

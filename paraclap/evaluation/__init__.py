"""Zero-shot evaluation: prompts, embeddings, metrics, reports."""
